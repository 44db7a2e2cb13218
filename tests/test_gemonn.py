"""GEMONN: what both searches promise of a front."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fronts import BOTH, LADDER, PAPER, clean, sound, spoil, states, walked
from gradevo.algorithms import guided
from gradevo.algorithms.gemonn import GEMONN
from gradevo.errors import DivergedError
from gradevo.models import LeNet5
from gradevo.operators import masks as masking
from gradevo.operators import pareto
from gradevo.randomness import generator_from
from modules import ZOO
from problems import Everything, bits, make_problem, run, stored

# --- divergence, on either search ----------------------------------------------------------


@BOTH
@pytest.mark.parametrize("rows", [(5,), (0,), (0, 1, 3, 4, 5)])
def test_members_of_nan_are_survived(algorithm, rows):
    state, infos = run(algorithm, spoil(make_problem(Everything, size=6), *rows))
    finite = int(state.members.losses.isfinite().sum())
    assert finite == 6 if len(rows) == 1 else finite > 1
    assert all(math.isfinite(info["best"]) for info in infos)
    assert algorithm.survivors(state)[1].isfinite().tolist() == [True] * finite + [False] * (
        6 - finite
    )


@BOTH
def test_members_of_nan_alone_stop_a_run(algorithm):
    problem = spoil(make_problem(size=6), *range(6))
    for changes in ({}, {"generations": 1}):
        with pytest.raises(DivergedError, match=r"loss: must be finite .* got NaN"):
            run(replace(algorithm, **changes), problem)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_member_whose_loss_is_not_finite_is_never_a_parent_nor_on_the_front(bad):
    """Its other objectives would be the best of all."""

    def loss(output, target):
        value = F.cross_entropy(output, target)
        return value * 0 + bad if float(output.detach().abs().max()) > 1e3 else value

    problem = make_problem(loss=loss, size=6)
    problem.population.leaves["2.bias"].data[0] = 1e4  # the sparsest
    algorithm = replace(PAPER, objectives=("density", "error"), box=(10.0, 1e5))
    for state in states(algorithm, problem):
        members = state.members
        assert members.objectives.isnan().all(1).equal(~members.losses.isfinite())
        if state.generation:
            assert members.losses.isfinite().all()
        if state.children is not None:
            assert state.children.losses.isfinite().all()
        elif members.gradients is not None:
            assert (guided.breed(algorithm, problem, stored(state))[0]["2.bias"] < 1e3).all()


# --- edges of both searches ----------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("generations", [1, 2])
def test_small_and_odd_populations_and_short_runs(algorithm, size, generations):
    algorithm = replace(algorithm, population=size, generations=generations)
    state, infos = run(algorithm, make_problem(Everything, size=size))
    assert len(infos) == generations == state.generation
    assert len(state.members) == size
    assert len(infos[-1]["survivors"]) == size
    assert algorithm.survivors(state)[1].tolist() == sorted(state.members.losses.tolist())


def largest(module):
    return max(float(p.abs().max()) for p in module.parameters())


@BOTH
@pytest.mark.parametrize(
    "objectives",
    [("flops", "loss"), ("bytes", "error"), ("density", "error"), (largest, "loss"),
     ("density", "loss", "error"), ("density", "loss", lambda module: 3.0)],
    ids=["flops", "bytes", "error", "function", "three", "constant"],
)  # fmt: skip
def test_any_objectives_make_a_front(algorithm, objectives):
    algorithm = replace(algorithm, objectives=objectives)
    state, infos = run(algorithm, make_problem(size=6))
    members = state.members
    assert members.objectives.shape == (6, len(objectives))
    assert infos[-1]["objectives"] == members.objectives.tolist()
    assert infos[-1]["front"] == int((pareto.fronts(members.objectives) == 0).sum()) >= 2
    if "loss" in objectives:
        assert torch.equal(members.objectives[:, objectives.index("loss")], members.losses)
    if "density" in objectives:
        at = objectives.index("density")
        assert torch.equal(members.objectives[:, at], members.densities())


def one(module):
    return 1.0


def two(module):
    return 2.0


@BOTH
def test_constant_objectives_and_equal_members_end_a_run_like_others(algorithm):
    state, infos = run(replace(algorithm, objectives=(one, two)), make_problem(size=6))
    assert state.members.objectives.tolist() == [[1.0, 2.0]] * 6
    assert infos[-1]["front"] == 6
    problem = make_problem(size=6)
    state = algorithm.init(problem, generator_from(0))
    same = state.members.take(torch.full((6,), 5))
    state, infos = run(algorithm, problem, state=replace(state, members=same))
    assert state.members.losses.isfinite().all()
    assert len(infos) == algorithm.generations


class Biases(nn.Module):
    """Nothing that could be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.level.expand(len(x), 3)


@BOTH
def test_a_module_without_weights_is_refused_by_name(algorithm):
    with pytest.raises(ValueError, match=r"^build: must give .* weights to prune, got none$"):
        algorithm.init(make_problem(Biases, size=6), generator_from(0))


