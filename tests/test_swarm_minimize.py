"""Minimising with swarms: starts, stop rules, constraints, resuming, memory."""

import json
import math
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradevo.checkpoint import write
from gradevo.errors import CheckpointError
from gradevo.randomness import generator_from
from gradevo.swarm import stopping
from gradevo.swarm.dynamics import EMPSO, PSO, REMPSO, MomentumPSO
from gradevo.swarm.emulate import emulate
from gradevo.swarm.gradient import gradient
from gradevo.swarm.minimize import minimize
from problems import bits, stored

FEW = settings(max_examples=10, deadline=None)
BOX = ([-4.0, -4.0], [4.0, 4.0])
MANY = {"bounds": BOX, "swarms": 6, "particles": 8}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def bowl(x):
    return (x - 1).square().sum(dim=1)


def ripples(x):
    """Local minima about 1 apart: swarms end in different places, at different times."""
    return (x.square() + 3 * (1 - torch.cos(2 * math.pi * x))).sum(dim=1)


def recording(f):
    """f, and the list of all points that it was asked about."""
    seen = []

    def recorded(x):
        seen.append(x.clone())
        return f(x)

    return recorded, seen


def results(found):
    return bits([found.x, found.value, found.feasible, found.iterations, found.reason])


# --- finding -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [PSO(), MomentumPSO(), EMPSO(), REMPSO()], ids=repr)
def test_every_rule_finds_a_minimum_and_stops_by_the_papers_rule(rule):
    found = minimize(bowl, bounds=BOX, dynamics=rule, particles=30)
    torch.testing.assert_close(found.x, torch.ones(2), atol=0.05, rtol=0)
    assert found.reason == "cube"
    assert 10 < int(found.iterations) < 1000


def test_one_swarm_gives_results_without_the_axis_of_swarms_and_many_with_it():
    one = minimize(bowl, bounds=BOX, iterations=3)
    assert (one.x.shape, one.value.shape, one.reason) == ((2,), (), "iterations")
    many = minimize(bowl, bounds=BOX, swarms=4, iterations=3)
    assert (many.x.shape, many.value.shape) == ((4, 2), (4,))
    assert many.reason == ("iterations",) * 4
    assert many.iterations.tolist() == [3] * 4
    also_one = minimize(bowl, x0=torch.rand(1, 5, 2), iterations=3)
    assert also_one.x.shape == (1, 2)


def test_the_value_is_that_of_the_place_and_the_best_that_was_seen():
    f, seen = recording(ripples)
    found = minimize(f, bounds=BOX, iterations=20)
    assert torch.equal(ripples(found.x[None])[0], found.value)
    assert float(found.value) == min(float(ripples(x).min()) for x in seen)


@FEW
@given(st.integers(0, 2**31 - 1))
def test_the_same_seed_gives_the_same_bits_and_global_state_is_left_alone(seed):
    before = torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())
    one, two, three = (
        minimize(ripples, **MANY, seed=s, iterations=15) for s in (seed, seed, seed + 1)
    )
    assert results(one) == results(two)
    assert results(one) != results(three)
    assert before == (
        torch.get_rng_state().tolist(),
        random.getstate(),
        repr(np.random.get_state()),
    )


# --- starts --------------------------------------------------------------------------------


def start_of(**fields):
    f, seen = recording(bowl)
    minimize(f, iterations=0, **fields)
    return seen[0]


def test_particles_start_uniformly_between_the_bounds():
    x = start_of(bounds=([0.0, -2.0], [1.0, 6.0]), swarms=50)
    assert x.shape == (1000, 2)
    for entries, low, high in ((x[:, 0], 0, 1), (x[:, 1], -2, 6)):
        histogram = torch.histc(entries, bins=4, min=low, max=high)
        assert int(histogram.sum()) == 1000
        assert bool(((histogram - 250).abs() < 70).all())


