"""A front handed over: what is on it, what is picked, and that it can be put away."""

import json
import subprocess
import sys
from functools import partial
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import gradevo as ge
import runs
from gradevo import checkpoint, folder, shrink
from gradevo.algorithms.gemonn import GEMONN
from gradevo.distributed.placing import blocks
from gradevo.errors import CheckpointError, DivergedError
from gradevo.folder import Checkpoint, RunFolder, Saved
from gradevo.forms import anything
from gradevo.frontfile import FrontFile
from gradevo.models import mlp
from gradevo.names import RESULT as FILE
from gradevo.nondominated import front_of
from gradevo.operators import pareto
from gradevo.problem import Problem
from gradevo.showing import table
from gradevo.structure import stack
from problems import make_problem

VALID = runs.rows(40)


def fit(where=None, *, slice_seconds=600.0, train=None, build=runs.net, **changes) -> ge.Front:
    """A small run; a slice of no length is one step, and every step is saved."""
    search = changes.pop("make", GEMONN)
    own = {"steps": 6} if search is GEMONN else {}
    setting = {"population": 8, "generations": 12, "batch_size": 16, "lr": 1e-2, **own, **changes}
    with mock.patch("gradevo.run.Problem", partial(Problem, slice_seconds=slice_seconds)):
        return ge.fit(
            search(**setting),
            build,
            F.cross_entropy if train is None else F.mse_loss,
            train or runs.rows(),
            valid=train or VALID,
            engine="loop",
            checkpoint=None if where is None else Checkpoint(where, seconds=0.0),
        )


def bits(front: ge.Front):
    """Everything of a front, to compare bit for bit."""
    shown = front.points
    tensors = {**front.members.tensors, "losses": shown.losses, "nonzeros": shown.nonzeros}
    tensors |= {f"other {name}": values for name, values in shown.others.items()}
    if shown.accuracies is not None:
        tensors["accuracies"] = shown.accuracies
    numbers = {name: t.numpy().tobytes() for name, t in tensors.items()}
    return {**numbers, "history": front.history, "steps": front.member_steps}


@pytest.fixture(scope="module")
def front() -> ge.Front:
    return fit(generations=25, steps=15)


# --- from a run ----------------------------------------------------------------------------


def test_fit_hands_over_a_front_sparsest_first_of_which_no_member_dominates_another(front):
    assert type(front) is ge.Front
    assert len(front) == len(front.members) == len(front.rows) > 2
    assert front.points.nonzeros.tolist() == sorted(front.points.nonzeros.tolist())
    both = torch.stack([front.points.densities, front.points.losses], dim=1)
    assert int(pareto.fronts(both).max()) == 0
    assert front.member_steps == front.history[-1]["member_steps"] >= 25 * 15
    assert front.engine == "loop"


def test_its_numbers_are_those_of_its_networks_on_all_validation_rows():
    front = fit(validation_batch=5)
    x, y = VALID
    for i, row in enumerate(front.rows):
        network = front.members.member(i).eval()
        output = network(x)
        weights = [p for p in network.parameters() if p.dim() > 1]
        assert row["nonzeros"] == sum(int((w != 0).sum()) for w in weights)
        assert row["density"] == row["nonzeros"] / (6 * 12 + 12 * 3)
        assert row["sparsity"] == pytest.approx(1 - row["density"])
        assert row["loss"] == pytest.approx(F.cross_entropy(output, y).item(), abs=1e-6)
        assert row["accuracy"] == pytest.approx((output.argmax(1) == y).double().mean().item())


def test_picked_networks_are_ordinary_modules_in_eval_mode_with_the_numbers_of_the_pick(front):
    for network, i in (
        (front.knee, front.points.knee),
        (front.best(), front.points.best()),
        (front.best(min_sparsity=0.5), front.points.best(0.5)),
        (front.sparsest(), 0),
        (front.sparsest(max_loss=2.0), front.points.sparsest(2.0)),
    ):
        assert type(network) is nn.Sequential
        assert network.state_dict().keys() == runs.net().state_dict().keys()
        assert not any(part.training for part in network.modules())
        loss = F.cross_entropy(network(VALID[0]), VALID[1]).item()
        assert loss == pytest.approx(front.rows[i]["loss"], abs=1e-6)


def test_a_picked_network_is_its_own(front):
    before = bits(front)
    for network in (front.knee, front.best(), front.sparsest()):
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.zero_()
    assert bits(front) == before
    assert front.best()[0].weight.any()


