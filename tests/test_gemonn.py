"""GEMONN: the ladder, the paper's search, and what both promise of a front."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fronts import BOTH, LADDER, PAPER, clean, counting, sound, spoil, states, walked
from gradevo.algorithms import guided
from gradevo.algorithms.gemonn import GEMONN
from gradevo.algorithms.ladder import blended, next_rung, rung
from gradevo.errors import DivergedError
from gradevo.learning import clone
from gradevo.models import LeNet5
from gradevo.operators import masks as masking
from gradevo.operators import pareto
from gradevo.randomness import generator_from
from modules import ZOO
from problems import Everything, bits, make_problem, run, stored

# --- the ladder ----------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.floats(0.001, 1), st.floats(0, 1), st.floats(1e-9, 1))
def test_the_ladder_starts_dense_goes_down_to_its_foot_and_up_again(
    generations, dense, climb, lowest
):
    rungs = [rung(i, generations, dense, climb, lowest) for i in range(generations)]
    first = math.ceil(dense * generations)
    up = math.floor(climb * (generations - first))
    down, back = rungs[first : generations - up], rungs[generations - up :]
    assert rungs[:first] == [1.0] * first
    assert rungs == rungs[:first] + down + back
    assert down == sorted(down, reverse=True) and back == sorted(back)
    assert all(0 < density <= 1 for density in rungs)
    if down:
        assert down[-1] == pytest.approx(lowest)
    if back:
        assert back[-1] == 1
    for way in ([1.0, *down], [lowest, *back]):
        factors = [b / a for a, b in pairwise(way)]
        assert factors == pytest.approx(factors[:1] * len(factors))


@pytest.mark.parametrize("lowest", [0.25, 0.02, 1e-300])
def test_the_walker_has_the_density_of_its_rung_and_no_unit_without_weights(lowest):
    problem = make_problem(size=6)
    problem.symmetry = None  # so no unit is known to be unread
    algorithm, densities = replace(LADDER, lowest=lowest), []
    for phase in walked(algorithm, problem):
        wanted = rung(len(densities), 10, 0.15, 0.5, max(lowest, 11 / 56))
        assert int(masking.count(phase.masks)) == round(56 * wanted)
        assert all(bool(mask.flatten(2).any(2).all()) for mask in phase.masks.values())
        for name, mask in phase.masks.items():
            assert not phase.tensors[name][~mask].any()
            assert not phase.mean[name][~mask].any()
        densities.append(float(masking.density(phase.masks)))
    assert densities[:2] == [1.0, 1.0]
    assert min(densities) == max(round(56 * lowest), 11) / 56
    assert densities[-1] == 1


def test_weights_come_back_as_zeros_and_then_learn():
    problem = make_problem(size=6)
    algorithm = replace(LADDER, generations=7)
    state = algorithm.init(problem, generator_from(0))
    for _ in range(5):
        state, _ = algorithm.step(problem, state)
    before = stored(state).phase
    after = next_rung(algorithm, problem, stored(state))
    back = {name: mask & ~before.masks[name] for name, mask in after.masks.items()}
    assert sum(int(mask.sum()) for mask in back.values()) == 28 - 14  # from a quarter to a half
    assert all(torch.equal(after.tensors[n], t) for n, t in before.tensors.items())
    assert not any(bool((before.masks[n] & ~mask).any()) for n, mask in after.masks.items())
    state, _ = algorithm.step(problem, state)
    for name, mask in back.items():
        assert torch.equal(state.phase.masks[name], after.masks[name])
        assert (state.phase.tensors[name][mask] != 0).all()


def test_the_mean_is_offered_and_the_walker_goes_on_from_its_own_weights():
    problem = make_problem(size=6)
    plain, averaged, checked = (
        [clone(phase.tensors) for phase in walked(replace(LADDER, **changes), problem)]
        for changes in ({"average": 0.0}, {}, {"backoff": True, "checks": 3})
    )
    assert bits(plain) == bits(averaged) == bits(checked)


def test_the_optimisers_moments_are_carried_from_rung_to_rung():
    for rungs, phase in enumerate(walked(LADDER, make_problem(size=6)), start=1):
        assert {float(numbers["step"]) for numbers in phase.optimizer[0].values()} == {12 * rungs}


def test_a_sparser_walker_learns_at_a_larger_rate():
    problem = make_problem(size=6)
    for power in (0.0, 0.25, 1.0):
        algorithm = replace(LADDER, rate_power=power)
        for phase in walked(algorithm, problem):
            density = float(masking.density(phase.masks))
            assert float(phase.hyper["lr"]) == pytest.approx(0.02 * density**-power)


@pytest.mark.parametrize("lowest", [0.25, 0.1])
def test_where_every_weight_counts_the_front_spans_from_the_foot_to_dense(lowest):
    x = torch.randn(96, 8, generator=generator_from(0))
    y = x @ torch.randn(8, 6, generator=generator_from(1))
    problem = make_problem(lambda: nn.Linear(8, 6), F.mse_loss, size=14, rows=(x, y))
    algorithm = replace(LADDER, population=14, generations=12, steps=60, lr=0.1, lowest=lowest)
    state, infos = run(algorithm, problem)
    on_front = pareto.fronts(state.members.objectives) == 0
    counts = masking.count(state.members.masks)[on_front].tolist()
    assert {48, max(round(48 * lowest), 6)} <= set(counts)
    assert infos[-1]["front"] == len(counts) > 5
    assert infos[-1]["densities"] == state.members.densities().tolist()


@pytest.mark.parametrize("seed", range(3))
def test_no_density_is_worse_off_than_by_a_random_start(seed):
    problem = make_problem(size=6)
    start = LADDER.init(problem, generator_from(seed)).members
    members = run(LADDER, problem, seed)[0].members
    for density, loss in zip(start.densities(), start.losses, strict=True):
        best = members.losses[members.densities() <= density].min()
        assert best < loss if density > 0.25 else best <= loss


def test_with_room_for_all_nothing_that_was_seen_is_better_than_the_front():
    problem, seen = make_problem(size=20), []
    for state in states(replace(LADDER, population=20), problem):
        seen.append(state.members.objectives.clone())
    for point in torch.cat(seen):
        assert (seen[-1] <= point).all(1).any()


def test_neighbours_are_crossed_at_the_end_which_costs_no_passes_and_loses_nothing():
    ends = []
    for blend in (False, True):
        problem = make_problem(size=12)
        algorithm = replace(LADDER, population=12, blend=blend)
        ends.append(run(algorithm, problem))
    (plain, before), (crossed, after) = ends
    assert plain.passes == crossed.passes and before[:-1] == after[:-1]
    better = (crossed.members.objectives.unsqueeze(0) <= plain.members.objectives.unsqueeze(1)).all(
        2
    )
    on_front = pareto.fronts(plain.members.objectives) == 0
    assert bool(better.any(1)[on_front].all())
    assert crossed.members.losses.min() < plain.members.losses.min()


def test_children_of_neighbours_are_means_where_the_denser_has_weights():
    problem = make_problem(Everything, size=6)
    state, _ = run(LADDER, problem)
    members, children = state.members, blended(LADDER, problem, state, apart=2)
    order = members.densities().argsort(stable=True).tolist()
    assert clean(children.tensors, children.masks)
    for place, i in enumerate(order):
        j = order[max(0, place - 2)]
        for name, tensor in children.tensors.items():
            mean = tensor[place]
            if tensor.is_floating_point():
                mean = (members.tensors[name][i] + members.tensors[name][j]) / 2
            mask = members.masks.get(name)
            torch.testing.assert_close(tensor[place], mean if mask is None else mean * mask[i])
        assert members.densities()[i] == children.densities()[place]
    torch.testing.assert_close(children.losses, problem.evaluate(children.tensors))
    assert children.objectives.isnan().all(1).tolist() == [True] * 2 + [False] * 4


def test_the_dense_child_is_what_adam_makes_of_the_densest_member():
    problem = make_problem(size=6)
    algorithm = replace(LADDER, generations=1, average=0.0)
    state = algorithm.init(problem, generator_from(0))
    copy = stored(state)
    problem.population.load(copy.members.tensors)
    module = problem.population.member(5)
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(12):
        x, y = problem.source.draw(copy.streams.data, 1, False)
        optimizer.zero_grad()
        F.cross_entropy(module(x[0]), y[0]).backward()
        optimizer.step()
    state, info = algorithm.step(problem, state)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(state.phase.tensors[name][0], parameter.detach())
    with torch.no_grad():
        loss = float(F.cross_entropy(module(problem.valid[0]), problem.valid[1]))
    assert info["best"] == pytest.approx(loss, rel=1e-5)


def test_a_constant_loss_prunes_and_moves_no_weight_that_is_left():
    problem = make_problem(size=6, loss=lambda output, target: output.sum() * 0 + 1)
    start = LADDER.init(problem, generator_from(0)).members
    for state in states(LADDER, problem):
        members = state.members
        assert set(members.losses.tolist()) == {1.0}
        assert clean(members.tensors, members.masks)
        for i in range(6):
            origins = [
                all(
                    bool(((t[i] == start.tensors[n][j]) | (t[i] == 0)).all())
                    for n, t in members.tensors.items()
                )
                for j in range(6)
            ]
            assert any(origins)


def test_with_backoff_a_child_is_the_best_of_its_checks():
    problem = make_problem(size=6)
    hasty = replace(LADDER, generations=1, lr=0.3, average=0.0)
    losses = [run(replace(hasty, steps=steps), problem)[1][-1]["best"] for steps in range(1, 13)]
    worse = max(i for i in range(1, 12) if losses[i] > min(losses[:i]))
    hasty = replace(hasty, steps=worse + 1, backoff=True)
    kept = run(replace(hasty, checks=worse + 1), problem)[1][-1]["best"]
    assert kept == min(losses[: worse + 1]) < losses[worse]
    assert run(hasty, problem)[1][-1]["best"] == losses[worse]


def test_epochs_count_for_one_child_and_every_rung_upwards_is_a_pass_more():
    loss, calls = counting()
    algorithm = replace(LADDER, epochs=2, generations=3, clip=0.5, schedule="linear")
    state, infos = run(algorithm, make_problem(loss=loss, size=6))
    assert len(calls) == state.passes == infos[-1]["member_steps"] == 3 * 2 * 4 + 1
    calls.clear()
    state, infos = run(LADDER, make_problem(loss=loss, size=6))
    assert len(calls) == state.passes == infos[-1]["member_steps"] == LADDER.passes + 4


def test_members_are_compared_on_the_same_validation_rows_for_the_whole_run():
    problem = make_problem(size=6)
    for state in states(replace(LADDER, validation_batch=10), problem):
        assert state.rows.shape == (10,)
        again = problem.evaluate(state.members.tensors, state.rows)
        torch.testing.assert_close(state.members.losses, again)


# --- divergence, on either search ----------------------------------------------------------


def test_a_walker_that_diverges_goes_on_from_the_best_member():
    problem = make_problem(size=6)
    wild = replace(LADDER, optimizer="SGD", lr=1e30)
    start = wild.init(problem, generator_from(0)).members
    best = start.losses.argmin()
    for i, phase in enumerate(walked(wild, problem)):
        assert not all(t.isfinite().all() for t in phase.tensors.values())
        wanted = round(56 * rung(i, 10, 0.15, 0.5, 0.25))
        assert int(masking.count(phase.masks)) == wanted
    state, infos = run(wild, problem)
    assert all(info["best"] == float(start.losses[best]) for info in infos)
    again = next_rung(wild, problem, replace(state, generation=6))
    there = {name: mask[best] for name, mask in start.masks.items()}
    for name, mask in there.items():
        kept = again.masks[name][0] & mask
        assert torch.equal(again.tensors[name][0][kept], start.tensors[name][best][kept])
    assert again.optimizer is None


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
            assert (guided.breed(algorithm, stored(state))["2.bias"] < 1e3).all()


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

    algorithm = replace(algorithm, population=4, generations=3, steps=5)
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
    algorithm = replace(algorithm, population=4, generations=5, steps=15, fine_tune=15, lowest=0.02)
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
