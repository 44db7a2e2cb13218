"""Gradient descent with a swarm's gradient: its path, and when it hits and settles."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradevo.randomness import generator_from
from gradevo.swarm.dynamics import EMPSO, PSO
from gradevo.swarm.emulate import emulate, first_hit, settling
from gradevo.swarm.search import Box, move, score, start

MANY = settings(max_examples=40, deadline=None)
BOX = ([-2.0, -2.0], [2.0, 2.0])


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def bowl(x):
    return (x - 0.5).square().sum(dim=1)


def replayed(rule, x, moves, seed=0, box=None):
    """The swarm after each move, as it goes when nothing descends beside it."""
    generator = generator_from(seed)
    swarm = start(x, bowl(x.flatten(0, 1)).view(x.shape[:2]), rule)
    for _ in range(moves):
        swarm = move(swarm, rule, generator, box)
        swarm = score(swarm, bowl(swarm.x.flatten(0, 1)).view(x.shape[:2]))
        yield swarm


# --- the updates ---------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("estimator", ["near", "starred"])
def test_w_follows_equations_11_and_16_with_the_swarms_gradient(momentum, estimator):
    x = torch.rand(2, 6, 3, generator=generator_from(3), dtype=torch.float64)
    w = [[5.0, 4.0, 3.0], [-5.0, 0.0, 1.0]]
    rule, lr = EMPSO(), 0.2
    run = emulate(
        bowl, x, w0=tensor(w), lr=lr, momentum=momentum, iterations=4, dynamics=rule,
        estimator=estimator,
    )  # fmt: skip
    velocity = [[0.0] * 3, [0.0] * 3]
    for t, swarm in enumerate(replayed(rule, x, 4), start=1):
        for s in range(2):
            leader = int(swarm.pbest_loss[s].argmin())
            for d in range(3):
                cr = float(swarm.cr1[s, 0, d] + swarm.cr2[s, 0, d])
                gradient = cr / lr * (w[s][d] - float(swarm.pbest[s, leader, d]))
                if estimator == "starred":
                    gradient -= float(swarm.v[s, leader, d])
                velocity[s][d] = momentum * velocity[s][d] + (1 - momentum) * gradient
                w[s][d] -= lr * velocity[s][d]
        torch.testing.assert_close(run.path[t], tensor(w))


@pytest.mark.parametrize("lr", [1e-4, 0.1, 3.0])
def test_the_learning_rate_cancels_without_momentum(lr):
    paths = [emulate(bowl, bounds=BOX, lr=rate, iterations=10, swarms=3).path for rate in (1.0, lr)]
    torch.testing.assert_close(*paths, rtol=1e-4, atol=1e-5)


def test_w_trails_gbest_by_a_factor_of_015_an_iteration():
    x = torch.full((1, 5000, 1), 0.5)  # all particles at the minimum: gbest never moves
    run = emulate(bowl, x, w0=tensor([8.5]), iterations=5)
    distance = (run.path[:, 0, 0] - 0.5).double()
    assert (distance[1:] / distance[:-1]).tolist() == pytest.approx([0.15] * 5, abs=0.02)


def test_the_gradient_is_never_that_of_the_function():
    """f is only evaluated: where it jumps and has no slope at all, w still arrives."""

    def steps(x):
        return x.abs().mul(4).ceil().sum(dim=1)

    run = emulate(steps, bounds=([-3.0], [2.5]), w0=tensor([2.5]), iterations=60, swarms=20)
    assert float((run.settled(1.0, minimum=0.0) < 60).double().mean()) == 1


@pytest.mark.parametrize("momentum, rule", [(0.0, PSO(c1=0.8, c2=0.9)), (0.7, EMPSO(beta=0.7))])
def test_the_default_swarm_is_plain_without_momentum_and_empso_with_it(momentum, rule):
    default, named = (
        emulate(bowl, bounds=BOX, momentum=momentum, iterations=9, dynamics=dynamics).path
        for dynamics in (None, rule)
    )
    assert torch.equal(default, named)


# --- starts and bounds ---------------------------------------------------------------------


def test_w_starts_at_particle_0_or_where_it_is_told():
    x0 = torch.rand(3, 5, 2)
    assert torch.equal(emulate(bowl, x0, iterations=0).path[0], x0[:, 0])
    w0 = torch.tensor([1.0, 2.0])
    assert emulate(bowl, x0, w0=w0, iterations=0).path[0].tolist() == [[1.0, 2.0]] * 3
    many = torch.rand(3, 2)
    assert torch.equal(emulate(bowl, x0, w0=many, iterations=0).path[0], many)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_particles_and_w_stay_in_the_box(momentum):
    seen = []

    def falling(x):
        seen.append(x.clone())
        return -x.sum(dim=1)

    run = emulate(falling, bounds=BOX, momentum=momentum, iterations=60, swarms=4)
    points = torch.cat([*seen, run.path.flatten(0, 1)])
    assert bool(((points >= -2) & (points <= 2)).all())
    assert float(run.values[-1].max()) == pytest.approx(-4, abs=0.1)


def test_values_are_those_of_the_path_and_are_not_counted():
    count = 0

    def counted(x):
        nonlocal count
        count += len(x)
        return bowl(x)

    run = emulate(counted, bounds=BOX, particles=7, swarms=3, iterations=11)
    assert run.path.shape == (12, 3, 2)
    assert torch.equal(run.values.flatten(), bowl(run.path.flatten(0, 1)))
    assert run.evaluations == 7 * 12
    assert count == 3 * run.evaluations + 12 * 3


def test_particles_and_places_where_f_is_nan_are_survived():
    run = emulate(
        lambda x: torch.where(x[:, 0] < 0, math.nan, x.sqrt()[:, 0]),
        bounds=(tensor([-1.0]), tensor([2.0])), w0=tensor([-1.0]), swarms=10, iterations=200,
    )  # fmt: skip
    assert bool(run.values[0].isnan().all())
    assert bool(run.path.isfinite().all())
    assert bool((run.swarm.gbest >= 0).all())
    assert float(run.hit(0.1, minimum=0.0).median()) < 200


# --- hit and settled -----------------------------------------------------------------------


def test_hit_is_the_first_time_near_and_settled_the_first_for_good():
    values = tensor([
        [9, 1, 9, 1, 1],  # hit at 1, lost again, for good from 3 on
        [1, 1, 1, 1, 1],
        [9, 9, 9, 9, 9],
        [9, 9, 1, 9, 9],
        [9, 9, 9, 9, 1],
        [9, math.nan, 1, math.nan, 1],
    ]).T  # fmt: skip
    assert first_hit(values, 0.5, minimum=1.2).tolist() == [1, 0, math.inf, 2, 4, 2]
    assert settling(values, 0.5, minimum=1.2).tolist() == [3, 0, math.inf, math.inf, 4, 4]


def test_an_emulation_is_asked_about_its_own_values():
    run = emulate(bowl, bounds=BOX, swarms=9, iterations=30)
    assert torch.equal(run.hit(0.1, 0.0), first_hit(run.values, 0.1, 0.0))
    assert torch.equal(run.settled(0.1, 0.0), settling(run.values, 0.1, 0.0))
    assert bool((run.settled(0.1, 0.0) > 0).any())


def test_both_sides_of_the_minimum_count_and_the_tolerance_itself_is_near():
    values = tensor([[0.5, 1.5, 0.4, 1.6]])
    assert first_hit(values, 0.5, minimum=1.0).tolist() == [0, 0, math.inf, math.inf]


@MANY
@given(st.lists(st.floats(-2, 2, allow_nan=False), min_size=1, max_size=20), st.floats(0, 2))
def test_settling_is_never_before_the_hit_and_holds_ever_after(values, tolerance):
    path = tensor([values]).T
    hit, settled = float(first_hit(path, tolerance, 0.0)), float(settling(path, tolerance, 0.0))
    near = [abs(value) <= tolerance for value in values]
    assert hit == (near.index(True) if any(near) else math.inf)
    assert settled >= hit
    if settled < math.inf:
        assert all(near[int(settled) :])
        assert settled == 0 or not near[int(settled) - 1]
    else:
        assert not near[-1]


# --- random numbers, refusals --------------------------------------------------------------


@MANY
@given(st.integers(0, 2**31 - 1))
def test_the_same_seed_gives_the_same_bits_and_global_state_is_left_alone(seed):
    before = torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())
    one, two, three = (
        emulate(bowl, bounds=BOX, seed=s, iterations=4).path for s in (seed, seed, seed + 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert before == (
        torch.get_rng_state().tolist(),
        random.getstate(),
        repr(np.random.get_state()),
    )


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"lr": 0.0}, "lr: must be a finite positive number, got 0.0"),
        ({"momentum": 1.0}, r"momentum: must lie in \[0, 1\), got 1.0"),
        ({"momentum": math.nan}, r"momentum: must lie in \[0, 1\), got nan"),
        ({"iterations": -1}, "iterations: must be a whole number of at least 0, got -1"),
        ({"estimator": "rank"}, "estimator: must be one of near, starred, got 'rank'"),
        ({"w0": torch.zeros(3)}, r"w0: must have shape \(2,\) or \(1, 2\), got \(3,\)"),
        ({"w0": torch.tensor([0.0, math.nan])}, "w0: must be finite"),
        ({"particles": 1}, "particles: must be a whole number of at least 2, got 1"),
    ],
)
def test_an_argument_out_of_range_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        emulate(bowl, bounds=BOX, **fields)


def test_another_shape_is_refused_with_what_came_and_what_was_expected():
    with pytest.raises(ValueError, match=r"f: must return .*\(20,\) for 20 points, got \(20, 2\)"):
        emulate(lambda x: x, bounds=BOX)


def test_the_box_of_a_replay_is_the_one_given():
    x = torch.rand(1, 4, 2, generator=generator_from(0))
    run = emulate(bowl, x, bounds=(0.0, 1.0), iterations=3, dynamics=EMPSO())
    *_, last = replayed(EMPSO(), x, 3, box=Box(0.0, 1.0))
    assert torch.equal(run.swarm.x, last.x)