def test_a_picked_network_can_be_made_smaller_and_stored_without_its_zeros(front, tmp_path):
    network, x = front.sparsest(), VALID[0]
    assert torch.allclose(shrink.compact(network, x)(x), network(x), atol=1e-5)
    shrink.save(network, tmp_path / "network")
    assert torch.equal(shrink.load(tmp_path / "network", runs.net).eval()(x), network(x))


def test_a_front_is_shown_as_its_numbers_are(front, tmp_path):
    assert front.table() == table(front.points)
    assert front.table(most=4) == table(front.points, 4)
    front.plot(str(tmp_path / "front.png"))
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_no_soup_is_cooked_for_a_front(monkeypatch):
    monkeypatch.setattr("gradevo.run.greedy_soup", None)
    assert len(fit(generations=2)) > 0


def test_a_regression_has_no_accuracy(tmp_path):
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    front = fit(train=(x, x[:, :1]), build=mlp(6, 8, 1), generations=4)
    assert all(row["accuracy"] is None for row in front.rows)
    front.save(tmp_path)
    assert bits(ge.Front.load(tmp_path, mlp(6, 8, 1))) == bits(front)
    assert "accuracy" not in front.table()


def test_the_papers_search_hands_over_a_front_as_well():
    front = fit(make=GEMONN.paper, generations=3, fine_tune=4)
    assert len(front) > 0
    loss = F.cross_entropy(front.best()(VALID[0]), VALID[1]).item()
    assert loss == pytest.approx(front.points.losses.min().item(), abs=1e-6)


def test_other_objectives_are_in_the_rows_by_name(tmp_path):
    def units(network):
        return int(network[0].weight.any(dim=1).sum())

    own = (lambda network: 1.0, lambda network: 2.0, partial(units))
    front = fit(objectives=("loss", "density", "flops", units, *own), generations=3)
    names = ["flops", "units", "<lambda>", "<lambda> 2", "partial"]
    assert list(front.rows[0])[5:] == names
    for i, row in enumerate(front.rows):
        assert row["units"] == row["partial"] == units(front.members.member(i))
        assert row["flops"] == row["nonzeros"]
        assert (row["<lambda>"], row["<lambda> 2"]) == (1.0, 2.0)
    front.save(tmp_path)
    assert ge.Front.load(tmp_path, runs.net).rows == front.rows


def test_a_run_that_a_callback_ends_hands_over_what_there_is():
    algorithm = GEMONN(population=4, generations=50, steps=2, batch_size=16)
    arguments = algorithm, runs.net, F.cross_entropy, runs.rows()
    front = ge.fit(*arguments, valid=VALID, callbacks=[lambda info: info["generation"] == 3])
    assert len(front.history) == 3
    assert len(front) > 0


def test_one_member_may_be_all_there_is_and_none_is_named():
    problem = make_problem(mlp(4, 8, 3))
    tensors = stack([problem.population.member(i) for i in range(4)])
    for i in (0, 1, 3):
        tensors["0.weight"][i] = torch.nan
    front = front_of(problem, ("density", "loss"), tensors, blocks(4, 1), [])
    assert len(front) == 1
    assert torch.equal(front.knee[0].weight, front.best()[0].weight)
    assert front.points.knee == front.points.best() == front.points.sparsest() == 0
    tensors["0.weight"][2] = torch.nan
    with pytest.raises(DivergedError, match=r"loss: must be finite .* NaN or infinity for all 4"):
        front_of(problem, ("density", "loss"), tensors, blocks(4, 1), [])


# --- on the disk ---------------------------------------------------------------------------


def test_a_saved_front_comes_back_bit_for_bit(front, tmp_path):
    front.save(tmp_path / "new" / "folder")
    back = ge.Front.load(tmp_path / "new" / "folder", runs.net)
    assert bits(back) == bits(front)
    assert back.rows == front.rows
    assert torch.equal(back.knee(VALID[0]), front.knee(VALID[0]))
    assert not back.knee.training
    history = json.loads((tmp_path / "new" / "folder" / "history.json").read_text())
    assert len(history) == 25


def test_a_front_in_double_precision_comes_back_in_it(tmp_path):
    x = torch.randn(60, 6, dtype=torch.float64)
    front = fit(train=(x, x[:, :2]), build=lambda: nn.Linear(6, 2).double(), generations=2)
    front.save(tmp_path)
    assert bits(ge.Front.load(tmp_path, lambda: nn.Linear(6, 2))) == bits(front)


