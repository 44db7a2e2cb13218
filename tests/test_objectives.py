"""Objectives: numbers that a member is compared by, against ones counted by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gradevo.learning import clone
from gradevo.models import LeNet5, mlp
from gradevo.objectives import check, columns, places
from gradevo.operators.masks import drawn, full, masked, prunable
from gradevo.problem import Problem
from gradevo.randomness import generator_from
from modules import ZOO, Tied
from problems import Everything, make_problem

SHARES = torch.tensor([0.1, 0.5, 1.0])
COUNTED = ("density", "flops", "bytes")


def problem_of(build, row, loss=F.cross_entropy, dtype=torch.float32, size=3):
    x = torch.randn(12, *row, generator=generator_from(0)).to(dtype)
    y = x if loss is F.mse_loss else torch.arange(12) % 3
    return make_problem(build, loss, size=size, rows=(x, y), dtype=dtype)


def sparse(problem, shares=SHARES, seed=0):
    """The problem's members with fewer weights, and their masks."""
    tensors = clone(problem.population.tensors)
    names = prunable(tensors, problem.population.structure.trainable)
    masks = drawn(tensors, names, shares, generator_from(seed))
    return masked(tensors, masks), masks


def measured(problem: Problem, objectives, tensors, masks, rows=None):
    """A list of numbers an objective."""
    losses = problem.evaluate(tensors, rows)
    for leftover in problem.population.tensors.values():
        leftover.zero_()  # nothing of the workplace is used
    found = columns(problem, objectives, tensors, masks, losses, rows)
    assert found.dtype == torch.float64
    return found.T.tolist()


# --- against numbers by hand ---------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.float64, 8)])
def test_a_perceptron_counts_as_by_hand(dtype, size):
    problem = problem_of(mlp(4, 8, 3), (4,), dtype=dtype)  # 32 + 24 weights, 8 + 3 biases
    tensors, masks = sparse(problem)
    there = [sum(int((tensors[n][i] != 0).sum()) for n in masks) for i in range(3)]
    assert there[2] == 56 > there[1] > there[0] > 0
    density, flops, weights = measured(problem, COUNTED, tensors, masks)
    assert density == [n / 56 for n in there]
    assert flops == there
    assert weights == [size * (n + 11) for n in there]


def test_frozen_numbers_and_scales_have_their_bytes_and_statistics_none():
    problem = make_problem(Everything, size=3)
    tensors, masks = sparse(problem)
    there = [sum(int(mask[i].sum()) for mask in masks.values()) for i in range(3)]
    always = (6 + 6 + 6) + 3 + 1 + 3  # biases and the norm's scale, a bias, scale, shift
    assert measured(problem, ("bytes",), tensors, masks) == [[4 * (n + always) for n in there]]


def test_a_convolution_uses_a_weight_once_a_pixel():
    problem = problem_of(LeNet5, (1, 28, 28))
    tensors, masks = sparse(problem)
    density, flops, weights = measured(problem, COUNTED, tensors, masks)
    pixels = {"features.0.weight": 28 * 28, "features.3.weight": 10 * 10}
    for i in range(3):
        there = {name: int(mask[i].sum()) for name, mask in masks.items()}
        assert density[i] == sum(there.values()) / 61470
        assert flops[i] == sum(n * pixels.get(name, 1) for name, n in there.items())
        assert weights[i] == 4 * (sum(there.values()) + 236)


class TiedByHand(nn.Module):
    """One matrix, used a second time the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 3)
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return F.linear(self.encoder(x).sigmoid(), self.encoder.weight.t(), self.bias)


class Again(nn.Module):
    """A layer that is called three times, and one that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.spare = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(self.layer(x)))


