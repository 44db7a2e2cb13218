"""Gradients from evaluated points: each estimator's formula, and what it must never say."""

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gradevo.randomness import generator_from
from gradevo.swarm.dynamics import EMPSO, REMPSO, Swarm
from gradevo.swarm.estimators import ESTIMATORS, Cloud, covariance, rank, regression, tie
from gradevo.swarm.gradient import around, gradient, visit

MANY = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
FROM_POINTS = {name: ESTIMATORS[name] for name in ("regression", "covariance", "rank", "tie")}
WORST = (math.nan, math.inf, -math.inf)


def normal(*shape, seed=1):
    return torch.randn(shape, generator=generator_from(seed), dtype=torch.float64)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def cosine(a, b):
    return F.cosine_similarity(a, b, dim=-1)


def bowl(x):
    return x.square().sum(dim=-1)


def cloud_of(f, swarms=3, n=12, dims=4, seed=1):
    points = normal(swarms, n, dims, seed=seed)
    return Cloud(normal(swarms, dims, seed=seed + 1), points, f(points))


# --- regression and covariance -------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 10])
def test_the_sign_of_every_entry_on_a_quadratic_is_right_in_99_per_cent_of_draws(dims):
    scale = normal(dims).exp()
    w = normal(400, dims, seed=2)
    w = w.sign() * w.abs().clamp(min=0.2)  # at exactly 0 there is no sign to be right about
    found = gradient(lambda x: (scale * x.square()).sum(dim=1), w, generator=generator_from(3))
    right = (found.direction.sign() == w.sign()).all(dim=1)
    assert float(right.double().mean()) >= 0.99


@pytest.mark.parametrize("dims", [10, 100])
def test_2d_plus_1_points_reach_a_cosine_of_099_in_95_per_cent_of_trials(dims):
    """On a smooth function that is far from quadratic."""

    def f(x):
        return (x.cos() + 0.3 * (2 * x).exp()).sum(dim=-1) + torch.log1p(bowl(x))

    w = normal(60, dims).requires_grad_()
    (truth,) = torch.autograd.grad(f(w).sum(), w)
    found = gradient(f, w, generator=generator_from(1))
    assert found.evaluations == 2 * dims + 1
    assert float((cosine(found.direction, truth) >= 0.99).double().mean()) >= 0.95
    assert float((found.direction.norm() / truth.norm() - 1).abs()) < 0.05  # a gradient's size


@MANY
@given(SEEDS, st.integers(1, 6), st.integers(0, 4), st.sampled_from(WORST))
def test_regression_is_exact_on_linear_functions_whatever_points_failed(seed, dims, bad, worst):
    slope = normal(dims, seed=seed)
    cloud = cloud_of(lambda x: x @ slope + 7, n=dims + 6, dims=dims, seed=seed)
    cloud.losses[:, :bad] = worst
    torch.testing.assert_close(regression(cloud), slope.expand(3, -1), rtol=1e-6, atol=1e-8)


def test_regression_with_too_few_points_is_the_shortest_slope_that_explains_them():
    slope = normal(9)
    cloud = cloud_of(lambda x: x @ slope, swarms=1, n=4, dims=9)
    design = cloud.points[0] - cloud.points[0].mean(dim=0)
    shortest = torch.linalg.pinv(design) @ (design @ slope)
    found = regression(cloud)[0]
    torch.testing.assert_close(cloud.points[0].diff(dim=0) @ found, cloud.losses[0].diff())
    assert float(cosine(found, shortest)) > 0.999  # the weights move the mean a little


def test_regression_trusts_near_points_more():
    points = tensor([[[-1.0], [1.0], [-5.0], [5.0]]])
    cloud = Cloud(tensor([[0.0]]), points, tensor([[-1.0, 1.0, 0.0, 0.0]]))
    plain = float((points * cloud.losses.unsqueeze(2)).sum() / points.square().sum())
    assert float(regression(cloud)) > 2 * plain


def test_covariance_is_each_coordinates_own_slope_without_failed_points():
    cloud = cloud_of(lambda x: x.sin().sum(dim=-1) + x[..., 0])
    cloud.losses[:, 2] = math.nan
    kept = [i for i in range(12) if i != 2]
    for found, points, losses in zip(covariance(cloud), cloud.points, cloud.losses, strict=True):
        for d in range(4):
            slope = np.polyfit(points[kept, d].numpy(), losses[kept].numpy(), 1)[0]
            assert float(found[d]) == pytest.approx(slope)


# --- rank and tie --------------------------------------------------------------------------


def weights_of(estimator, losses):
    """The weight of each point: points on the axes, seen from 0, are minus the weights."""
    losses = tensor([losses])
    n = losses.shape[1]
    cloud = Cloud(torch.zeros(1, n).double(), torch.eye(n).double().unsqueeze(0), losses)
    return (-estimator(cloud)[0]).tolist()