def test_a_front_and_a_result_are_not_taken_for_each_other(front, tmp_path):
    front.save(tmp_path / "front")
    runs.fit(generations=1).save(tmp_path / "result")
    with pytest.raises(CheckpointError, match=r"must hold a Result.*Front\.load"):
        ge.Result.load(tmp_path / "front", runs.net)
    with pytest.raises(CheckpointError, match=r"must hold a front, got .* another method"):
        ge.Front.load(tmp_path / "result", runs.net)


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_a_front_that_is_missing_or_damaged_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=FILE):
        ge.Front.load(tmp_path, runs.net)


def test_another_architecture_than_the_saved_one_is_refused(front, tmp_path):
    front.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"build: .* architecture saved in .*weight"):
        ge.Front.load(tmp_path, lambda: nn.Linear(6, 3))


class Tied(nn.Module):
    """One matrix in two places, a buffer that is kept and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6, bias=False)
        self.again = nn.Linear(6, 6, bias=False)
        self.again.weight = self.inner.weight
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("passing", torch.tensor(1.0), persistent=False)

    def forward(self, x):
        return self.again(self.inner(x).relu())[:, :3] * self.scale * self.passing


@pytest.mark.parametrize("build", [runs.net, Tied])
def test_a_network_in_a_file_has_the_state_dict_of_its_module(build, tmp_path):
    front = fit(build=build, generations=3)
    front.save(tmp_path)
    file, i = FrontFile.read(tmp_path), front.points.best()
    file.write_network(i, tmp_path / "network.safetensors")
    state = load_file(tmp_path / "network.safetensors")
    expected = front.best().state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
    network = build().eval()
    network.load_state_dict(state)
    assert torch.equal(network(VALID[0]), front.best()(VALID[0]))


# --- going on ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [GEMONN, partial(GEMONN.paper, fine_tune=3)])
def test_every_checkpoint_of_a_run_leads_to_the_same_front(make, tmp_path, monkeypatch):
    files, save = [], RunFolder.save

    def keep(self, saved):
        save(self, saved)
        files.append(self.path.read_bytes())

    small = {"generations": 3, "population": 4, "slice_seconds": 0.0, "make": make}
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", keep)
        whole = fit(tmp_path / "whole", **small)
    assert len(files) >= 6
    for i, content in enumerate(files):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / folder.FILE).write_bytes(content)
        assert bits(fit(tmp_path / str(i), **small)) == bits(whole), f"checkpoint {i}"


def test_a_run_that_plans_its_generations_is_not_made_longer_or_shorter(tmp_path):
    fit(tmp_path, generations=3)
    before = (tmp_path / folder.FILE).read_bytes()
    for generations in (2, 4):
        with pytest.raises(CheckpointError, match=f"generations is 3 .* and {generations} here"):
            fit(tmp_path, generations=generations)
    assert (tmp_path / folder.FILE).read_bytes() == before
    assert bits(fit(tmp_path, generations=3)) == bits(fit(generations=3))


def test_saving_at_the_ends_of_short_generations_takes_a_tenth_of_the_time_at_most(
    tmp_path, monkeypatch
):
    now, slow = 0.0, 2.0

    def write(path, value):
        nonlocal now
        now += slow

    monkeypatch.setattr(folder.time, "monotonic", lambda: now)
    monkeypatch.setattr(checkpoint, "write", write)
    place = RunFolder(Checkpoint(tmp_path, seconds=60.0), {}, lambda ranks, own: anything)
    saved = 0
    for _ in range(1000):  # generations of a second
        now += 1.0
        if place.due(ended=True):
            place.save(Saved(None, [], "loop"))
            saved += 1
    assert saved == 50
    assert not place.due(ended=False)
    slow = 1e-3
    place.save(Saved(None, [], "loop"))
    now += 1.0
    assert place.due(ended=True)  # long ones are all saved
    now += 59.0
    assert place.due(ended=False)


def test_the_end_of_a_run_is_saved_however_short_it_was(tmp_path):
    algorithm = GEMONN(population=4, generations=30, steps=1, batch_size=16)
    arguments = algorithm, runs.net, F.cross_entropy, runs.rows()
    whole = ge.fit(*arguments, valid=VALID, engine="loop", checkpoint=tmp_path)
    assert len(checkpoint.read(tmp_path / folder.FILE)["history"]) == 30
    again = ge.fit(*arguments, valid=VALID, engine="loop", checkpoint=tmp_path)
    assert bits(again) == bits(whole)


def test_the_front_door_has_it_and_reading_one_needs_no_matplotlib():
    code = (
        "import sys; import gradevo as ge; ge.Front; import gradevo.showing\n"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
