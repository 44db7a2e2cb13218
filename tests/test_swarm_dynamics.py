"""How swarms move, checked against the papers' equations written out entry by entry."""

import math
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradevo.randomness import generator_from
from gradevo.swarm.dynamics import EMPSO, PSO, REMPSO, MomentumPSO
from gradevo.swarm.rotation import givens, principal_axes
from gradevo.swarm.search import Box, move, score, start
from problems import bits

FEW = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
WORST = (math.nan, math.inf, -math.inf)
LOSSES = st.one_of(st.floats(-1e3, 1e3), st.sampled_from(WORST))
RULES = {
    "pso": PSO(w=0.6),
    "momentum": MomentumPSO(lam=0.3),
    "empso": EMPSO(),
    "empso, corrected": EMPSO(bias_correction=True),
    "rempso, pairs": REMPSO(rotated=0.8),
    "rempso, covariance": REMPSO(axes="covariance"),
}
EVERY_RULE = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape, seed=1):
    return torch.randn(shape, generator=generator_from(seed), dtype=torch.float64)


def bowl(x):
    return x.square().sum(dim=-1)


def run(rule, moves, *, seed=0, shape=(2, 4, 5), box=None, f=bowl):
    """All swarms from the start on."""
    generator, x = generator_from(seed), normal(*shape)
    swarms = [start(x, f(x), rule)]
    for _ in range(moves):
        swarm = move(swarms[-1], rule, generator, box)
        swarms.append(score(swarm, f(swarm.x)))
    return swarms


# --- the equations, in loops ---------------------------------------------------------------


def axes_of(rule, x, generator):
    """The rotation A of one move as a list of rows: the axes along which r is drawn."""
    dims = x.shape[1]
    if not isinstance(rule, REMPSO):
        return np.eye(dims).tolist()
    if rule.axes == "covariance":
        return np.linalg.eigh(np.cov(x.numpy().T, bias=True)).eigenvectors.T.tolist()
    pairs = int(rule.rotated * dims) // 2
    chosen = torch.randperm(dims, generator=generator)[: 2 * pairs].tolist()
    matrix = np.eye(dims)
    for i, j in zip(sorted(chosen[:pairs]), chosen[pairs:], strict=True):
        matrix[i, i] = matrix[j, j] = math.cos(rule.angle)
        matrix[i, j], matrix[j, i] = -math.sin(rule.angle), math.sin(rule.angle)
    return matrix.tolist()


def pulled(c, r, best, x, axes):
    """A^T diag(c r) A (best - x), entry by entry."""
    dims = range(len(x))
    gap = [best[d] - x[d] for d in dims]
    turned = [c * r[k] * sum(axes[k][d] * gap[d] for d in dims) for k in dims]
    return [sum(axes[k][d] * turned[k] for k in dims) for d in dims]


def new_velocity(rule, v, m, pull, t):
    """Equations 1, 3 and 4 to 6 for one entry: the next v and m."""
    if isinstance(rule, PSO):
        return rule.w * v + pull, m
    if isinstance(rule, MomentumPSO):
        return (v + pull) * (1 - rule.lam) + rule.lam * m, v
    m = rule.beta * m + (1 - rule.beta) * v
    return (m / (1 - rule.beta**t) if rule.bias_correction else m) + pull, m


def moved_in_loops(rule, swarm, generator):
    """x, v and m of one swarm after one move, as lists."""
    (x, v, m, pbest), gbest = (
        (t[0].tolist() for t in (swarm.x, swarm.v, swarm.m, swarm.pbest)),
        (swarm.pbest[0, int(swarm.pbest_loss[0].argmin())].tolist()),
    )
    particles, dims = len(x), len(x[0])
    shape = (1, particles, dims if rule.per_entry else 1)
    r1, r2 = (
        torch.rand(shape, generator=generator, dtype=torch.float64)[0].expand(-1, dims).tolist()
        for _ in range(2)
    )
    axes = axes_of(rule, swarm.x[0], generator)
    for i in range(particles):
        own = pulled(rule.c1, r1[i], pbest[i], x[i], axes)
        social = pulled(rule.c2, r2[i], gbest, x[i], axes)
        for d in range(dims):
            pull = own[d] + social[d]
            v[i][d], m[i][d] = new_velocity(rule, v[i][d], m[i][d], pull, swarm.moves + 1)
            x[i][d] += v[i][d]
    return tensor(x), tensor(v), tensor(m)


