"""Selection and survival by several objectives: fronts, crowding, survivors and tournaments."""

import math
import random
from operator import itemgetter

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradevo.operators.pareto import crowding, fronts, survivors, tournament
from gradevo.randomness import generator_from

MANY = settings(max_examples=100, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
NUMBERS = st.one_of(st.integers(-2, 2).map(float), st.floats())
POINTS = st.integers(1, 4).flatmap(
    lambda m: st.lists(st.lists(NUMBERS, min_size=m, max_size=m), min_size=1, max_size=12)
)
REAL = st.floats(allow_nan=False)
EACH = (itemgetter(0), itemgetter(1), itemgetter(2))
OBJECTIVES = pytest.mark.parametrize("m", [1, 2, 3, 4])
ANY_DTYPE = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def comparable(points):
    return [[math.inf] * len(p) if any(map(math.isnan, p)) else p for p in points]


def dominates(a, b):
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def peeled(points):
    """Fronts by their definition: take off what nothing left dominates, again and again."""
    points = comparable(points)
    found, left, front = [-1] * len(points), set(range(len(points))), 0
    while left:
        peel = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for i in peel:
            found[i] = front
        left, front = left - peel, front + 1
    return found


def crowding_by_front(points, ranks):
    """Crowding distance as Deb et al. write it, one front and one objective at a time."""
    points, distance = comparable(points), [0.0] * len(points)
    for front in set(ranks):
        members = [i for i, rank in enumerate(ranks) if rank == front]
        if all(points[i] == points[members[0]] for i in members):
            for i in members:
                distance[i] = math.inf
        for j in range(len(points[0])):
            order = sorted(members, key=lambda i: points[i][j])
            values = [points[i][j] for i in order]
            if values[0] == values[-1]:
                continue
            distance[order[0]] = distance[order[-1]] = math.inf
            finite = [v for v in values if math.isfinite(v)]
            if not finite or finite[0] == finite[-1]:
                continue
            values = [min(max(v, finite[0]), finite[-1]) / 2 for v in values]
            for k in range(1, len(order) - 1):
                span = values[-1] - values[0]
                distance[order[k]] += (values[k + 1] - values[k - 1]) / span if span else 0
    return distance


def drawn_sets(m, sets=250):
    """Sets of points full of ties, some with NaN or infinite objectives."""
    draw = random.Random(m)
    odd = [math.nan, math.inf, -math.inf]
    for _ in range(sets):
        n, values, oddness = draw.randint(1, 20), draw.randint(1, 6), draw.choice([0, 0, 0.1, 0.4])
        yield [
            [
                draw.choice(odd) if draw.random() < oddness else float(draw.randrange(values))
                for _ in range(m)
            ]
            for _ in range(n)
        ]


def staircases(levels, across, seed=0):
    """Fronts `0..levels - 1` of `across` points each, shuffled: the points and their fronts."""
    front, x = torch.meshgrid(torch.arange(levels), torch.arange(across), indexing="ij")
    points = torch.stack([x, front - x], dim=-1).reshape(-1, 2).double()
    order = torch.randperm(len(points), generator=generator_from(seed))
    return points[order], front.flatten()[order]


# --- fronts --------------------------------------------------------------------------------


@OBJECTIVES
def test_fronts_are_what_peeling_off_undominated_points_gives(m):
    for points in drawn_sets(m):
        found = fronts(tensor(points))
        assert found.dtype == torch.int64
        assert found.tolist() == peeled(points), points


@MANY
@given(POINTS)
def test_fronts_of_any_numbers_are_what_peeling_gives(points):
    assert fronts(tensor(points)).tolist() == peeled(points)


@MANY
@given(POINTS, SEEDS)
def test_the_order_of_points_and_of_objectives_does_not_change_their_fronts(points, seed):
    points, generator = tensor(points), generator_from(seed)
    rows = torch.randperm(len(points), generator=generator)
    columns = torch.randperm(points.shape[1], generator=generator)
    assert torch.equal(fronts(points[rows][:, columns]), fronts(points)[rows])


def test_one_objective_ranks_its_distinct_values():
    assert fronts(tensor([[3.0], [0.0], [math.nan], [3.0], [-0.0]])).tolist() == [1, 0, 2, 1, 0]


@OBJECTIVES
def test_equal_points_are_one_front_and_so_are_all_that_have_nan(m):
    assert fronts(torch.ones(5, m)).tolist() == [0] * 5
    lost = torch.zeros(5, m)
    lost[torch.arange(5), torch.arange(5) % m] = math.nan
    assert fronts(lost).tolist() == [0] * 5
    above = torch.cat([lost, torch.full((1, m), math.inf), torch.full((1, m), 1e30)])
    assert fronts(above).tolist() == [1] * 6 + [0]


def test_a_point_infinitely_bad_in_one_objective_only_can_be_in_front():
    points = tensor([[math.inf, 0.0], [1.0, 1.0], [math.nan, -1.0], [-math.inf, 2.0]])
    assert fronts(points).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("levels, across", [(1000, 100), (1, 100_000), (100_000, 1)])
def test_a_hundred_thousand_points_of_two_objectives_find_their_fronts(levels, across):
    points, expected = staircases(levels, across)
    found = fronts(points)
    assert torch.equal(found, expected)
    assert int(crowding(points, found).isinf().sum()) == levels * min(across, 2)
    chosen = survivors(points, 50_000)
    assert int(expected[chosen].max()) == (levels - 1) // 2


def test_three_objectives_find_the_fronts_of_a_thousand_points():
    points, expected = staircases(20, 50)
    assert torch.equal(fronts(torch.cat([points, points.sum(dim=1, keepdim=True)], 1)), expected)


# --- crowding ------------------------------------------------------------------------------


@OBJECTIVES
def test_crowding_is_the_plain_loop_over_fronts_and_objectives(m):
    for points in drawn_sets(m):
        ranks = fronts(tensor(points))
        expected = tensor(crowding_by_front(points, ranks.tolist()))
        torch.testing.assert_close(crowding(tensor(points), ranks), expected)


@MANY
@given(POINTS, SEEDS)
def test_crowding_of_any_numbers_in_any_fronts_is_the_plain_loop(points, seed):
    ranks = torch.randint(3, (len(points),), generator=generator_from(seed))
    distance = crowding(tensor(points), ranks)
    assert bool((distance >= 0).all())  # never NaN
    torch.testing.assert_close(distance, tensor(crowding_by_front(points, ranks.tolist())))


@MANY
@given(st.lists(st.tuples(REAL, REAL, REAL), min_size=1, max_size=9, unique_by=EACH), SEEDS)
@example([(0.0, 5e-324, 0.0), (1.0, 1.0, -2.0), (0.5, 0.0, -1.0)], 0)
def test_the_order_of_points_that_tie_in_nothing_does_not_change_their_crowding(points, seed):
    points = tensor(points)
    rows = torch.randperm(len(points), generator=generator_from(seed))
    ranks = fronts(points)
    assert torch.equal(crowding(points[rows], ranks[rows]), crowding(points, ranks)[rows])


def test_gaps_are_shares_of_the_range_of_the_points_own_front():
    near = tensor([[0.0, 4.0], [1.0, 2.0], [2.0, 1.0], [4.0, 0.0]])
    points = torch.cat([near, 100 * near + 10])
    distance = crowding(points, torch.arange(8) // 4)
    expected = tensor([math.inf, 0.5 + 0.75, 0.75 + 0.5, math.inf] * 2)
    torch.testing.assert_close(distance, expected)


def test_fewer_than_three_points_and_fronts_of_equal_points_are_all_ends():
    for points in (torch.ones(1, 2), torch.eye(2), torch.ones(4, 3), torch.full((3, 2), math.nan)):
        assert crowding(points, fronts(points)).tolist() == [math.inf] * len(points)


def test_an_objective_constant_in_the_front_says_nothing():
    points = tensor([[0.0, 4.0], [1.0, 2.0], [2.0, 1.0], [3.0, 0.5], [4.0, 0.0]])
    for constant in (7.0, math.inf, -math.inf):
        more = torch.cat([points, torch.full((5, 1), constant).double()], dim=1)
        front = torch.zeros(5, dtype=torch.int64)
        assert torch.equal(crowding(more, front), crowding(points, front))


def test_an_infinite_objective_is_an_end_and_leaves_the_others_their_gaps():
    points = tensor([[-math.inf, 5.0], [0.0, 4.0], [1.0, 3.0], [2.0, 2.0], [math.inf, 1.0]])
    distance = crowding(points, torch.zeros(5, dtype=torch.int64))
    expected = tensor([math.inf, 0.5 + 0.5, 1 + 0.5, 0.5 + 0.5, math.inf])
    torch.testing.assert_close(distance, expected)


def test_the_range_of_huge_numbers_does_not_overflow():
    huge = tensor([[-1.7e308, 2.0], [0.0, 1.0], [1.7e308, 0.0]])
    assert crowding(huge, fronts(huge)).tolist() == [math.inf, 2.0, math.inf]


# --- survivors -----------------------------------------------------------------------------


@MANY
@given(POINTS, st.data())
def test_survivors_are_sorted_by_front_then_crowding_then_place(points, data):
    count = data.draw(st.integers(1, len(points)))
    ranks = fronts(tensor(points))
    distance = crowding(tensor(points), ranks).tolist()
    ranks = ranks.tolist()
    order = sorted(range(len(points)), key=lambda i: (ranks[i], -distance[i], i))
    assert survivors(tensor(points), count).tolist() == order[:count]


@OBJECTIVES
def test_no_survivor_is_dominated_by_a_point_left_out(m):
    for points in drawn_sets(m, 60):
        count = (len(points) + 1) // 2
        chosen, points = set(survivors(tensor(points), count).tolist()), comparable(points)
        assert len(chosen) == count
        left = set(range(len(points))) - chosen
        assert not any(dominates(points[i], points[j]) for i in left for j in chosen)


def test_the_ends_of_the_last_front_survive():
    points, front = staircases(3, 20)
    chosen = survivors(points, 20 + 2)
    assert front[chosen].tolist() == [0] * 20 + [1] * 2
    assert sorted(points[chosen[20:]].tolist()) == [[0.0, 1.0], [19.0, -18.0]]


def test_of_equal_points_the_earlier_survive_and_nan_comes_last():
    assert survivors(torch.ones(5, 2), 3).tolist() == [0, 1, 2]
    assert survivors(torch.full((5, 2), math.nan), 3).tolist() == [0, 1, 2]
    points = tensor([[math.nan, -9.0], [1.0, 1.0], [math.inf, math.inf], [1.0, 1.0]])
    assert survivors(points, 4).tolist() == [1, 3, 0, 2]


def test_a_population_of_one_survives():
    assert survivors(tensor([[math.nan, 1.0]]), 1).tolist() == [0]


# --- tournament ----------------------------------------------------------------------------


def frequency(ranks, distance):
    winners = tournament(torch.tensor(ranks), tensor(distance), 30_000, generator_from(0))
    return (winners.bincount(minlength=len(ranks)) / 30_000).tolist()


def test_a_tournament_of_two_different_points_is_won_by_front_then_crowding():
    # of the 6 pairs of 4 points, the best wins its 3, the next 2, the next 1, the last none
    won = frequency([1, 0, 2, 1], [9.0, 0.0, math.inf, 1.0])
    assert won == pytest.approx([2 / 6, 3 / 6, 0, 1 / 6], abs=0.01)


def test_of_points_equally_good_each_wins_as_often():
    assert frequency([0] * 3, [math.inf] * 3) == pytest.approx([1 / 3] * 3, abs=0.01)
    assert frequency([0] * 2, [1.0] * 2) == pytest.approx([1 / 2] * 2, abs=0.01)


def test_of_two_points_the_better_always_wins_and_one_point_wins_alone():
    assert frequency([1, 0], [math.inf, 0.0]) == [0, 1]
    assert frequency([0], [math.inf]) == [1]


def test_a_point_with_nan_loses_against_every_other():
    points = tensor([[1.0, 2.0], [math.nan, 0.0], [2.0, 1.0]])
    ranks = fronts(points)
    assert frequency(ranks.tolist(), crowding(points, ranks).tolist())[1] == 0


def test_a_tournament_repeats_from_its_generator_and_leaves_the_global_one_alone():
    ranks, distance = torch.arange(50) % 3, torch.rand(50, generator=generator_from(1))
    before = torch.get_rng_state()
    one, same, other = (tournament(ranks, distance, 40, generator_from(s)) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


# --- what all promise ----------------------------------------------------------------------


@ANY_DTYPE
def test_every_dtype_gives_the_same_and_inputs_stay_as_they_were(dtype):
    points = staircases(5, 8)[0]
    points = points.to(dtype).requires_grad_()
    points.data[3] = math.nan
    before, expected = points.detach().clone(), fronts(points.double())
    assert torch.equal(fronts(points), expected)
    distance = crowding(points, expected)
    assert (distance.dtype, distance.requires_grad) == (torch.float64, False)
    assert torch.equal(survivors(points, 9), survivors(points.double(), 9))
    assert torch.equal(points.nan_to_num(), before.nan_to_num())


def test_no_points_have_no_fronts_and_no_crowding():
    for m in (1, 2, 3):
        assert fronts(torch.empty(0, m)).tolist() == []
        assert crowding(torch.empty(0, m), torch.empty(0, dtype=torch.int64)).tolist() == []


@pytest.mark.parametrize(
    "objectives, got",
    [
        (torch.ones(3), r"torch\.float32 of shape \(3,\)"),
        (torch.ones(3, 0), r"torch\.float32 of shape \(3, 0\)"),
        (torch.ones(1, 3, 2), r"torch\.float32 of shape \(1, 3, 2\)"),
        (torch.ones(3, 2, dtype=torch.int64), r"torch\.int64 of shape \(3, 2\)"),
    ],
)
def test_objectives_that_are_no_table_of_numbers_are_named(objectives, got):
    message = f"^objectives: must be floating point of shape .*, got {got}$"
    for refuse in (fronts, lambda x: crowding(x, torch.zeros(3)), lambda x: survivors(x, 1)):
        with pytest.raises(ValueError, match=message):
            refuse(objectives)


@pytest.mark.parametrize("count", [0, -1, 1.0, True])
def test_a_count_that_is_no_number_of_points_is_named(count):
    message = f"^count: must be a whole number of at least 1, got {count}$"
    with pytest.raises(ValueError, match=message):
        survivors(torch.ones(3, 2), count)
    with pytest.raises(ValueError, match=message):
        tournament(torch.zeros(3), torch.ones(3), count, generator_from(0))


def test_other_arguments_are_named_as_well():
    with pytest.raises(
        ValueError, match=r"^count: must be at most the number of points, 3, got 4$"
    ):
        survivors(torch.ones(3, 2), 4)
    with pytest.raises(ValueError, match=r"^fronts: must be of shape \(3,\), got \(2,\)$"):
        crowding(torch.ones(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"^crowding: must be of shape \(3,\), got \(2,\)$"):
        tournament(torch.zeros(3), torch.ones(2), 1, generator_from(0))
    with pytest.raises(ValueError, match=r"^fronts: their number: must be .* at least 1, got 0$"):
        tournament(torch.zeros(0), torch.ones(0), 1, generator_from(0))
