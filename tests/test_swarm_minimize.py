"""Minimising with swarms: starts, stop rules, constraints, resuming, memory."""

import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradevo.checkpoint import write
from gradevo.errors import CheckpointError
from gradevo.randomness import generator_from
from gradevo.swarm import stopping
from gradevo.swarm.dynamics import EMPSO, PSO, REMPSO, MomentumPSO
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
    kept = x0.clone()
    assert torch.equal(start_of(x0=x0), x0.view(-1, 2))
    minimize(lambda x: bowl(x.clamp_(max=0.1)), x0=x0, iterations=3)  # f spoils what it is given
    assert torch.equal(x0, kept)


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
    "spread": ({"x0": [1.0], "spread": -1.0}, "spread: must be .* not negative, got -1.0"),
    "iterations": ({"bounds": BOX, "iterations": -1}, "iterations: .* at least 0, got -1"),
    "evaluations": ({"bounds": BOX, "evaluations": 19}, "number of particles, 20, got 19"),
    "cube": ({"bounds": BOX, "cube": 0.0}, "cube: must be a finite positive number, got 0.0"),
    "target": ({"bounds": BOX, "target": math.nan}, "target: must be a number, got nan"),
    "penalty": ({"bounds": BOX, "penalty": -1.0}, "penalty: must be .* not negative, got -1.0"),
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


def test_a_minimum_on_the_border_of_the_feasible_set_is_found_inside_it():
    found = minimize(lambda x: x.sum(dim=1), bounds=BOX, constraints=[outside_disc], swarms=30)
    assert bool(found.feasible.all())
    torch.testing.assert_close(found.value, torch.full((30,), -math.sqrt(2)), atol=5e-3, rtol=0)
    assert torch.equal(found.value, found.x.sum(dim=1))  # no penalty is left in it


def test_several_constraints_hold_together():
    found = minimize(
        bowl, bounds=BOX, constraints=[outside_disc, lambda x: x[:, 0] - 0.3], particles=60
    )
    assert bool(found.feasible)
    torch.testing.assert_close(found.x, torch.tensor([0.3, 0.954]), atol=0.02, rtol=0)


def test_the_penalty_is_linear_in_each_violation():
    x = tensor([[3.0, 4.0], [0.1, 0.1]])
    f, g = (lambda x: x[:, 0]), (lambda x: x[:, 1] - 1)
    swarm = minimize(f, x0=x, constraints=[g, outside_disc], penalty=10, iterations=0).state.swarm
    assert swarm.pbest_loss[0].tolist() == pytest.approx([3 + 10 * (3 + 24), 0.1])


def test_what_is_not_feasible_is_called_so():
    few = {"swarms": 2, "iterations": 5}
    found = minimize(bowl, bounds=BOX, constraints=[lambda x: x[:, 0] + 100], **few)
    assert found.feasible.tolist() == [False, False]
    assert float(found.value.min()) > 1000


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