@pytest.mark.parametrize(
    "rule",
    [*RULES.values(), PSO(per_entry=False), MomentumPSO(per_entry=False), EMPSO(per_entry=False)],
    ids=repr,
)
def test_every_rule_is_its_equation_over_several_moves(rule):
    generator, mirror = generator_from(5), generator_from(5)
    x = normal(1, 4, 5)
    swarm = start(x, bowl(x), rule)
    for _ in range(4):
        expected = moved_in_loops(rule, swarm, mirror)
        swarm = move(swarm, rule, generator)
        for got, wanted in zip((swarm.x, swarm.v, swarm.m), expected, strict=True):
            torch.testing.assert_close(got[0], wanted, rtol=1e-9, atol=1e-11)
        swarm = score(swarm, bowl(swarm.x))


def test_momentum_is_carried_over_as_equation_7_expands_it():
    swarms = run(EMPSO(beta=0.7), 5)
    expected = sum(0.7**age * 0.3 * swarms[4 - age].v for age in range(5))
    assert float(swarms[5].m.abs().max()) > 0
    torch.testing.assert_close(swarms[5].m, expected)


def test_forgetting_the_momentum_changes_the_next_move():
    swarm = run(EMPSO(), 3)[-1]
    kept = move(swarm, EMPSO(), generator_from(0))
    forgot = move(replace(swarm, m=torch.zeros_like(swarm.m)), EMPSO(), generator_from(0))
    torch.testing.assert_close(kept.v - forgot.v, 0.9 * swarm.m)


def test_draws_per_particle_confine_a_swarm_to_the_span_of_its_start_and_per_entry_do_not():
    def rank_of(rule):
        x = normal(1, 3, 8)
        swarm = start(x, bowl(x), rule)
        for step in range(5):
            swarm = move(swarm, rule, generator_from(step))
            swarm = score(swarm, bowl(swarm.x))
        return int(torch.linalg.matrix_rank(torch.cat([x[0], swarm.x[0]])))

    assert rank_of(EMPSO(per_entry=False)) == 3
    assert rank_of(EMPSO()) > 3


# --- stability -----------------------------------------------------------------------------

UNSTABLE = {
    "beta 0": (EMPSO, {"beta": 0.0}, r"beta: must lie in \(0, 1\) .*got 0.0"),
    "beta 1": (EMPSO, {"beta": 1.0}, r"beta: must lie in \(0, 1\) .*got 1.0"),
    "beta below": (REMPSO, {"beta": -0.1}, r"beta: must lie in \(0, 1\) .*got -0.1"),
    "EMPSO's pulls": (EMPSO, {"c1": 1.2, "c2": 0.9}, r"c1 \+ c2: must be at most 2 .*got 2.1"),
    "REMPSO's pulls": (REMPSO, {"c1": 3.0}, r"c1 \+ c2: must be at most 2 .*got 3.9"),
    "momentum's pulls": (MomentumPSO, {"c2": 1.5}, r"c1 \+ c2: must be at most 2 .*got 2.3"),
    "lambda": (MomentumPSO, {"lam": 1.0}, r"lam: must lie in \[0, 1\) .*got 1.0"),
    "inertia": (PSO, {"w": 1.0}, r"w: must lie in \[0, 1\) .*got 1.0"),
    "PSO's pulls": (
        PSO,
        {"w": 0.5, "c1": 2.0, "c2": 2.0},
        r"c1 \+ c2: must be below 4.000 .*got 4",
    ),
}


@pytest.mark.parametrize("kind, fields, message", UNSTABLE.values(), ids=UNSTABLE)
def test_an_unstable_setting_is_refused_with_its_bound_unless_allowed(kind, fields, message):
    with pytest.raises(ValueError, match=f"{message}.*allow_unstable=True"):
        kind(**fields)
    allowed = kind(**fields, allow_unstable=True)
    assert run(allowed, 2)[-1].moves == 2


@pytest.mark.parametrize("kind", [PSO, MomentumPSO, EMPSO, REMPSO])
@pytest.mark.parametrize(
    "fields", [{"c1": -0.1}, {"c2": math.nan}, {"clamp": 0.0}, {"bounce": 1.5}], ids=str
)
def test_a_setting_without_meaning_is_refused_always(kind, fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))}: must"):
        kind(**fields, allow_unstable=True)


