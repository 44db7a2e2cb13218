"""The guided crossover: downhill, near its parents, and plain SBX where there is no slope."""

import pytest
import torch
from scipy.stats import ks_2samp

from gradevo.operators.coins import rare
from gradevo.operators.gsbx import gsbx, sbx
from gradevo.randomness import generator_from

SHAPE = (40, 50, 10)
ALONE = {"keep": 0.0, "exchange": 0.0}


def parents(seed=0, dtype=torch.float64):
    return torch.randn(2, *SHAPE, generator=generator_from(seed), dtype=dtype).unbind(0)


def slopes(seed=1):
    return torch.randn(2, *SHAPE, generator=generator_from(seed), dtype=torch.float64).unbind(0)


def factors(first, second, child):
    """Beta of each child: its distance from the middle over the parents' half distance."""
    return ((child - (first + second) / 2) / ((first - second) / 2)).flatten()


def plain_by_formula(index=20.0):
    """Beta of SBX, drawn as the formula says."""
    u = torch.rand(SHAPE, generator=generator_from(9), dtype=torch.float64).flatten()
    inwards, outwards = (2 * u) ** (1 / (index + 1)), (2 - 2 * u) ** (-1 / (index + 1))
    return torch.where(u <= 0.5, inwards, outwards)


@pytest.mark.parametrize("low_side", [False, True])
@pytest.mark.parametrize("options", [ALONE, {}])
def test_children_lie_further_down_the_gradient_than_those_of_plain_sbx(options, low_side):
    first, second = parents()
    slope = slopes()[0]  # the same at both parents, so that both sides' gradients agree
    guided = gsbx(first, second, (slope, slope), generator_from(0), low_side=low_side, **options)
    plain = sbx(first, second, generator_from(0))
    fall = [float((slope * (a - b)).mean()) for a, b in zip(guided, plain, strict=True)]
    assert max(fall) < -0.01
    turned = gsbx(first, second, (-slope, -slope), generator_from(0), low_side=low_side, **options)
    assert min(float((slope * (a - b)).mean()) for a, b in zip(turned, plain, strict=True)) > 0.01


def test_every_child_moves_down_its_own_parents_gradient():
    first, second = parents()
    a, b = slopes()
    children = gsbx(first, second, (a, b), generator_from(0), **ALONE)
    assert ((children[0] - first) * a <= 0).all()
    assert ((children[1] - second) * b <= 0).all()
    low = gsbx(first, second, (a, b), generator_from(0), low_side=True, **ALONE)
    of_low = torch.where(first < second, a, b)
    assert ((low[0] - first) * of_low <= 0).all() and ((low[1] - second) * of_low <= 0).all()


def test_the_side_is_guided_and_the_distance_is_sbxs_own():
    first, second = parents()
    for child in gsbx(first, second, slopes(), generator_from(0), **ALONE):
        beta = factors(first, second, child).abs()
        folded = torch.where(beta > 1, 1 / beta, beta)
        plain = plain_by_formula()
        assert ks_2samp(folded, torch.where(plain > 1, 1 / plain, plain)).pvalue > 1e-3


def test_without_a_slope_it_is_sbx_in_law_with_one_draw_for_both_children():
    first, second = parents()
    none = torch.zeros(SHAPE, dtype=torch.float64)
    children = gsbx(first, second, (none, none), generator_from(0), keep=0.0)
    torch.testing.assert_close(children[0] + children[1], first + second)
    assert ks_2samp(factors(first, second, children[0]).abs(), plain_by_formula()).pvalue > 1e-3
    assert all(map(torch.equal, children, sbx(first, second, generator_from(0))))
    unknown = torch.full(SHAPE, torch.nan, dtype=torch.float64)
    chance = gsbx(first, second, (unknown, unknown), generator_from(0), keep=0.0)
    assert all(map(torch.equal, children, chance))


@pytest.mark.parametrize("index", [2.0, 20.0, 200.0])
def test_a_larger_index_stays_nearer_to_the_parents(index):
    first, second = parents()
    child = sbx(first, second, generator_from(0), index=index)[0]
    beta = factors(first, second, child).abs()
    assert ks_2samp(beta, plain_by_formula(index)).pvalue > 1e-3


def test_zeros_of_a_parent_survive_in_the_pairs_that_keep_them():
    first, second = (p.clone() for p in parents())
    first[:, 0], second[:, 1] = 0.0, 0.0

    def kept(share):
        a, b = gsbx(first, second, slopes(), generator_from(0), keep=share, exchange=0.0)
        assert ((a[:, 0] == 0).all((1,)) == (b[:, 1] == 0).all((1,))).all()
        return (a[:, 0] == 0).all(1)

    assert kept(1.0).all() and not kept(0.0).any()
    assert 0.25 < kept(0.5).double().mean() < 0.75


def test_the_exchange_goes_downhill_and_reads_before_it_writes():
    first, second = torch.zeros(1, 4000), torch.ones(1, 4000)
    falling, rising = -torch.ones(1, 4000), torch.ones(1, 4000)
    index = 1e9  # children at their parents' places
    low, high = gsbx(first, second, (falling, rising), generator_from(0), index=index, keep=0.0)
    taken = low.round() == 1
    assert 0.45 < taken.double().mean() < 0.55
    assert torch.equal(taken, high.round() == 0)
    low, high = gsbx(first, second, (rising, falling), generator_from(0), index=index, keep=0.0)
    assert (low.round() == 0).all() and (high.round() == 1).all()


def test_swapping_the_parents_swaps_the_children():
    first, second = parents()
    a, b = slopes()
    one = gsbx(first, second, (a, b), generator_from(0))
    other = gsbx(second, first, (b, a), generator_from(0))
    assert torch.equal(one[0], other[1]) and torch.equal(one[1], other[0])


def test_equal_parents_have_equal_children_and_inputs_are_left_alone():
    first, _ = parents()
    a, b = slopes()
    kept = first.clone(), a.clone()
    for child in gsbx(first, first, (a, b), generator_from(0)):
        assert torch.equal(child, first)
    assert torch.equal(first, kept[0]) and torch.equal(a, kept[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_children_have_the_parents_dtype_and_are_finite(dtype):
    first, second = parents(dtype=dtype)
    for child in gsbx(first, second, (second, first), generator_from(0)):
        assert child.dtype == dtype and child.isfinite().all()


@pytest.mark.parametrize("probability", [0.001, 0.2])
def test_a_rare_coin_shows_with_its_probability_for_every_entry_alone(probability):
    like, shown = torch.zeros(200, 100), torch.zeros(20_000)
    generator = generator_from(0)
    for _ in range(200):
        coins = torch.zeros(20_000)
        coins[rare(like, probability, generator)] = 1
        shown += coins
    assert float(shown.mean() / 200) == pytest.approx(probability, rel=0.02)
    variance = 200 * probability * (1 - probability)
    assert float(shown.var()) == pytest.approx(variance, rel=0.1)


def test_the_bits_do_not_depend_on_the_number_of_threads():
    before = torch.get_num_threads()
    try:
        for seed in range(30):
            numbers = torch.randn(4, 1, 70_003 + seed, generator=generator_from(seed))
            first, second, a, b = numbers.unbind()
            found = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                found.append(gsbx(first, second, (a, b), [generator_from(seed)]))
            for low, high in found[1:]:
                assert torch.equal(low, found[0][0])
                assert torch.equal(high, found[0][1])
    finally:
        torch.set_num_threads(before)