def test_particles_start_around_a_point_with_one_of_them_on_it():
    x = start_of(x0=[3.0, -1.0], spread=0.5, particles=200)
    assert x[0].tolist() == [3.0, -1.0]
    offsets = (x - torch.tensor([3.0, -1.0])).abs()
    assert 0.45 < float(offsets.max()) <= 0.5
    walled = start_of(x0=[3.0, -1.0], spread=0.5, particles=200, bounds=(-1.0, 3.0))
    assert float(walled.max()) == 3.0
    assert float(walled.min()) == -1.0


@pytest.mark.parametrize("shape", [(7, 2), (1, 7, 2), (3, 7, 2)])
def test_given_positions_are_taken_as_they_are_and_left_as_they_were(shape):
    x0 = torch.rand(shape)
    assert torch.equal(start_of(x0=x0), x0.view(-1, 2))


def test_dtype_follows_the_start_or_the_bounds():
    for dtype in (torch.float32, torch.float64):
        for fields in (
            {"x0": torch.zeros(2, dtype=dtype)},
            {"bounds": (-1, torch.ones(2).to(dtype))},
        ):
            found = minimize(bowl, **fields, iterations=2)
            assert found.x.dtype == found.value.dtype == dtype
    assert minimize(bowl, bounds=([-1, -1], [1, 1]), iterations=2).x.dtype == torch.float32
    assert minimize(lambda x: bowl(x).long(), x0=[0, 3], iterations=2).value.dtype == torch.float32


def test_particles_never_leave_the_bounds():
    f, seen = recording(lambda x: -x.sum(dim=1))
    found = minimize(f, bounds=([-1.0, -2.0], [1.0, 0.5]))
    points = torch.cat(seen)
    assert points.amin(dim=0).tolist() >= [-1.0, -2.0]
    assert points.amax(dim=0).tolist() == [1.0, 0.5] == found.x.tolist()


BAD = {
    "nothing": ({}, "bounds: must be given where x0 is not, got neither"),
    "numbers alone": ({"bounds": (0, 1)}, "bounds: must have one entry a dimension .*got .0, 1"),
    "not a pair": ({"bounds": ([0.0], [1.0], [2.0])}, r"bounds: must be a pair \(low, high\)"),
    "the wrong way": ({"bounds": ([0.0, 1.0], [1.0, 0.0])}, "bounds: low must be below high"),
    "other lengths": ({"bounds": ([0.0, 0.0], [1.0] * 3)}, r"bounds: .*2 dimensions, got .*\(3,\)"),
    "x0's length": (
        {"x0": [0.0, 0.0], "bounds": ([0.0] * 3, 1)},
        r"2 dimensions, got shape \(3,\)",
    ),
    "endless": ({"bounds": ([0.0], [math.inf])}, "bounds: must be finite"),
    "NaN": ({"x0": [0.0, math.nan]}, "x0: must be finite, got NaN"),
    "four axes": ({"x0": torch.zeros(1, 1, 2, 2)}, r"x0: must have shape .*got \(1, 1, 2, 2\)"),
    "outside": ({"x0": [2.0], "bounds": (0, 1)}, "x0: must lie within bounds"),
    "one particle": ({"x0": torch.zeros(1, 2)}, "x0: must have at least 2 particles, got 1"),
    "other swarms": ({"x0": torch.zeros(2, 3, 1), "swarms": 3}, "swarms: .* x0 has, 2, got 3"),
    "particles": ({"bounds": BOX, "particles": 1}, "particles: .* at least 2, got 1"),
    "swarms": ({"bounds": BOX, "swarms": 0}, "swarms: .* at least 1, got 0"),
    "spread": ({"x0": [1.0], "spread": -1.0}, "spread: must be a finite positive number, got -1.0"),
    "iterations": ({"bounds": BOX, "iterations": -1}, "iterations: .* at least 0, got -1"),
    "evaluations": ({"bounds": BOX, "evaluations": 19}, "number of particles, 20, got 19"),
    "cube": ({"bounds": BOX, "cube": 0.0}, "cube: must be a finite positive number, got 0.0"),
    "target": ({"bounds": BOX, "target": math.nan}, "target: must be a number, got nan"),
    "tolerance": ({"bounds": BOX, "tolerance": -1.0}, "tolerance: .* not negative, got -1.0"),
}


