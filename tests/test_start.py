"""A population that begins with what is there."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

import gradevo as ge
from gradevo.cli import main
from gradevo.models import mlp

X = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
DATA = X, X[:, :1]
BUILD = mlp(4, 6, 1)
LADDER = partial(ge.GEMONN, steps=1)
STILL = ge.GADAM(population=4, generations=1, steps=1, batch_size=16, lr=0.0, weight_decay=0.0)


def members_of(start: object, size: int = 4, seed: int = 0) -> ge.Population:
    population = ge.Population(BUILD, size)
    ge.Start.of(start).into(population, generator=torch.Generator().manual_seed(seed))  # type: ignore
    return population


def same(a: nn.Module, b: nn.Module) -> bool:
    states = a.state_dict(), b.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_first_members_are_the_networks_and_the_others_their_variations() -> None:
    networks = [BUILD(), BUILD()]
    population = members_of(networks, 6)
    assert [same(population.member(i), networks[i]) for i in (0, 1)] == [True, True]
    for i in range(2, 6):
        near, far = networks[i % 2], networks[(i + 1) % 2]
        mine = population.member(i)[0].weight
        assert 0 < (mine - near[0].weight).norm() < (mine - far[0].weight).norm()
    assert not same(population.member(2), population.member(4))


def test_noise_is_a_share_of_each_tensors_root_mean_square() -> None:
    wide = nn.Linear(200, 200)
    with torch.no_grad():
        wide.weight.normal_(std=3.0, generator=torch.Generator().manual_seed(0))
    population = ge.Population(lambda: nn.Linear(200, 200), 2)
    ge.Start(wide, noise=0.2).into(population, generator=torch.Generator())
    change = (population.member(1).weight - wide.weight).detach()
    assert float(change.std()) == pytest.approx(0.6, rel=0.02)


def test_dropout_zeroes_that_share_of_the_weights_and_leaves_the_others() -> None:
    trained = nn.Linear(200, 200)
    population = ge.Population(lambda: nn.Linear(200, 200), 3)
    ge.Start(trained, noise=0.0, dropout=0.3).into(population, generator=torch.Generator())
    zeros = population.member(1).weight == 0
    assert float(zeros.double().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(population.member(1).weight[~zeros], trained.weight[~zeros])
    assert torch.equal(population.member(2).bias, trained.bias)


def test_the_sources_are_not_touched_and_random_numbers_are_an_argument() -> None:
    trained, before = BUILD(), torch.get_rng_state()
    kept = {name: t.clone() for name, t in trained.state_dict().items()}
    first, again, other = members_of(trained), members_of(trained), members_of(trained, seed=1)
    assert torch.equal(first.flat, again.flat) and not torch.equal(first.flat, other.flat)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(kept[name], t) for name, t in trained.state_dict().items())


def test_files_of_state_dicts_are_read_whoever_wrote_them(tmp_path: Path) -> None:
    networks = [BUILD(), BUILD()]
    torch.save(networks[0].state_dict(), tmp_path / "a.pt")
    save_file(networks[1].state_dict(), tmp_path / "b.safetensors")
    population = members_of([tmp_path / "a.pt", str(tmp_path / "b.safetensors")])
    assert [same(population.member(i), networks[i]) for i in (0, 1)] == [True, True]
    assert same(members_of(networks[0].state_dict()).member(0), networks[0])


def test_fit_begins_there_and_a_member_that_cannot_learn_stays_there() -> None:
    trained = BUILD()
    result = ge.fit(STILL, BUILD, nn.MSELoss(), DATA, start=ge.Start(trained, noise=0.0))
    assert all(same(result.members.member(i), trained) for i in range(4))


def test_a_result_its_folder_and_a_front_start_another_run_with_their_best(tmp_path: Path) -> None:
    former = ge.fit(STILL, BUILD, nn.MSELoss(), DATA, engine="loop")
    former.save(tmp_path / "former")
    for start in (former, tmp_path / "former"):
        population = members_of(start, 3)
        assert all(same(population.member(i), former.members.member(i)) for i in range(3))
    algorithm = ge.GEMONN(population=4, generations=4, steps=3, batch_size=16)
    front = ge.fit(algorithm, BUILD, nn.MSELoss(), DATA)
    assert same(members_of(front, 1).member(0), front.best())


def test_a_run_goes_on_only_from_the_same_start(tmp_path: Path) -> None:
    trained = BUILD()

    def run(start: object, generations: int) -> ge.Result:
        algorithm = ge.GADAM(population=2, generations=generations, steps=3, batch_size=16)
        place = {"checkpoint": tmp_path, "engine": "loop"}
        return ge.fit(algorithm, BUILD, nn.MSELoss(), DATA, start=start, **place)  # type: ignore

    run(trained, 1)
    resumed = run(trained, 2)
    assert len(resumed.history) == 2
    for other in (None, BUILD(), ge.Start(trained, noise=0.2)):
        with pytest.raises(ge.CheckpointError, match="must be of the same run, but start"):
            run(other, 2)


def test_the_command_starts_from_a_former_run(tmp_path: Path) -> None:
    short = ["--steps", "4", "--population", "2", "--generations", "1", "--engine", "loop"]
    main(["train", "iris", *short, "--out", str(tmp_path / "a")])
    start = ["--start", str(tmp_path / "a")]
    main(["train", "iris", *short, *start, "--lr", "0", "--out", str(tmp_path / "b")])
    results = [ge.Result.load(tmp_path / name, mlp(4, 64, 3)) for name in "ab"]
    assert results[1].losses[0] <= results[0].losses[0]


REFUSED = {
    "no network": ([], ValueError, "at least one network, got none"),
    "too many": ([BUILD() for _ in range(5)], ValueError, r"as there are members \(4\), got 5"),
    "another architecture": (mlp(4, 5, 1)(), ValueError, "must give one architecture"),
    "another state dict": (mlp(4, 5, 1)().state_dict(), ValueError, "size mismatch"),
    "a number": (3, TypeError, "got int"),
    "no such file": ("nowhere.pt", ge.CheckpointError, "No such file .* for nowhere.pt"),
    "the same twice": ([ONE := BUILD(), ONE, 7], TypeError, "got int"),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_is_no_start_is_refused_with_its_reason(what: str) -> None:
    start, kind, message = REFUSED[what]
    with pytest.raises(kind, match=message):
        members_of(start)


def test_damaged_files_and_unfinished_runs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "run").mkdir()
    with pytest.raises(ge.CheckpointError, match=r"readable file of a state dict, .*cut"):
        members_of(tmp_path / "cut.safetensors")
    with pytest.raises(TypeError, match="a state dict, got list in"):
        members_of(tmp_path / "list.pt")
    with pytest.raises(ge.CheckpointError, match=r"a finished run, got .* without result"):
        members_of(tmp_path / "run")
    for name, value in (("noise", -1.0), ("dropout", 1.5)):
        with pytest.raises(ValueError, match=f"{name}: must .*, got {value}"):
            ge.Start(BUILD(), **{name: value})


def test_a_front_starts_with_its_lowest_losses_not_its_sparsest(tmp_path: Path) -> None:
    algorithm = ge.GEMONN(population=8, generations=20, steps=5, batch_size=16)
    front = ge.fit(algorithm, BUILD, nn.MSELoss(), DATA)
    front.save(tmp_path)
    for start in (front, tmp_path):
        assert same(members_of(start, 2).member(0), front.best())


@pytest.mark.parametrize("algorithm", [LADDER, ge.GEMONN.paper], ids=["ladder", "paper"])
def test_a_front_is_no_worse_than_the_network_it_starts_from(algorithm) -> None:
    valid = X[:20], X[:20, :1]
    data = X[20:], X[20:, :1]
    learning = {"steps": 200, "batch_size": 16, "lr": 1e-2}
    trained = ge.fit(ge.Independent(population=1, **learning), BUILD, nn.MSELoss(), data).best
    before = float(nn.MSELoss()(trained(valid[0]), valid[1]).detach())
    config = algorithm(population=4, generations=4, lr=1e-6, batch_size=16)
    front = ge.fit(config, BUILD, nn.MSELoss(), data, valid=valid, start=trained)
    assert float(front.points.losses.min()) <= before * (1 + 1e-5)


def test_tied_weights_may_be_in_a_file_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3, bias=False)
            self.second = nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    trained = Tied()
    save_model(trained, str(tmp_path / "tied.safetensors"))
    population = ge.Population(Tied, 1)
    start = ge.Start(tmp_path / "tied.safetensors")
    start.into(population, generator=torch.Generator())
    assert same(population.member(0), trained)


def test_a_whole_pickled_module_is_refused_with_what_to_save(tmp_path: Path) -> None:
    torch.save(BUILD(), tmp_path / "whole.pt")
    with pytest.raises(ge.CheckpointError, match=r"save model.state_dict\(\) instead"):
        members_of(tmp_path / "whole.pt")
