"""Selection, crossover, mutation, survival and diversity, as pure functions of tensors."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gradevo.algorithms.gadam import CROSSOVERS, MUTATIONS
from gradevo.algorithms.gadam import SELECTIONS as PARENTS
from gradevo.models import mlp
from gradevo.operators import coins, crossover, mutation, selection, survival
from gradevo.operators.alignment import permute
from gradevo.operators.diversity import mean_distance
from gradevo.operators.symmetry import find_symmetry
from gradevo.randomness import generator_from
from gradevo.structure import stack

MANY = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
WORST = st.sampled_from([math.nan, math.inf, -math.inf])
LOSSES = st.lists(st.one_of(st.floats(-1e100, 1e100), WORST), min_size=1, max_size=9)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
SHAPES = pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 3, 2, 2)])


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def some(losses):
    losses = tensor(losses)
    assume(bool(losses.isfinite().any()))
    return losses


def pair(shape, dtype=torch.float32, n=3):
    both = torch.randn(2, n, *shape, generator=generator_from(1), dtype=torch.float64)
    return both.to(dtype).unbind(0)


# --- selection -----------------------------------------------------------------------------


def test_softmax_fitness_is_equation_8():
    losses = tensor([0.5, 2.5, 1.0])
    weights = [math.exp(-scaled) for scaled in (0.0, 1.0, 0.25)]
    expected = tensor([w / sum(weights) for w in weights])
    torch.testing.assert_close(selection.softmax_fitness(losses), expected)


def test_equal_losses_give_equal_fitness():
    assert selection.softmax_fitness(tensor([3.0] * 4)).tolist() == [0.25] * 4
    assert selection.normalise(tensor([3.0] * 4)).tolist() == [0.0] * 4


@MANY
@given(LOSSES)
def test_fitness_sums_to_1_and_is_exactly_0_for_members_that_are_not_finite(losses):
    losses = some(losses)
    p = selection.softmax_fitness(losses)
    assert float(p.sum()) == pytest.approx(1)
    assert bool((p[~losses.isfinite()] == 0).all())
    assert bool((p[losses.isfinite()] > 0).all())
    order = losses[losses.isfinite()].argsort()
    assert bool((p[losses.isfinite()][order].diff() <= 0).all())


@pytest.mark.parametrize("kind", PARENTS)
@MANY
@given(losses=LOSSES, seed=SEEDS)
def test_parents_are_never_members_that_are_not_finite(kind, losses, seed):
    losses = some(losses)
    parents = PARENTS[kind](losses, 20, generator_from(seed))
    assert parents.shape == (20, 2)
    assert bool(losses[parents].isfinite().all())


def test_softmax_parents_are_drawn_as_often_as_their_fitness_says():
    losses = tensor([0.0, 1.0, 0.3, math.nan])
    drawn = selection.softmax_parents(losses, 20000, generator_from(0)).flatten()
    frequency = drawn.bincount(minlength=4) / 40000
    assert frequency.tolist() == pytest.approx(selection.softmax_fitness(losses).tolist(), abs=0.01)


def test_a_tournament_is_won_by_the_best_of_those_drawn():
    losses = tensor([3.0, 1.0, 2.0, math.nan])
    drawn = selection.tournament_parents(losses, 20000, generator_from(0)).flatten()
    frequency = drawn.bincount(minlength=4) / 40000
    assert frequency.tolist() == pytest.approx([1 / 9, 5 / 9, 3 / 9, 0], abs=0.01)
    large = selection.tournament_parents(losses, 50, generator_from(0), size=60)
    assert set(large.flatten().tolist()) == {1}


def test_truncation_draws_from_the_best_share_only():
    losses = tensor([3.0, 1.0, 2.0, -math.inf, 0.5])
    drawn = selection.truncation_parents(losses, 200, generator_from(0), share=0.4)
    assert set(drawn.flatten().tolist()) == {1, 4}


def test_a_selection_out_of_range_is_refused_by_name_and_value():
    losses, generator = tensor([1.0]), generator_from(0)
    with pytest.raises(ValueError, match=r"size: must .*got 0"):
        selection.tournament_parents(losses, 1, generator, size=0)
    with pytest.raises(ValueError, match=r"share: must .*got 0"):
        selection.truncation_parents(losses, 1, generator, share=0.0)


@MANY
@given(LOSSES, SEEDS)
def test_the_fitter_parent_comes_first_and_the_pair_stays_the_same(losses, seed):
    losses = tensor(losses)
    parents = torch.randint(len(losses), (8, 2), generator=generator_from(seed))
    ordered = selection.fitter_first(parents, losses)
    rank = selection.finite_or_worst(losses)
    assert bool((rank[ordered[:, 0]] <= rank[ordered[:, 1]]).all())
    assert torch.equal(ordered.sort(dim=1)[0], parents.sort(dim=1)[0])


# --- survival ------------------------------------------------------------------------------


def test_of_equal_losses_the_earlier_survives_and_nan_ranks_last():
    losses = tensor([2.0, math.nan, 1.0, -math.inf, 2.0, 1.0, math.inf])
    assert survival.top(losses, 4).tolist() == [2, 5, 0, 4]
    assert survival.top(losses, 7).tolist() == [2, 5, 0, 4, 1, 3, 6]


@MANY
@given(LOSSES, st.integers(1, 9))
def test_no_survivor_is_worse_than_one_that_was_left_out(losses, count):
    losses = selection.finite_or_worst(tensor(losses))
    chosen = survival.top(losses, count)
    left = [float(v) for i, v in enumerate(losses) if i not in chosen.tolist()]
    assert len(chosen) == min(count, len(losses)) == len(set(chosen.tolist()))
    assert not left or float(losses[chosen].max()) <= min(left)


# --- crossover -----------------------------------------------------------------------------


def test_the_share_of_the_first_parent_is_equation_10():
    share = crossover.share_of_first(tensor([0.0, 4.0, 1.0]), torch.tensor([[2, 1], [0, 0]]))
    one, other = math.exp(-0.25), math.exp(-1.0)
    assert share.tolist() == pytest.approx([one / (one + other), 0.5])


@pytest.mark.parametrize("p", [0.0, 1e-4, 0.01, 0.3, 0.5, 0.999, 1.0])
def test_a_coin_shows_as_often_as_asked_in_every_row_and_entries_are_independent(p):
    shown = coins.toss(torch.empty(3, 50, 4001), tensor([p, 0.5, p]), generator_from(4))
    n = 50 * 4001
    for row, wanted in zip(shown, (p, 0.5, p), strict=True):
        deviation = (wanted * (1 - wanted) / n) ** 0.5
        assert abs(float(row.double().mean()) - wanted) <= 4.5 * deviation
        both = float((row[:, 1:] & row[:, :-1]).double().mean())
        assert abs(both - wanted**2) <= 6 * (wanted**2 * (1 - wanted) * 3 / n) ** 0.5 + 1 / n
    assert not torch.equal(shown[0], shown[2]) or p in (0.0, 1.0)


def test_a_probability_between_two_levels_of_the_bits_is_met():
    shown = coins.toss(torch.empty(64, 2**16), tensor([1 - 2**-18] * 64), generator_from(0))
    assert 3 <= int((~shown).sum()) <= 40  # 16 expected; none, were the threshold just rounded


def test_coins_that_seldom_show_do_not_come_all_at_once():
    generator, p = generator_from(0), tensor([2**-18])
    hits = [int(coins.toss(torch.empty(1, 2**22), p, generator).sum()) for _ in range(20)]
    assert 2 <= min(hits) <= max(hits) <= 40  # 16 expected of independent coins


@pytest.mark.parametrize("p", [0.0, 0.004, 0.01, 0.5, 1 - 2**-18, 1.0])
@pytest.mark.parametrize("shape", [(3, 50, 4001), (3, 2**16 + 3), (300, 7), (3, 1), (3, 0)])
def test_picking_has_each_rows_probability_in_blocks_of_any_size(p, shape):
    share = tensor([p, 0.5, 1 - p]).repeat(shape[0] // 3)
    generator = generator_from(5)
    bits = [torch.randint(-(2**31), 2**31, shape, generator=generator).int() for _ in range(2)]
    first, second = (t.view(torch.float32) for t in bits)  # any bits at all, NaN too
    child = coins.pick(first, second, share, generator_from(4)).view(torch.int32)
    taken = child == bits[0]
    assert torch.equal(child[~taken], bits[1][~taken])
    n = max(1, taken[0].numel() * (shape[0] // 3))
    for k, wanted in enumerate((p, 0.5, 1 - p)):
        deviation = (wanted * (1 - wanted) / n) ** 0.5
        assert abs(float(taken[k::3].double().sum()) / n - wanted * (shape[-1] > 0)) <= (
            4.5 * deviation + 1e-9 + 3 / n * (0 < wanted < 1)
        )


@DTYPES
def test_uniform_crossover_takes_entries_of_the_first_parent_as_often_as_equation_9_says(dtype):
    share = tensor([0.7012, 0.2988])
    first, second = torch.ones(2, 999, 999, dtype=dtype), torch.zeros(2, 999, 999, dtype=dtype)
    child = crossover.uniform(first, second, share, generator_from(0))
    assert child.double().mean(dim=(1, 2)).tolist() == pytest.approx(share.tolist(), abs=0.0012)
    columns = child[0].double().mean(dim=0)  # no entry is bound to its neighbours
    assert 0.5 < float(columns.min()) < float(columns.max()) < 0.9


@SHAPES
def test_uniform_crossover_takes_every_entry_from_one_of_the_parents(shape):
    first, second = pair(shape)
    child = crossover.uniform(first, second, tensor([0.5] * 3), generator_from(0))
    assert bool(((child == first) | (child == second)).all())


def test_layerwise_crossover_takes_whole_tensors_as_often_as_the_share_says():
    first, second = torch.ones(20000, 2, 3), torch.zeros(20000, 2, 3)
    child = crossover.layerwise(first, second, torch.full((20000,), 0.7), generator_from(0))
    rows = child.flatten(1)
    assert bool((rows == rows[:, :1]).all())
    assert float(rows[:, 0].mean()) == pytest.approx(0.7, abs=0.01)


@SHAPES
def test_a_blend_lies_between_the_parents_at_the_share(shape):
    first, second = pair(shape, torch.float64)
    share = tensor([0.2, 0.5, 0.9])
    child = crossover.blend(first, second, share, generator_from(0))
    weight = share.view(-1, *[1] * len(shape))
    torch.testing.assert_close(child, weight * first + (1 - weight) * second)


# --- mutation ------------------------------------------------------------------------------


def test_the_mutation_rate_is_equation_12_kept_within_0_and_1():
    p = tensor([0.7, 0.2, 0.1])
    parents = torch.tensor([[1, 2], [0, 1], [0, 0]])
    rates = mutation.adaptive_rate(0.5, p, parents)
    assert rates.tolist() == pytest.approx([0.5 * 0.7, 0.5 * 0.1, 0.0], abs=1e-12)
    assert mutation.adaptive_rate(3.0, p, parents)[0] == 1


@pytest.mark.parametrize("kind", MUTATIONS)
@SHAPES
def test_rate_0_changes_nothing(kind, shape):
    x, _ = pair(shape)
    assert torch.equal(MUTATIONS[kind](x, torch.zeros(3), generator_from(0)), x)


@DTYPES
def test_rate_1_replaces_every_entry_by_a_draw_from_0_up_to_but_not_1(dtype):
    x = torch.full((2, 200, 300), 5.0, dtype=dtype)
    y = mutation.replace_uniform(x, torch.ones(2), generator_from(0)).double()  # eq. 11
    assert float(y.min()) >= 0
    assert float(y.max()) < 1
    assert float(y.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(y.var()) == pytest.approx(1 / 12, abs=0.01)


@pytest.mark.parametrize("kind", MUTATIONS)
@DTYPES
def test_each_child_mutates_at_its_own_rate(kind, dtype):
    x = torch.randn(2, 300, 300, generator=generator_from(2)).to(dtype) * 100
    rate = tensor([0.0103, 0.3])
    y = MUTATIONS[kind](x, rate, generator_from(0))
    changed = (y != x).flatten(1).double().mean(dim=1)
    assert changed.tolist() == pytest.approx(rate.tolist(), rel=0.06)


@pytest.mark.parametrize("kind", MUTATIONS)
@DTYPES
def test_seldom_mutated_entries_are_as_many_as_their_rows_rate_says(kind, dtype):
    """Drawn in another way than frequent ones: only the chosen entries are."""
    x = torch.randn(4, 500, 300, generator=generator_from(2)).to(dtype) * 100
    rate = tensor([0.0, 0.001, 0.02, 0.09])
    before = x.clone()
    y = MUTATIONS[kind](x, rate, generator_from(0))
    assert torch.equal(x, before)
    changed = (y != x).flatten(1)
    assert changed.double().mean(dim=1).tolist() == pytest.approx(rate.tolist(), rel=0.08)
    columns = changed[3].view(500, 300).double().mean(dim=0)
    assert float(columns.std()) == pytest.approx((0.09 * 0.91 / 500) ** 0.5, rel=0.2)
    places = coins.rare_of_rows(x, rate, generator_from(0))
    assert bool((places[1:] > places[:-1]).all())  # each once: writes to one place have no order
    again = MUTATIONS[kind](x, rate, generator_from(0))
    assert torch.equal(y, again)
    assert not torch.equal(y, MUTATIONS[kind](x, rate, generator_from(1)))


@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_gaussian_noise_is_scaled_by_the_spread_of_the_members_own_tensor(rate):
    scale = tensor([0.05, 20.0]).view(2, 1)
    x = torch.randn(2, 50000, generator=generator_from(0), dtype=torch.float64) * scale + 3
    step = mutation.add_gaussian(x, torch.full((2,), rate), generator_from(1), strength=0.25) - x
    step = torch.stack([row[row != 0][: int(rate * 45000)] for row in step])
    assert step.std(dim=1).tolist() == pytest.approx([0.25 * 0.05, 0.25 * 20.0], rel=0.03)
    assert step.mean(dim=1).tolist() == pytest.approx([0, 0], abs=0.1)


@MANY
@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1), st.floats(0, 1e3), SEEDS)
def test_perturbed_decay_rates_stay_in_0_1_and_0_stays_0(values, deviation, seed):
    values = tensor(values)
    changed = mutation.perturb("beta1", values, deviation, generator_from(seed))
    assert bool(((changed >= 0) & (changed < 1)).all())
    assert bool((changed[values == 0] == 0).all())


@MANY
@given(st.lists(st.floats(0, 1e3), min_size=1), st.floats(0, 1e3), SEEDS)
def test_perturbed_rates_are_never_negative_nor_nan_and_0_stays_0(values, deviation, seed):
    values = tensor(values)
    changed = mutation.perturb("lr", values, deviation, generator_from(seed))
    assert bool((changed >= 0).all())
    assert bool((changed[values == 0] == 0).all())


def test_a_perturbation_is_log_normal_with_the_given_deviation():
    lr = mutation.perturb("lr", torch.full((20000,), 0.01), 0.3, generator_from(0))
    beta = mutation.perturb("beta2", torch.full((20000,), 0.9), 0.3, generator_from(0))
    for factor in (lr / 0.01, (1 - beta) / 0.1):
        assert float(factor.log().mean()) == pytest.approx(0, abs=0.01)
        assert float(factor.log().std()) == pytest.approx(0.3, abs=0.01)
    same = torch.full((3,), 0.5)
    assert torch.equal(mutation.perturb("lr", same, 0.0, generator_from(0)), same)


# --- what all operators promise --------------------------------------------------------------


def applied(kind, dtype, seed, shape=(4, 3)):
    """One operator on tensors: its inputs before and after, and what it returns."""
    first, second = pair(shape, dtype)
    rate, generator = tensor([0.3, 0.6, 0.9]), generator_from(seed)
    inputs = (first, second, rate)
    before = [t.clone() for t in inputs]
    if kind in CROSSOVERS:
        result = CROSSOVERS[kind](first, second, rate, generator)
    else:
        result = MUTATIONS[kind](first, rate, generator)
    return before, inputs, result


ALL = pytest.mark.parametrize("kind", [*CROSSOVERS, *MUTATIONS])


@ALL
@DTYPES
@SHAPES
def test_operators_keep_dtype_and_shape_and_leave_their_inputs(kind, dtype, shape):
    before, inputs, result = applied(kind, dtype, 0, shape)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))
    assert result.dtype == dtype
    assert result.shape == inputs[0].shape
    assert all(result.data_ptr() != t.data_ptr() for t in inputs)


@ALL
def test_one_generator_state_gives_one_result_and_another_gives_another(kind):
    results = [applied(kind, torch.float32, seed, (40, 30))[2] for seed in (1, 1, 2)]
    assert torch.equal(results[0], results[1])
    if kind not in ("blend", "layerwise"):
        assert not torch.equal(results[0], results[2])


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    for kind in [*CROSSOVERS, *MUTATIONS]:
        applied(kind, torch.float32, 0)
    for parents in PARENTS.values():
        parents(tensor([1.0, 2.0]), 3, generator_from(0))
    mutation.perturb("lr", tensor([1.0]), 1.0, generator_from(0))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])


# --- diversity -----------------------------------------------------------------------------


def test_diversity_is_the_mean_distance_between_two_members():
    members = {"a": tensor([[0.0], [3.0], [0.0]]), "b": tensor([0.0, 4.0, 0.0])}
    assert mean_distance(members, ["a", "b"], None) == pytest.approx((5 + 5 + 0) / 3)
    assert mean_distance(members, ["a"], None) == pytest.approx(2)


def test_a_member_that_is_not_finite_does_not_count_as_diverse():
    members = {"a": tensor([[0.0, 0.0], [3.0, 4.0], [math.nan, 0.0], [math.inf, 0.0]])}
    assert mean_distance(members, ["a"], None) == pytest.approx(5)
    assert mean_distance({"a": tensor([[1.0], [math.nan]])}, ["a"], None) == 0


def test_members_that_differ_in_the_order_of_their_units_are_one_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = mlp(4, 6, 3)()
    symmetry = find_symmetry(net)
    orders = [torch.stack([torch.arange(6), torch.tensor([3, 1, 0, 5, 4, 2])])]
    members = permute(symmetry, stack([net, net]), orders)
    assert mean_distance(members, list(members), None) > 1
    assert mean_distance(members, list(members), symmetry) == pytest.approx(0, abs=1e-6)