@pytest.mark.parametrize("fields, message", BAD.values(), ids=BAD)
def test_arguments_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        minimize(bowl, **fields)


# --- functions that fail -------------------------------------------------------------------


def test_particles_whose_value_is_nan_are_survived_and_never_win():
    found = minimize(lambda x: torch.where(x[:, 0] < 0.5, math.nan, bowl(x)), bounds=BOX, swarms=5)
    assert bool((found.x[:, 0] >= 0.5).all())
    torch.testing.assert_close(found.x, torch.ones(5, 2), atol=0.1, rtol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_function_without_a_finite_value_at_the_start_is_refused(bad):
    with pytest.raises(ValueError, match=r"f: must be finite at one start .* at all 48"):
        minimize(lambda x: torch.full((len(x),), bad), **MANY)


def test_a_swarm_that_started_badly_does_not_spoil_the_others():
    alone = torch.rand(1, 20, 2, generator=generator_from(0))
    x0 = torch.cat([alone, alone + 9])

    def f(x):
        return torch.where(x[:, 0] > 8, math.nan, bowl(x))

    found = minimize(f, x0=x0, iterations=100)
    assert float(found.value[0]) < 1e-3
    assert float(found.value[1]) == math.inf
    assert found.reason == ("cube", "iterations")


@pytest.mark.parametrize(
    "returned, got", [(lambda x: x.sum(), r"\(\)"), (lambda x: x, r"\(48, 2\)"), (len, "int")]
)
def test_another_shape_is_refused_with_what_came_and_what_was_expected(returned, got):
    with pytest.raises(ValueError, match=rf"^f: must return .*shape \(48,\) for 48 .*got {got}"):
        minimize(returned, **MANY)
    with pytest.raises(ValueError, match=rf"^constraints\[1\]: must return .*\(48,\).*got {got}"):
        minimize(bowl, **MANY, constraints=[bowl, returned])


# --- stop rules ----------------------------------------------------------------------------


def test_the_cube_holds_all_particles_of_a_swarm_that_it_stopped_and_of_no_other():
    found = minimize(ripples, **MANY, iterations=30, cube=0.5)
    x = found.state.swarm.x
    inside = (x.unsqueeze(1) - x.unsqueeze(2)).abs().amax(dim=(1, 2, 3)) <= 0.5
    assert inside.tolist() == [reason == "cube" for reason in found.reason]
    assert set(found.reason) == {"cube", "iterations"}


def test_without_a_cube_a_swarm_runs_to_its_limit():
    found = minimize(bowl, bounds=BOX, iterations=200, cube=None)
    assert (found.reason, int(found.iterations), int(found.evaluations)) == (
        "iterations", 200, 20 * 201,
    )  # fmt: skip


def test_evaluations_are_what_f_saw_and_never_more_than_allowed():
    f, seen = recording(bowl)
    found = minimize(f, bounds=BOX, evaluations=105)
    assert (found.reason, int(found.iterations)) == ("evaluations", 4)
    assert int(found.evaluations) == sum(map(len, seen)) == 100
    f, seen = recording(ripples)
    found = minimize(f, **MANY)
    assert len(set(found.iterations.tolist())) > 1  # they stop at different times
    assert int(found.evaluations.sum()) == sum(map(len, seen)) == found.history[-1]["evaluations"]


def test_a_target_stops_a_swarm_at_the_first_value_that_reaches_it():
    fields = {"bounds": BOX, "swarms": 6, "target": 0.01}
    found = minimize(bowl, **fields)
    assert found.reason == ("target",) * 6
    assert float(found.value.max()) <= 0.01
    for row in found.history[:-1]:
        assert row["running"] > 0
    missed = minimize(bowl, **fields, iterations=int(found.iterations.min()) - 1)
    assert float(missed.value.min()) > 0.01
    assert int(minimize(bowl, x0=[1.0, 1.0], target=0.0).iterations) == 0


@pytest.mark.parametrize("every", [1, 7])
def test_a_stopped_swarm_stays_frozen_while_the_others_go_on(every, monkeypatch):
    monkeypatch.setattr(stopping, "check_every", lambda device: every)
    whole = minimize(ripples, **MANY)
    assert whole.reason == ("cube",) * 6
    stops = whole.iterations.tolist()
    for swarm, stop in enumerate(stops):
        cut = minimize(ripples, **MANY, iterations=stop)
        for name in ("x", "v", "m", "pbest", "pbest_loss"):
            then, later = (getattr(r.state.swarm, name)[swarm] for r in (cut, whole))
            assert torch.equal(then, later)
        assert int(cut.iterations[swarm]) == stop
    assert min(stops) < max(stops)


def test_looking_less_often_finds_the_exact_iterations_of_the_first_stop(monkeypatch):
    often = minimize(ripples, **MANY)
    monkeypatch.setattr(stopping, "check_every", lambda device: 1000)
    rarely = minimize(ripples, **MANY, iterations=500)
    first = int(often.iterations.min())
    assert first % 1000
    assert [i == first for i in often.iterations] == [i == first for i in rarely.iterations]


# --- history -------------------------------------------------------------------------------


def test_history_is_plain_numbers_one_row_an_iteration():
    found = minimize(ripples, **MANY, iterations=25)
    assert json.loads(json.dumps(found.history)) == found.history
    assert [row["iteration"] for row in found.history] == list(range(26))
    assert [row["evaluations"] for row in found.history] == [48 * (i + 1) for i in range(26)]
    best = [row["best"] for row in found.history]
    assert best == sorted(best, reverse=True)
    last = found.history[-1]
    assert last["best"] == float(found.value.min())
    assert last["mean"] == pytest.approx(float(found.value.mean()))
    sides = found.state.swarm.x.amax(dim=1) - found.state.swarm.x.amin(dim=1)
    assert last["spread"] == pytest.approx(float(sides.amax(dim=1).mean()))
    assert last["running"] == 6


# --- constraints ---------------------------------------------------------------------------


def outside_disc(x):
    return x.square().sum(dim=1) - 1


def off_the_line(x):
    return (x.sum(dim=1) - 2).abs()


def test_a_minimum_on_the_border_of_the_feasible_set_is_found_inside_it():
    found = minimize(lambda x: x.sum(dim=1), bounds=BOX, constraints=[outside_disc], swarms=30)
    assert bool(found.feasible.all()) and bool((outside_disc(found.x) <= 1e-4).all())
    torch.testing.assert_close(found.value, torch.full((30,), -math.sqrt(2)), atol=5e-3, rtol=0)
    assert torch.equal(found.value, found.x.sum(dim=1))


def test_several_constraints_hold_together():
    found = minimize(
        bowl, bounds=BOX, constraints=[outside_disc, lambda x: x[:, 0] - 0.3], particles=60
    )
    assert bool(found.feasible)
    torch.testing.assert_close(found.x, torch.tensor([0.3, 0.954]), atol=0.02, rtol=0)


@pytest.mark.parametrize("rule", [EMPSO(), PSO()], ids=["EMPSO", "PSO"])
@pytest.mark.parametrize("size", [1e-9, 1.0, 1e12])
def test_feasible_places_come_first_whatever_the_size_of_f_and_of_each_constraint(size, rule):
    found = minimize(
        lambda x: -size * x.double()[:, 0], bounds=BOX, swarms=6, dynamics=rule, iterations=300,
        constraints=[lambda x: 1e9 * (x[:, 0] - 1), lambda x: 1e-3 * (x[:, 1] + 1)],
        tolerance=[0.0, 1e-6],
    )  # fmt: skip
    assert bool(found.feasible.all())
    torch.testing.assert_close(found.x[:, 0], torch.ones(6), atol=1e-2, rtol=0)
    assert bool((found.x[:, 1] <= -1 + 1.1e-3).all())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_an_equality_is_kept_within_the_tolerance_and_the_least_value_there_is_found(seed, offset):
    found = minimize(
        lambda x: x.double().square().sum(dim=1) + offset, bounds=BOX, constraints=off_the_line,
        seed=seed, tolerance=1e-3, iterations=1500,
    )  # fmt: skip
    assert bool(found.feasible) and float(off_the_line(found.x[None])) <= 1e-3
    assert float(found.value) == pytest.approx(2 + offset, abs=0.02)


def test_a_run_that_ends_infeasible_says_so_and_gives_the_smallest_violation(caplog):
    never = [lambda x: 1 - x[:, 0], lambda x: x[:, 0] + 1]
    found = minimize(bowl, bounds=BOX, constraints=never, swarms=2, target=1e9)
    assert found.feasible.tolist() == [False, False]
    assert found.reason == ("cube, infeasible",) * 2
    assert torch.equal(found.value, bowl(found.x))  # f there, nothing else
    assert bool((found.x[:, 0].abs() <= 1.01).all())
    assert "no feasible place was found by 2 of 2 swarms" in caplog.text
    assert {row["feasible"] for row in found.history} == {0}
    assert {row["best"] for row in found.history} == {math.inf}


def test_history_under_constraints_is_over_the_swarms_that_are_feasible():
    found = minimize(bowl, bounds=BOX, constraints=outside_disc, swarms=20, iterations=30)
    best = [row["best"] for row in found.history]
    assert best == sorted(best, reverse=True)
    assert [row["feasible"] for row in found.history] == sorted(
        row["feasible"] for row in found.history
    )
    assert best[-1] == float(found.value[found.feasible].min())


def test_f_need_not_be_known_where_a_constraint_does_not_hold():
    found = minimize(
        lambda x: x.log().sum(dim=1), bounds=BOX, swarms=4,
        constraints=[lambda x: 0.5 - x.amin(dim=1)], tolerance=0,
    )  # fmt: skip
    assert bool(found.feasible.all()) and bool((found.x >= 0.5).all())
    torch.testing.assert_close(found.x, torch.full((4, 2), 0.5), atol=0.1, rtol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_constraint_that_is_no_number_is_not_kept_there(bad):
    found = minimize(
        bowl, bounds=BOX, swarms=5, constraints=[lambda x: torch.where(x[:, 0] < 1.5, bad, -1.0)]
    )
    assert bool(found.feasible.all()) and bool((found.x[:, 0] >= 1.5).all())
    with pytest.raises(ValueError, match=r"^constraints\[1\]: must be a number at one start pos"):
        minimize(bowl, bounds=BOX, constraints=[outside_disc, lambda x: x[:, 0] * math.nan])


def test_two_tolerances_for_one_constraint_are_refused():
    with pytest.raises(ValueError, match=r"tolerance: must be one number, or one for each of 1"):
        minimize(bowl, bounds=BOX, constraints=outside_disc, tolerance=[0.1, 0.2])


# --- numbers that come with a type ----------------------------------------------------------


SIDES = {
    "arrays": (np.array([-5.0, -5.0]), np.array([5.0, 5.0])),
    "an array and a number": (-5.0, np.array([5.0, 5.0])),
    "one array": np.array([[-5.0, -5.0], [5.0, 5.0]]),
    "numpy's numbers in lists": ([np.float64(-5)] * 2, [np.float64(5)] * 2),
    "a tensor": (torch.tensor([-5.0, -5.0], dtype=torch.float64), 5),
    "pandas": (pd.Series([-5.0, -5.0]), pd.Series([5.0, 5.0])),
}


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
def test_numpys_float64_is_kept_and_so_are_values_that_only_it_can_tell_apart(sides):
    def far_up(x):
        return 1e8 + (x - 1).square().sum(dim=1)

    found = minimize(far_up, bounds=sides, iterations=500)
    assert found.x.dtype == found.value.dtype == torch.float64
    assert (found.x - 1).abs().max() < 1e-2
    run = emulate(far_up, bounds=sides, iterations=3)
    assert run.path.dtype == run.values.dtype == torch.float64


def test_the_type_is_x0s_or_else_the_bounds_and_pythons_floats_have_none():
    box = (np.array([-4.0, -4.0]), np.array([4.0, 4.0]))
    small = (np.float32(-4), np.array([4.0, 4.0], dtype=np.float32))
    cases = [
        ({"x0": [0.0, 1.0], "bounds": box}, torch.float64),
        ({"x0": np.array([0.0, 1.0]), "bounds": BOX}, torch.float64),
        ({"x0": np.array([0.0, 1.0]), "bounds": small}, torch.float64),
        ({"x0": np.array([0, 1]), "bounds": small}, torch.float32),
        ({"x0": torch.zeros(2), "bounds": box}, torch.float32),
        ({"x0": [0, 1], "bounds": BOX}, torch.float32),
        ({"bounds": (np.array([-4, -4]), 4)}, torch.float32),
    ]
    for fields, dtype in cases:
        assert minimize(bowl, **fields, iterations=1).x.dtype == dtype
    assert emulate(bowl, [0.0, 1.0], w0=np.array([1.0, 2.0])).path.dtype == torch.float32
    assert gradient(bowl, np.array([1.0, 2.0])).direction.dtype == torch.float64
    assert gradient(bowl, [1, 2]).direction.dtype == torch.float32


def test_values_that_only_float64_can_tell_apart_are_kept_beside_positions_in_float32():
    found = minimize(lambda x: 1e8 + bowl(x.double()), bounds=BOX)
    assert (found.x.dtype, found.value.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(found.x, torch.ones(2), atol=0.05, rtol=0)
    w = torch.tensor([3.0, -2.0])
    direction = gradient(lambda x: 1e8 + bowl(x.double()), w, spread=0.5, particles=30).direction
    torch.testing.assert_close(direction, 2 * (w - 1), atol=0.3, rtol=0)


# --- functions that write, or that leave torch -----------------------------------------------


def in_torch(x):
    return bowl(x.clamp_(max=0.5))


def aside(x):
    x.data.clamp_(max=0.5)
    return bowl(x)


def in_numpy(x):
    array = x.numpy()
    np.minimum(array, 0.5, out=array)
    return np.square(array - 1).sum(axis=1)


@pytest.mark.parametrize("f", [in_torch, aside, in_numpy])
def test_a_function_that_writes_into_its_points_does_not_move_them(f):
    def clean(x):
        return bowl(x.clamp(max=0.5))

    x0 = torch.rand(7, 2) * 4 - 2
    kept = x0.clone()
    fields = {"x0": x0, "bounds": BOX, "constraints": [lambda x: f(x) - 9], "iterations": 5}
    found, wanted = (minimize(g, **{**fields, "constraints": [lambda x, g=g: g(x) - 9]})
                     for g in (f, clean))  # fmt: skip
    assert torch.equal(found.x, wanted.x) and torch.equal(x0, kept)
    assert torch.equal(emulate(f, x0, iterations=5).path, emulate(clean, x0, iterations=5).path)
    w = torch.tensor([0.2, 3.0])
    assert torch.equal(gradient(f, w).direction, gradient(clean, w).direction)
    assert w.tolist() == pytest.approx([0.2, 3.0])


def test_a_function_that_begins_to_write_later_is_refused():
    calls = []

    def f(x):
        calls.append(0)
        return bowl(x.mul_(2) if len(calls) > 3 else x)

    with pytest.raises(ValueError, match=r"^f: must leave the points as they are, or change them"):
        minimize(f, bounds=BOX)


# --- resuming ------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 8])
@pytest.mark.parametrize(
    "rule, cube",
    [(EMPSO(bias_correction=True), 0.3), (REMPSO(), 0.3), (MomentumPSO(), 0.9)],
    ids=["EMPSO", "REMPSO", "MomentumPSO"],
)
def test_a_resumed_search_gives_the_bits_of_one_that_never_stopped(rule, cube, every, monkeypatch):
    monkeypatch.setattr(stopping, "check_every", lambda device: every)
    fields = {**MANY, "dynamics": rule, "cube": cube}
    whole = minimize(ripples, **fields, iterations=60)
    assert "cube" in whole.reason
    middle = int(whole.iterations.min()) + 1  # some have stopped, and no look is due
    part = minimize(ripples, **fields, iterations=middle)
    kept = bits(part.state)
    for state in (part.state, stored(part.state), part.state):
        again = minimize(ripples, bounds=BOX, dynamics=rule, cube=cube, iterations=60, resume=state)
        assert results(again) == results(whole)
        assert bits(again.state) == bits(whole.state)
    assert bits(part.state) == kept


@FEW
@given(st.integers(0, 40), st.integers(0, 40))
def test_any_cuts_of_a_search_give_the_same_bits(first, second):
    whole = minimize(ripples, **MANY, iterations=40)
    state = minimize(ripples, **MANY, iterations=min(first, second)).state
    state = minimize(ripples, bounds=BOX, iterations=max(first, second), resume=state).state
    again = minimize(ripples, bounds=BOX, iterations=40, resume=state)
    assert bits(again.state) == bits(whole.state)


def test_one_saved_file_is_enough_to_go_on(tmp_path):
    part = minimize(ripples, bounds=BOX, iterations=9)
    part.save(tmp_path / "search.safetensors")
    whole = minimize(ripples, bounds=BOX, iterations=20)
    for path in (tmp_path / "search.safetensors", str(tmp_path / "search.safetensors")):
        again = minimize(ripples, bounds=BOX, iterations=20, resume=path)
        assert again.x.shape == (2,)
        assert bits(again.state) == bits(whole.state)


def test_evaluations_before_resuming_count():
    state = minimize(bowl, bounds=BOX, evaluations=100).state
    assert int(minimize(bowl, bounds=BOX, evaluations=100, resume=state).iterations) == 4
    assert int(minimize(bowl, bounds=BOX, evaluations=200, resume=state).iterations) == 9


RULES = st.fixed_dictionaries({
    "target": st.sampled_from([None, 2.0, 0.1, 1e-3]), "cube": st.sampled_from([None, 1.0, 0.1]),
    "iterations": st.integers(0, 60), "evaluations": st.sampled_from([None, 100, 700]),
})  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(RULES, RULES, st.booleans())
def test_a_swarm_goes_on_under_other_rules_as_if_they_had_been_there_from_the_start(
    first, other, limited
):
    fields = {"bounds": BOX, "seed": 3, "dynamics": EMPSO(bias_correction=True)}
    if limited:
        fields["constraints"] = off_the_line
    part = minimize(ripples, **fields, **first)
    kept = bits(part.state)
    whole, again = (
        minimize(ripples, **fields, **other, resume=resume) for resume in (None, part.state)
    )
    assert bits(part.state) == kept
    if int(whole.iterations) >= int(part.iterations):
        assert results(again) == results(whole) and bits(again.state) == bits(whole.state)
    else:  # it has gone past where these rules stop it
        assert int(again.iterations) == int(part.iterations)
        assert torch.equal(again.state.swarm.x, part.state.swarm.x)


@pytest.mark.parametrize("every", [1, 8])
@pytest.mark.parametrize("limited", [False, True])
def test_swarms_that_a_rule_stopped_early_catch_up_once_it_is_gone(limited, every, monkeypatch):
    monkeypatch.setattr(stopping, "check_every", lambda device: every)
    f, seen = recording(ripples)
    fields = {"bounds": BOX, "constraints": outside_disc} if limited else {"bounds": BOX}
    first = minimize(f, **fields, swarms=6, particles=8, cube=0.5)
    stops = first.iterations
    assert len(set(stops.tolist())) > 2
    again = minimize(f, **fields, cube=None, iterations=150, resume=stored(first.state))
    assert {reason.split(",")[0] for reason in again.reason} == {"iterations"}
    assert again.iterations.tolist() == [150] * 6
    assert bool((again.value <= first.value).all())
    if every == 1:  # else a swarm that has stopped is evaluated until the next look
        assert sum(map(len, seen)) == 8 * 6 * 151 + 6  # once more at the best places
    numbers = [row["iteration"] for row in again.history]
    assert numbers == sorted(set(numbers))
    assert again.state.iteration == again.state.swarm.moves >= 150
    same = minimize(ripples, **fields, cube=None, iterations=150, resume=again.state)
    assert bits(same.state) == bits(again.state)


def test_stricter_rules_stop_a_swarm_where_it_is():
    part = minimize(bowl, bounds=BOX, iterations=30, cube=None)
    again = minimize(bowl, bounds=BOX, target=10.0, resume=part.state)
    assert (again.reason, int(again.iterations)) == ("target", 30)
    assert again.history[-1]["running"] == 0


OTHERS = {
    "dynamics": ({"dynamics": PSO()}, r"dynamics: must be that of the state .* EMPSO\(.*got PSO"),
    "coefficients": ({"dynamics": EMPSO(beta=0.5)}, "dynamics: must be that of the state"),
    "bounds": ({"bounds": (-4.0, 5.0)}, r"bounds: .* high \[4.0, 4.0\], got 5.0"),
    "dimensions": ({"bounds": ([-4.0] * 3, [4.0] * 3)}, "bounds: .* each of 2 dimensions"),
    "constraints": ({"constraints": outside_disc}, "constraints: must be those .*, 0, got 1"),
    "f": ({"f": lambda x: ripples(x) + 1}, "f: must be that of the state to go on from, .* got "),
    "f that fails": ({"f": lambda x: x[:, 0] * math.nan}, "f: must be that of the state"),
    "a path": ({"resume": 3}, "resume: must be a state or a path, got a int"),
}


@pytest.mark.parametrize("fields, message", OTHERS.values(), ids=OTHERS)
def test_going_on_with_another_search_is_refused(fields, message):
    state = minimize(ripples, bounds=BOX, iterations=9).state
    fields = {"f": ripples, "bounds": BOX, "resume": state, **fields}
    with pytest.raises((ValueError, TypeError), match=message):
        minimize(fields.pop("f"), **fields)


def test_other_constraints_are_refused_as_far_as_they_can_be_told():
    fields = {"bounds": BOX, "constraints": outside_disc}
    state = minimize(bowl, **fields, iterations=9).state
    assert minimize(bowl, **fields, resume=state).feasible
    for other, message in (
        ({"constraints": ()}, "constraints: must be those .*, 1, got 0"),
        ({"constraints": lambda x: 9 - outside_disc(x)}, "constraints: .* got others"),
        ({"tolerance": 0.1}, r"tolerance: must be that of the state .*, \[0.0001\], got \[0.1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            minimize(bowl, **{**fields, **other}, resume=state)


def test_bounds_may_be_left_out_and_noise_is_no_other_function():
    generator = generator_from(0)

    def noisy(x):
        return bowl(x) + torch.rand(len(x), generator=generator)

    state = minimize(noisy, bounds=BOX, iterations=9).state
    f, seen = recording(noisy)
    assert int(minimize(f, iterations=40, resume=state).iterations) > 9
    assert float(torch.cat(seen).abs().max()) <= 4


def test_a_file_of_something_else_is_refused(tmp_path):
    write(tmp_path / "other", {"x": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="must be the state of a minimisation, got dict"):
        minimize(bowl, bounds=BOX, resume=tmp_path / "other")
    with pytest.raises(CheckpointError, match="must be a whole gradevo file"):
        minimize(bowl, bounds=BOX, resume=tmp_path / "none")


# --- size ----------------------------------------------------------------------------------

MILLION = """
import resource, torch
from gradevo.swarm.dynamics import REMPSO
from gradevo.swarm.minimize import minimize
torch.set_num_threads(1)
minimize(lambda x: x.sum(dim=1), x0=torch.zeros(1_000_000), dynamics=REMPSO(), iterations=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource usage there")
def test_a_million_dimensions_fit_into_two_gigabytes():
    output = subprocess.run(
        [sys.executable, "-c", MILLION], check=True, capture_output=True, text=True
    ).stdout
    kilobytes = int(output) / (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 2e6