def test_rank_weights_are_the_logarithms_of_the_ranks():
    raw = [max(0.0, math.log(5 / 2) - math.log(k)) for k in (1, 2, 3, 4)]
    by_rank = [value / sum(raw) for value in raw]
    assert weights_of(rank, [3.0, 1.0, 9.0, 2.0]) == pytest.approx(
        [by_rank[i] for i in (2, 0, 3, 1)]
    )


def test_equal_losses_share_their_rank():
    distinct = weights_of(rank, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    shared = weights_of(rank, [1.0, 2.0, 2.0, 2.0, 5.0, 6.0])
    assert shared[1:4] == pytest.approx([sum(distinct[1:4]) / 3] * 3)
    assert [shared[0], *shared[4:]] == pytest.approx([distinct[0], *distinct[4:]])


@MANY
@given(st.lists(st.one_of(st.integers(-9, 9), st.sampled_from(WORST[:2])), min_size=3, max_size=9))
def test_rank_sees_only_the_order_of_the_losses(losses):
    losses = tensor([[float(value) for value in losses]])
    points = normal(1, losses.shape[1], 3)
    found = [
        rank(Cloud(normal(1, 3), points, increasing(losses)))
        for increasing in (lambda v: v, torch.exp, lambda v: v**3 - 4, lambda v: 1e-9 * v)
    ]
    assert all(torch.equal(found[0], other) for other in found)


def test_tie_is_away_from_the_mean_of_all_best_points():
    assert weights_of(tie, [1.0, 0.0, math.nan, 0.0]) == [0.0, 0.5, 0.0, 0.5]
    assert weights_of(tie, [3.0, 2.0, 1.0]) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ["rank", "tie", "near", "starred"])
def test_directions_ascend(name):
    w = normal(30, 5) * 2
    found = gradient(bowl, w, estimator=name, spread=1.0, particles=40, iterations=3)
    assert float((cosine(found.direction, w) > 0).double().mean()) > 0.9


# --- the papers' forms ---------------------------------------------------------------------


def swarm_by_hand():
    """One swarm of two particles in two dimensions; particle 1 leads."""
    return Swarm(
        x=tensor([[[9.0, 9.0], [8.0, 8.0]]]),
        v=tensor([[[5.0, 5.0], [0.5, -1.0]]]),
        m=tensor([[[7.0, 7.0], [7.0, 7.0]]]),
        pbest=tensor([[[6.0, 6.0], [1.0, 2.0]]]),
        pbest_loss=tensor([[4.0, 3.0]]),
        leader=torch.tensor([1]),
        cr1=tensor([[[0.3, 0.1]]]),
        cr2=tensor([[[0.2, 0.4]]]),
    )


def test_near_is_equation_15_and_starred_adds_the_leaders_velocity():
    swarm, w = swarm_by_hand(), tensor([[2.0, 4.0]])
    cloud = Cloud(w, swarm.x, tensor([[0.0, 0.0]]), swarm, eta=0.1)
    near = [(0.3 + 0.2) / 0.1 * (2 - 1), (0.1 + 0.4) / 0.1 * (4 - 2)]
    assert ESTIMATORS["near"](cloud)[0].tolist() == pytest.approx(near)
    starred = [near[0] - 0.5, near[1] + 1.0]
    assert ESTIMATORS["starred"](cloud)[0].tolist() == pytest.approx(starred)


@pytest.mark.parametrize("name", ["near", "starred"])
def test_the_papers_forms_need_the_swarm(name):
    with pytest.raises(ValueError, match=f"'{name}' needs the swarm"):
        ESTIMATORS[name](cloud_of(bowl))


# --- what holds for several ----------------------------------------------------------------


@pytest.mark.parametrize("name", FROM_POINTS)
@MANY
@given(
    value=st.floats(-1e6, 1e6), bad=st.integers(0, 7), n=st.integers(2, 12), dims=st.integers(1, 5)
)
def test_a_constant_loss_gives_exactly_zero(name, value, bad, n, dims):
    cloud = cloud_of(lambda x: torch.full(x.shape[:2], value).double(), n=n, dims=dims)
    if name in ("regression", "covariance"):
        cloud.losses[:, : min(bad, n)] = math.nan
    assert not FROM_POINTS[name](cloud).any()


@pytest.mark.parametrize("name", FROM_POINTS)
@pytest.mark.parametrize("bad", WORST)
def test_points_that_failed_never_make_the_direction_nan(name, bad):
    for failed in (slice(0, 5), slice(None)):
        cloud = cloud_of(bowl)
        cloud.losses[1:, failed] = bad
        found = FROM_POINTS[name](cloud)
        assert bool(found.isfinite().all())
        assert bool(found[0].any())
    assert not found[1:].any()  # where all failed