@pytest.mark.parametrize(
    "kind, field", [(PSO, "w"), (MomentumPSO, "lam"), (EMPSO, "beta"), (REMPSO, "angle")]
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_coefficient_that_is_not_finite_is_refused_even_if_instability_is_allowed(
    kind, field, value
):
    with pytest.raises(ValueError, match=f"{field}: must be"):
        kind(**{field: value}, allow_unstable=True)


def test_the_bounds_themselves_are_accepted():
    assert EMPSO(c1=1.0, c2=1.0).beta == 0.9
    assert PSO().c1 == 1.49618
    assert EMPSO(c1=0.0, c2=0.0).c1 == 0


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"axes": "random"}, "axes: must be one of pairs, covariance"),
        ({"rotated": 1.1}, r"rotated: must lie in \[0, 1\], got 1.1"),
        ({"per_entry": False}, "per_entry: must be True for REMPSO"),
    ],
)
def test_a_rotation_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        REMPSO(**fields)


# --- rotations -----------------------------------------------------------------------------


@FEW
@given(st.integers(1, 40), st.floats(0, 1), st.floats(-7, 7), SEEDS)
def test_pairs_of_axes_turn_without_changing_lengths_and_turn_back(dims, rotated, angle, seed):
    turn = givens(dims, rotated, angle, generator_from(seed), tensor(0.0))
    d = normal(2, 3, dims, seed=seed)
    turned = turn.forward(d.clone())
    torch.testing.assert_close(turned.norm(dim=-1), d.norm(dim=-1))
    torch.testing.assert_close(turn.back(turned), d)


@FEW
@given(st.integers(2, 40), st.floats(0, 1), SEEDS)
def test_the_share_asked_for_is_rotated_each_axis_once(dims, rotated, seed):
    turn = givens(dims, rotated, math.pi / 5, generator_from(seed), tensor(0.0))
    axes = [*turn.i.tolist(), *turn.j.tolist()]
    assert len(set(axes)) == len(axes) == 2 * max(int(rotated * dims) // 2, rotated > 0)
    changed = turn.forward(torch.ones(dims, dtype=torch.float64)) != 1
    assert sorted(axes) == changed.nonzero()[:, 0].tolist()


def test_axes_are_drawn_anew_for_every_move():
    generator = generator_from(0)
    drawn = {tuple(givens(20, 0.4, 1.0, generator, tensor(0.0)).i.tolist()) for _ in range(5)}
    assert len(drawn) == 5


def test_principal_axes_diagonalise_each_swarms_covariance():
    x = normal(3, 12, 5) @ normal(5, 5, seed=2)
    basis = principal_axes(x)
    for swarm, vectors in zip(x, basis.vectors, strict=True):
        covariance = vectors.T @ torch.cov(swarm.T, correction=0) @ vectors
        torch.testing.assert_close(covariance, covariance.diag().diag(), rtol=0, atol=1e-10)
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(5, dtype=torch.float64))
    d = normal(3, 4, 5, seed=3)
    torch.testing.assert_close(basis.back(basis.forward(d)), d)


def test_pairs_never_build_a_matrix_of_dims_by_dims():
    x = torch.rand(1, 2, 200_000, generator=generator_from(0))  # such a matrix takes 160 GB
    swarm = move(start(x, bowl(x), REMPSO()), REMPSO(), generator_from(0))
    assert bool(swarm.x.isfinite().all())


# --- bests ---------------------------------------------------------------------------------


@FEW
@given(st.lists(st.lists(LOSSES, min_size=6, max_size=6), min_size=2, max_size=8), SEEDS)
def test_gbest_never_worsens_and_is_the_best_finite_loss_seen(rounds, seed):
    losses = tensor(rounds).view(-1, 2, 3)  # two swarms of three
    generator = generator_from(seed)
    swarm = start(normal(2, 3, 4), losses[0], EMPSO())
    for t in range(1, len(losses)):
        before = swarm.gbest_loss
        swarm = score(move(swarm, EMPSO(), generator), losses[t])
        assert bool((swarm.gbest_loss <= before).all())
    seen = torch.where(losses.isfinite(), losses, math.inf)
    assert swarm.gbest_loss.tolist() == seen.amin(dim=(0, 2)).tolist()
    assert swarm.pbest_loss.tolist() == seen.amin(dim=0).tolist()


