"""GEMONN's ladder: rungs, the walker, and what it offers."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fronts import LADDER, clean, counting, states, walked
from gradevo.algorithms.ladder import blended, next_rung, rung
from gradevo.health import is_lost
from gradevo.learning import clone
from gradevo.operators import masks as masking
from gradevo.operators import pareto
from gradevo.randomness import generator_from
from problems import Everything, bits, make_problem, run, stored


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
    assert crossed.members.losses.sum() < plain.members.losses.sum()


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
    hasty = replace(LADDER, generations=1, lr=1.0, average=0.0)
    losses = [run(replace(hasty, steps=steps), problem)[1][-1]["best"] for steps in range(1, 13)]
    worse = max(i for i in range(1, 12) if losses[i] > min(losses[:i]))
    hasty = replace(hasty, steps=worse + 1, backoff=True)
    kept = run(replace(hasty, checks=worse + 1), problem)[1][-1]["best"]
    assert kept == min(losses[: worse + 1]) < losses[worse]
    assert run(hasty, problem)[1][-1]["best"] == losses[worse]


def test_epochs_count_for_one_child_and_every_rung_upwards_is_a_pass_more():
    loss, calls = counting()
    epochs = {"epochs": 2, "steps": type(LADDER).steps}
    algorithm = replace(LADDER, **epochs, generations=3, clip=0.5, schedule="linear")
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


def test_a_walker_that_did_not_learn_is_followed_by_one_from_the_best_member():
    problem, lost = make_problem(size=6), 0
    wild = replace(LADDER, optimizer="SGD", rate_power=36.0)  # no sparse network survives its rate
    for state in states(wild, problem):
        if state.phase is None or not is_lost(state.phase.lost, wild.steps):
            continue
        lost, best = lost + 1, state.members.losses.argmin()
        again = next_rung(wild, problem, replace(state))
        for name, mask in state.members.masks.items():
            kept = again.masks[name][0] & mask[best]
            start = state.members.tensors[name][best]
            assert torch.equal(again.tensors[name][0][kept], start[kept])
        assert again.optimizer is None
    assert 0 < lost < wild.generations