@pytest.mark.parametrize("name", ESTIMATORS)
@MANY
@given(order=st.permutations(range(4)), seed=SEEDS)
def test_permuting_the_swarms_permutes_the_directions(name, order, seed):
    w, x = normal(4, 3, seed=seed), normal(4, 7, 3, seed=seed + 1)
    cloud = visit(bowl, w, x, EMPSO(), 2, generator_from(seed))
    swarm = Swarm(
        **{k: v if isinstance(v, int) else v[order] for k, v in vars(cloud.swarm).items()}
    )
    other = Cloud(w[order], cloud.points[order], cloud.losses[order], swarm)
    torch.testing.assert_close(ESTIMATORS[name](other), ESTIMATORS[name](cloud)[order])


@pytest.mark.parametrize("name", FROM_POINTS)
def test_permuting_the_points_changes_nothing(name):
    cloud, order = cloud_of(bowl), torch.randperm(12, generator=generator_from(1))
    other = Cloud(cloud.w, cloud.points[:, order], cloud.losses[:, order])
    torch.testing.assert_close(FROM_POINTS[name](other), FROM_POINTS[name](cloud))


# --- the function --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("particles, iterations", [(None, 0), (6, 0), (6, 3)])
def test_the_number_of_evaluations_is_what_f_saw_for_each_w(name, particles, iterations):
    seen = []

    def f(x):
        seen.append(len(x))
        return bowl(x)

    found = gradient(f, normal(4, 3), estimator=name, particles=particles, iterations=iterations)
    assert found.direction.shape == (4, 3)
    assert found.evaluations * 4 == sum(seen) == 4 * (particles or 7) * (iterations + 1)


def test_all_points_that_a_moving_swarm_visits_are_used():
    x = around(normal(2, 3), 5, 3.0, generator_from(0))
    cloud = visit(bowl, normal(2, 3), x, REMPSO(rotated=1.0), 9, generator_from(1))
    assert cloud.points.shape == (2, 50, 3)
    assert torch.equal(cloud.losses, bowl(cloud.points))
    rounds = cloud.losses.view(2, 10, 5)
    assert bool((rounds.diff(dim=1) > 0).any())  # also those that are worse than before
    assert torch.equal(cloud.points[:, :5], x)


def test_a_function_may_return_the_same_tensor_every_time():
    kept = torch.empty(7, dtype=torch.float64)
    for name in ESTIMATORS:
        fields = {"estimator": name, "iterations": 3}
        found = gradient(lambda x: torch.mul(bowl(x), 1, out=kept), normal(3), **fields)
        assert torch.equal(found.direction, gradient(bowl, normal(3), **fields).direction)


@MANY
@given(SEEDS, st.floats(1e-3, 10))
def test_particles_start_uniformly_in_the_cube_around_w(seed, spread):
    w = normal(2, 3, seed=seed)
    offsets = around(w, 200, spread, generator_from(seed)) - w.unsqueeze(1)
    assert float(offsets.abs().max()) <= spread * (1 + 1e-9)
    assert float(offsets.abs().max()) > 0.9 * spread
    assert float(offsets.mean().abs()) < 0.12 * spread


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_same_seed_gives_the_same_bits_and_global_state_is_left_alone(name):
    before = torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())
    w = normal(3)
    one, two, three = (
        gradient(bowl, w, estimator=name, iterations=2, generator=generator_from(seed)).direction
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(one, gradient(bowl, w, estimator=name, iterations=2).direction)
    assert before == (
        torch.get_rng_state().tolist(),
        random.getstate(),
        repr(np.random.get_state()),
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_loss_of_another_dtype_is_taken(name):
    w = torch.tensor([1.0, -2.0])
    for f in (lambda x: bowl(x).double(), lambda x: bowl(x).round().long(), lambda x: bowl(x) > 5):
        found = gradient(f, w, estimator=name, spread=1.0, particles=9).direction
        assert found.dtype == torch.float32
        assert bool(found.isfinite().all())


def test_a_w_that_trains_is_not_touched_and_no_graph_is_kept():
    w = normal(3).requires_grad_()
    before = w.detach().clone()
    assert not gradient(bowl, w).direction.requires_grad
    assert torch.equal(w.detach(), before)


@pytest.mark.parametrize(
    "returned, got",
    [
        (lambda x: x.sum(), r"\(\)"),
        (lambda x: x, r"\(14, 3\)"),
        (lambda x: bowl(x)[1:], r"\(13,\)"),
        (lambda x: 1.5, "float"),
    ],
)
def test_a_function_of_another_shape_is_refused_with_both_shapes(returned, got):
    with pytest.raises(ValueError, match=rf"f: must return .*\(14,\) for 14 points, got {got}"):
        gradient(returned, normal(2, 3))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"estimator": "best"}, "estimator: must be one of near, .*got 'best'"),
        ({"particles": 1}, "particles: must be a whole number of at least 2, got 1"),
        ({"iterations": -1}, "iterations: must be a whole number of at least 0, got -1"),
        ({"spread": 0.0}, "spread: must be a finite positive number, got 0.0"),
        ({"eta": 0.0}, "eta: must be a finite positive number, got 0.0"),
    ],
)
def test_an_argument_out_of_range_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        gradient(bowl, normal(3), **fields)