class Tokens(nn.Module):
    """A dense layer on every one of 5 places, and a transposed convolution over them."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(2, 4)
        self.wider = nn.ConvTranspose1d(4, 1, 3)

    def forward(self, x):
        return self.wider(self.dense(x).transpose(1, 2)).flatten(1)


def lstm(**options):
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 5, batch_first=True, **options)

        def forward(self, x):
            return self.lstm(x)[0][:, -1]

    return Sequence


USES = {
    "tied": (Tied, (4,), F.mse_loss, {"encode.weight": 2}),
    "tied by hand": (TiedByHand, (6,), F.mse_loss, {"encoder.weight": 2}),
    "called again": (Again, (4,), F.cross_entropy, {"layer.weight": 3, "spare.weight": 1}),
    "at every place": (Tokens, (5, 2), F.cross_entropy, {"dense.weight": 5, "wider.weight": 5}),
    "lstm": (lstm(), (4, 3), F.cross_entropy, {"lstm.weight_ih_l0": 4, "lstm.weight_hh_l0": 4}),
    "deep lstm": (
        lstm(num_layers=2, bidirectional=True), (7, 3), F.cross_entropy,
        {f"lstm.weight_{k}_l{i}{r}": 7 for k in ("ih", "hh") for i in (0, 1)
         for r in ("", "_reverse")},
    ),
    "attention": (
        ZOO["transformer"].build, (5, 8), F.cross_entropy,
        {f"encoder.layers.{i}.{name}.weight": 5 for i in (0, 1)
         for name in ("linear1", "linear2", "self_attn.out_proj")}
        | {f"encoder.layers.{i}.self_attn.in_proj_weight": 5 for i in (0, 1)} | {"head.weight": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", USES)
def test_every_use_of_a_weight_counts(case, dtype):
    build, row, loss, uses = USES[case]
    problem = problem_of(build, row, loss, dtype, size=1)
    matrices = {n for n, t in problem.population.tensors.items() if t.dim() > 2}
    found = places(problem)
    assert {name: found[name] for name in matrices & set(found)} == uses


@pytest.mark.parametrize("case", ["mlp", "convolution", "tied", "lenet"])
def test_multiply_adds_of_a_dense_network_are_those_that_torch_counts(case):
    build, row = (LeNet5, (1, 28, 28)) if case == "lenet" else (ZOO[case].build, ZOO[case].row)
    problem = problem_of(build, row, ZOO[case].loss if case in ZOO else F.cross_entropy, size=1)
    tensors = problem.population.tensors
    masks = full(tensors, prunable(tensors, problem.population.structure.trainable))
    with FlopCounterMode(display=False) as counter:
        problem.population.member(0).eval()(problem.valid[0][:1])
    flops = columns(problem, ("flops",), tensors, masks, torch.zeros(1))
    assert float(flops) == counter.get_total_flops() / 2


def test_the_error_is_the_share_of_rows_that_are_wrong():
    class Fixed(nn.Module):
        """Answers with its own number, whatever it is asked."""

        def __init__(self) -> None:
            super().__init__()
            self.answer = nn.Parameter(torch.zeros(1, 3))

        def forward(self, x):
            return self.answer.expand(len(x), 3)

    y = torch.tensor([0] * 8 + [0, 0, 1, 2])  # the last four are for validation
    problem = make_problem(Fixed, size=3, rows=(torch.randn(12, 4), y))
    tensors = {"answer": torch.eye(3).view(3, 1, 3)}
    masks = full(tensors, tensors)
    assert measured(problem, ("error",), tensors, masks) == [[0.5, 0.75, 0.75]]
    some = torch.tensor([2, 3])
    assert measured(problem, ("error",), tensors, masks, some) == [[1.0, 0.5, 0.5]]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_a_member_with_fewer_weights_is_larger_in_nothing(seed, shares):
    problem = make_problem(size=3)
    tensors, masks = sparse(problem, torch.tensor(shares), seed)
    fewer = {name: mask & (tensors[name].abs() > 0.1) for name, mask in masks.items()}
    more = measured(problem, COUNTED, tensors, masks)
    less = measured(problem, COUNTED, masked(tensors, fewer), fewer)
    for one, other in zip(torch.tensor(less), torch.tensor(more), strict=True):
        assert (one <= other).all()


# --- functions of a module -----------------------------------------------------------------


def test_a_function_gets_each_member_as_an_ordinary_module_that_is_evaluated():
    problem = make_problem(Everything, size=3)
    tensors, masks = sparse(problem)
    seen = []

    def zeros(module):
        assert type(module) is Everything
        assert not any(part.training for part in module.modules())
        assert not torch.is_grad_enabled()
        seen.append({name: t.clone() for name, t in module.state_dict().items()})
        for parameter in module.parameters():
            parameter.data.fill_(7.0)  # its own copy, to spoil as it likes
        return torch.tensor(float(len(seen)))

    found = measured(problem, ("density", zeros, "loss"), tensors, masks)
    assert found[1] == [1.0, 2.0, 3.0]
    assert found[2] == problem.evaluate(tensors).tolist()
    for i, state in enumerate(seen):
        assert all(torch.equal(state[name], t[i]) for name, t in tensors.items())
    assert problem.population.training


def test_a_function_may_draw_and_draws_the_same_and_touches_no_global_state():
    problem = make_problem(size=3)
    tensors, masks = sparse(problem)
    before = torch.get_rng_state()
    noisy = [
        measured(problem, ("loss", lambda module: torch.rand(()).item()), tensors, masks)[1]
        for _ in range(2)
    ]
    assert noisy[0] == noisy[1]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["density", "loss", "error", "flops", "bytes"])
def test_objectives_change_nothing_and_touch_no_global_state(name):
    problem = make_problem(Everything, size=3)
    tensors, masks = sparse(problem)
    kept = {n: t.clone() for n, t in tensors.items()}
    before = torch.get_rng_state()
    one, other = (measured(problem, ("density", name), tensors, masks) for _ in range(2))
    assert one == other
    assert all(map(math.isfinite, one[1]))
    assert all(torch.equal(tensors[n], kept[n]) for n in kept)
    assert torch.equal(before, torch.get_rng_state())
    assert problem.population.training


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize("objectives", [(), ("loss",), (len,)])
def test_fewer_than_two_objectives_are_refused(objectives):
    with pytest.raises(ValueError, match=r"^objectives: must be at least two, got "):
        check(objectives)


@pytest.mark.parametrize("name", ["sparsity", "", 3, None])
def test_an_unknown_objective_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^objectives: must be one of density, .*got {name!r}$"):
        check(("loss", name))
