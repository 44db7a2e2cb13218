"""What a run hands over, and that it can be put away and taken out again."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import cross_entropy

import gradevo as ge
import runs
from gradevo.batches import TensorSource
from gradevo.errors import CheckpointError
from gradevo.names import RESULT as FILE
from gradevo.problem import Problem
from gradevo.soup import greedy_soup

VALID = runs.rows(40)


@pytest.fixture(scope="module")
def result() -> ge.Result:
    return runs.fit("tensors", population=4, steps=20)


def regression() -> ge.Result:
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    algorithm = ge.GADAM(population=3, generations=1, steps=10, batch_size=8)
    pair = x, x[:, :2]
    return ge.fit(algorithm, lambda: nn.Linear(5, 2), F.mse_loss, pair, valid=pair, engine="loop")


def test_best_is_an_ordinary_module_whose_validation_loss_is_the_first(result):
    best = result.best
    assert type(best) is nn.Sequential
    assert best.state_dict().keys() == runs.net().state_dict().keys()
    assert not any(part.training for part in best.modules())
    x, y = VALID
    assert cross_entropy(best(x), y).item() == pytest.approx(result.losses[0].item(), abs=1e-6)
    best[0].weight.data.zero_()
    assert result.best[0].weight.any()  # the result has its own


def test_members_are_a_population_best_first_with_their_losses(result):
    assert isinstance(result.members, ge.Population)
    assert result.losses.tolist() == sorted(result.losses.tolist())
    x, y = VALID
    outputs = result.members(x)
    for output, loss in zip(outputs, result.losses, strict=True):
        assert cross_entropy(output, y).item() == pytest.approx(loss.item(), abs=1e-6)
    assert all(parameter.grad is None for parameter in result.members.parameters())


def test_a_result_and_a_front_are_shown_in_five_lines_and_their_points_in_one(result):
    crowd = ge.GEMONN(population=3, generations=1, steps=1, batch_size=16)
    front = ge.fit(crowd, runs.net, cross_entropy, runs.rows(), engine="loop", quiet=True)
    assert repr(result).count("\n") == repr(front).count("\n") == 4
    for found in (result, front):
        assert f"network: Sequential, {sum(p.numel() for p in runs.net().parameters())}" in repr(
            found
        )
        assert f"{found.member_steps} member-steps, engine loop" in repr(found)
    assert f"losses {result.losses[0]:.4g} to {result.losses[-1]:.4g}" in repr(result)
    assert "\n" not in repr(front.points)


def test_losses_are_on_all_validation_rows_where_the_run_compared_on_a_few():
    algorithm = ge.GADAM.paper(
        population=4, generations=2, steps=5, batch_size=16, validation_batch=3
    )
    result = ge.fit(algorithm, runs.net, cross_entropy, runs.rows(), valid=VALID, engine="loop")
    loss = cross_entropy(result.best(VALID[0]), VALID[1])
    assert loss.item() == pytest.approx(result.losses[0].item(), abs=1e-6)
    assert result.losses.tolist() == sorted(result.losses.tolist())


def test_the_ensemble_averages_probabilities_for_cross_entropy(result):
    x, _ = VALID
    members = [result.members.member(i).eval() for i in range(4)]
    mean = torch.stack([member(x).softmax(dim=1) for member in members]).mean(dim=0)
    assert torch.allclose(result.ensemble(x).exp(), mean, atol=1e-6)
    assert not result.ensemble.training


@pytest.mark.parametrize(
    ("loss", "head"),
    [
        (nn.CrossEntropyLoss(), nn.Identity),
        (nn.NLLLoss(), lambda: nn.LogSoftmax(dim=1)),
        (F.nll_loss, lambda: nn.LogSoftmax(dim=1)),
    ],
)
def test_every_form_of_cross_entropy_is_known(loss, head):
    result = runs.fit("tensors", build=lambda: nn.Sequential(runs.net(), head()), loss=loss)
    assert result.probabilities
    sums = result.ensemble(VALID[0]).exp().sum(dim=1)
    assert torch.allclose(sums, torch.ones(40), atol=1e-5)


def test_the_ensemble_averages_outputs_otherwise_and_in_their_own_precision():
    result = regression()
    x = torch.randn(7, 5)
    members = [result.members.member(i) for i in range(3)]
    mean = torch.stack([member(x) for member in members]).mean(dim=0)
    assert torch.allclose(result.ensemble(x), mean, atol=1e-6)
    logits = torch.randn(3, 6, 4, dtype=torch.float64)
    ensemble = ge.Result(**{**vars(result), "probabilities": True}).ensemble
    expected = logits.softmax(dim=2).mean(dim=0).log()
    assert (ensemble._average(logits) - expected).abs().max() < 1e-14


@pytest.mark.parametrize("seed", range(4))
def test_the_soup_is_one_module_and_never_worse_than_the_best_on_validation(seed):
    result = runs.fit("tensors", population=4, steps=20, seed=seed, generations=1)
    x, y = VALID
    assert type(result.soup) is nn.Sequential
    assert not result.soup.training
    assert cross_entropy(result.soup(x), y) <= cross_entropy(result.best(x), y) + 1e-6
    result.soup[0].weight.data.zero_()
    assert result.soup[0].weight.any()


def test_a_soup_of_one_family_is_better_than_its_members():
    """Members around one optimum: their mean is nearer to it than any of them."""
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    y = x.sum(dim=1, keepdim=True)
    pair = []
    for sign in (1.0, -1.0):
        module = nn.Linear(4, 1, bias=False)
        module.weight.data = 1.0 + sign * torch.tensor([[0.1, 0.2, -0.1, 0.3]])
        pair.append(module)
    problem = Problem(
        ge.Population.from_modules(pair, engine="loop"), F.mse_loss, TensorSource(x, y, 5), (x, y)
    )
    soup = greedy_soup(problem, problem.population.tensors, torch.zeros(2, dtype=torch.int64))
    assert torch.allclose(soup["weight"], torch.ones(1, 4), atol=1e-6)


def test_history_is_one_json_object_a_generation(result):
    assert [info["generation"] for info in result.history] == [1, 2]
    assert json.loads(json.dumps(result.history)) == result.history
    assert result.member_steps == result.history[-1]["member_steps"] > 0
    assert {"best", "mean", "losses"} <= result.history[0].keys()


# --- on the disk -------------------------------------------------------------------------------


def test_a_saved_result_comes_back_bit_for_bit(result, tmp_path):
    result.save(tmp_path / "new" / "folder")
    back = ge.Result.load(tmp_path / "new" / "folder", runs.net)
    assert runs.bits(back) == runs.bits(result)
    x = torch.randn(5, 6)
    for mine, theirs in ((result.best, back.best), (result.soup, back.soup)):
        assert torch.equal(mine(x), theirs(x))
    assert torch.equal(result.ensemble(x), back.ensemble(x))
    assert (back.engine, back.probabilities) == (result.engine, result.probabilities)


def test_a_result_in_double_precision_comes_back_in_it(tmp_path):
    def build():
        return nn.Linear(6, 3).double()

    x, y = runs.rows()
    algorithm = ge.GADAM(population=2, generations=1, steps=3, batch_size=8)
    result = ge.fit(algorithm, build, cross_entropy, (x.double(), y), engine="loop")
    result.save(tmp_path)
    for load in (build, lambda: nn.Linear(6, 3)):
        back = ge.Result.load(tmp_path, load)
        assert runs.bits(back) == runs.bits(result)


class Mixed(nn.Module):
    """Tensors of every kind of type beside the trainable ones."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.body = nn.Linear(6, 3, dtype=dtype)
        self.frozen = nn.Parameter(torch.ones(3, dtype=torch.float16), requires_grad=False)
        self.register_buffer("third", torch.tensor([1 / 3], dtype=torch.float64))
        self.register_buffer("brain", torch.ones(2, dtype=torch.bfloat16))
        self.register_buffer("steps", torch.tensor(2**53 + 1))
        self.register_buffer("on", torch.tensor([True, False]))

    def forward(self, x):
        return self.body(x.to(self.body.weight.dtype)) * self.frozen * self.third.float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_tensor_comes_back_in_its_own_type(dtype, tmp_path):
    algorithm = ge.GADAM(population=2, generations=1, steps=3, batch_size=8)
    result = ge.fit(algorithm, lambda: Mixed(dtype), cross_entropy, runs.rows(), engine="loop")
    result.save(tmp_path)
    back = ge.Result.load(tmp_path, Mixed)  # whose trainable tensors are of single precision
    for name, tensor in result.members.tensors.items():
        assert back.members.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.members.tensors[name], tensor)
    x = torch.randn(5, 6)
    for mine, theirs in ((result.best, back.best), (result.soup, back.soup)):
        assert torch.equal(mine(x), theirs(x))


def test_losses_that_are_not_finite_are_null_for_other_readers(result, tmp_path):
    history = [{"generation": 1, "losses": [1.0, float("nan")], "best": float("inf")}]
    ge.Result(**{**vars(result), "history": history}).save(tmp_path)
    text = (tmp_path / "history.json").read_text()
    assert json.loads(text) == [{"generation": 1, "losses": [1.0, None], "best": None}]


def test_another_architecture_than_the_saved_one_is_refused(result, tmp_path):
    result.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"build: .* architecture saved in .*weight"):
        ge.Result.load(tmp_path, lambda: nn.Linear(6, 3))


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_a_result_that_is_missing_or_damaged_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=FILE):
        ge.Result.load(tmp_path, runs.net)