@pytest.mark.parametrize("bad", WORST)
def test_a_particle_without_a_finite_loss_never_becomes_a_best(bad):
    losses = tensor([[bad, 2.0, bad]])
    swarm = start(normal(1, 3, 2), losses, EMPSO())
    assert swarm.leader.tolist() == [1]
    assert swarm.pbest_loss.tolist() == [[math.inf, 2.0, math.inf]]
    old = swarm.pbest.clone()
    swarm = score(move(swarm, EMPSO(), generator_from(0)), tensor([[bad, bad, 1.0]]))
    assert swarm.leader.tolist() == [2]
    assert torch.equal(swarm.pbest[:, :2], old[:, :2])
    assert torch.equal(swarm.gbest, swarm.x[:, 2])


def test_equal_is_not_better():
    swarm = start(normal(1, 3, 2), tensor([[3.0, 1.0, 2.0]]), EMPSO())
    after = score(move(swarm, EMPSO(), generator_from(0)), tensor([[1.0, 1.0, 1.0]]))
    assert after.leader.tolist() == [1]
    assert torch.equal(after.gbest, swarm.gbest)


# --- moves ---------------------------------------------------------------------------------


@EVERY_RULE
@pytest.mark.parametrize("bounce", [0.0, 0.5, 1.0])
def test_particles_stay_in_the_box_and_turn_round_at_its_wall(rule, bounce):
    low, high = tensor([-1.0, -2.0, -0.5, -1.0, 0.0]), 1.0
    rule = replace(rule, bounce=bounce)
    box = Box(low, high)
    swarm = start(box.clip(normal(2, 4, 5)), normal(2, 4), rule)
    swarm, hits = replace(swarm, v=normal(2, 4, 5, seed=3)), 0
    for step in range(6):
        free = move(swarm, rule, generator_from(step))
        swarm = move(swarm, rule, generator_from(step), box)
        inside = free.x.clamp(low, tensor(high))
        hits += int((inside != free.x).sum())
        assert torch.equal(swarm.x, inside)
        turned = torch.where(inside == free.x, free.v, -bounce * free.v)
        assert torch.equal(swarm.v, turned) and torch.equal(swarm.m, free.m)
        swarm = score(swarm, -swarm.x.sum(dim=-1))
    assert hits > 0


@EVERY_RULE
def test_no_entry_is_faster_than_the_clamp(rule):
    clamped = replace(rule, clamp=0.05)
    swarms = run(clamped, 5)
    steps = [(b.x - a.x).abs().max() for a, b in pairwise(swarms)]
    assert float(steps[0]) == pytest.approx(0.05)
    assert max(map(float, steps)) <= 0.05 + 1e-12
    assert float((run(rule, 1)[1].x - run(rule, 1)[0].x).abs().max()) > 0.05


@EVERY_RULE
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(rule):
    assert bits(run(rule, 4)[-1]) == bits(run(rule, 4)[-1])
    assert bits(run(rule, 4)[-1]) != bits(run(rule, 4, seed=1)[-1])


@EVERY_RULE
def test_global_random_states_and_the_swarm_before_are_left_alone(rule):
    before = torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())
    swarm = run(rule, 2)[-1]
    old = bits(swarm)
    score(move(swarm, rule, generator_from(0), Box(-1, 1)), bowl(swarm.x))
    assert bits(swarm) == old
    assert before == (
        torch.get_rng_state().tolist(),
        random.getstate(),
        repr(np.random.get_state()),
    )


@pytest.mark.parametrize("rule", [EMPSO(), EMPSO(per_entry=False), REMPSO()], ids=repr)
def test_averages_of_the_pulls_have_one_shape_from_the_start_on(rule):
    before, after = run(rule, 1)
    assert before.cr1.shape == after.cr1.shape == (2, 1, 5 if rule.per_entry else 1)
    assert before.cr2.shape == after.cr2.shape
    assert before.cr2.unique().tolist() == [rule.c2 / 2]
    assert bool(((after.cr1 >= 0) & (after.cr1 < rule.c1)).all())


@EVERY_RULE
def test_every_rule_finds_the_bottom_of_a_bowl(rule):
    swarms = run(rule, 150, shape=(3, 15, 3))
    assert float(swarms[-1].gbest_loss.max()) < 1e-3 < float(swarms[0].gbest_loss.min())