@pytest.mark.parametrize(
    ("field", "value"),
    [("population", 1), ("generations", 0), ("search", "random"), ("dense", 1.5), ("lowest", 0),
     ("lowest", 2), ("rate_power", -1.0), ("validation_batch", 0), ("crossover", "none"),
     ("index", 0.0), ("fine_tune", -1), ("steps", 0)],
)  # fmt: skip
def test_a_field_out_of_range_is_refused_by_name_rule_and_value(field, value):
    with pytest.raises(ValueError, match=rf"^{field}: must .*got {value!r}$"):
        GEMONN(**{field: value})


@pytest.mark.parametrize("box", [(0.0, 1.0), (1.0, -1.0), (1.0, math.inf)])
def test_a_box_without_room_is_refused(box):
    with pytest.raises(ValueError, match=r"^box: must be a finite positive number, got "):
        GEMONN(box=box)


@BOTH
def test_a_start_has_densities_from_one_nth_to_one(algorithm):
    algorithm = replace(algorithm, population=50)
    members = algorithm.init(make_problem(size=50), generator_from(0)).members
    shares = torch.arange(1, 51) / 50
    spread = (shares * (1 - shares) / 56).sqrt()
    assert ((members.densities() - shares).abs() <= 4 * spread).all()
    assert members.densities()[-1] == 1
    assert sound(members)


# --- the same again ------------------------------------------------------------------------


@BOTH
def test_a_run_stored_after_every_step_gives_the_same_bits(algorithm):
    def make():
        return make_problem(Everything, size=4, slice_seconds=0)

    own = {"steps": 5} if algorithm.search == "ladder" else {}
    algorithm = replace(algorithm, population=4, generations=3, **own)
    whole, infos = run(algorithm, make())
    state, found, within = algorithm.init(make(), generator_from(0)), [], 0
    while not algorithm.finished(state):
        state, info = algorithm.step(make(), stored(state))
        found += [info] if info else []
        within += info is None
    assert bits([state, found]) == bits([whole, infos])
    assert within == (3 * 4 if algorithm.search == "ladder" else 4)


@BOTH
def test_the_same_seed_gives_the_same_bits_and_global_state_is_left_alone(algorithm):
    torch.manual_seed(0)
    one = bits(run(algorithm, make_problem(Everything, size=6), 1)[0])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert bits(run(algorithm, make_problem(Everything, size=6), 1)[0]) == one
    assert torch.equal(before, torch.get_rng_state())
    assert bits(run(algorithm, make_problem(Everything, size=6), 2)[0]) != one


# --- the paper's networks ------------------------------------------------------------------


class AutoEncoder(nn.Module):
    """One matrix that is used both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(20, 8)
        self.bias = nn.Parameter(torch.zeros(20))

    def forward(self, x):
        return F.linear(self.encoder(x).sigmoid(), self.encoder.weight.t(), self.bias).sigmoid()


NETWORKS = {
    "lstm": (ZOO["lstm"].build, (4, 3), F.cross_entropy),
    "lenet": (LeNet5, (1, 28, 28), F.cross_entropy),
    "auto-encoder": (AutoEncoder, (20,), F.mse_loss),
}


@BOTH
@pytest.mark.parametrize("network", NETWORKS)
def test_it_works_for_recurrent_convolutional_and_tied_networks(algorithm, network):
    build, row, loss = NETWORKS[network]
    y = torch.arange(24) % 3
    kinds = torch.rand(3, *row, generator=generator_from(0))
    x = kinds[y] + 0.1 * torch.randn(24, *row, generator=generator_from(1))
    y = x if loss is F.mse_loss else y
    problem = make_problem(build, loss, size=4, rows=(x, y))
    own = {"steps": 15, "lowest": 0.02} if algorithm.search == "ladder" else {"fine_tune": 15}
    algorithm = replace(algorithm, population=4, generations=5, **own)
    before = float(problem.evaluate(problem.population.tensors).min())
    state, infos = run(replace(algorithm, objectives=("flops", "loss")), problem)
    assert clean(state.members.tensors, state.members.masks)
    assert infos[-1]["best"] < before


@pytest.mark.parametrize("network", NETWORKS)
def test_at_the_foot_of_the_ladder_every_unit_but_gates_has_a_weight(network):
    build, row, loss = NETWORKS[network]
    x = torch.rand(24, *row, generator=generator_from(0))
    problem = make_problem(
        build, loss, size=2, rows=(x, x if loss is F.mse_loss else x.new_zeros(24).long())
    )
    problem.symmetry = None  # so no unit is known to be unread
    algorithm = replace(LADDER, population=2, generations=3, steps=1, climb=0.0, lowest=0.02)
    *_, phase = walked(algorithm, problem)
    weights = {n: mask for n, mask in phase.masks.items() if "weight_hh" not in n}
    units = sum(mask.shape[1] for mask in weights.values())
    assert int(masking.count(phase.masks)) == max(round(0.02 * masking.total(phase.masks)), units)
    assert all(bool(mask.flatten(2).any(2).all()) for mask in weights.values())
