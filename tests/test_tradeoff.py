"""The numbers of a front, made up: what is on it, what is picked, how it is shown."""

import json
import math
import sys

import pytest
import torch

from gradevo.errors import CheckpointError
from gradevo.showing import plot, table
from gradevo.tradeoff import Tradeoff

NAN, INF = math.nan, math.inf


def points(nonzeros, losses, weights=100, accuracies=None, **others):
    def numbers(values):
        return None if values is None else torch.tensor(values, dtype=torch.float64)

    return Tradeoff(
        weights,
        torch.tensor(nonzeros),
        torch.tensor(losses, dtype=torch.float64),
        numbers(accuracies),
        {name: numbers(values) for name, values in others.items()},
    )


CURVE = points([2, 10, 30, 90], [0.9, 0.4, 0.2, 0.1])


# --- picks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 1, 4, 0, 2]])
def test_the_knee_is_furthest_below_the_line_from_the_sparsest_to_the_best(order):
    curve = points([1, 5, 10, 50, 101], [1.0, 0.6, 0.1, 0.05, 0.0], 1000)
    shuffled = curve.take(torch.tensor(order))
    assert order[shuffled.knee] == 2
    assert order[shuffled.best()] == 4
    assert order[shuffled.sparsest()] == 0


def test_the_knee_of_a_hyperbola_is_where_its_slope_is_that_of_the_line():
    nonzeros = list(range(10, 1001))  # loss 1 / d from 0.01 to 1: from 100 to 1
    curve = points(nonzeros, [1000 / n for n in nonzeros], 1000)
    assert nonzeros[curve.knee] == 100  # 1 / d^2 = 99 / 0.99 at d = 0.1


@pytest.mark.parametrize(
    ("nonzeros", "losses", "knee"),
    [
        ([7], [0.3], 0),
        ([1, 9], [1.0, 0.0], 0),
        ([10, 20, 30], [0.3, 0.2, 0.1], 0),  # a straight line
        ([1, 5, 10], [1.0, 0.9, 0.0], 0),  # it bulges the other way
        ([5, 5], [0.2, 0.2], 0),
    ],
)
def test_without_a_point_below_the_line_the_knee_is_the_sparsest(nonzeros, losses, knee):
    assert points(nonzeros, losses).knee == knee


def test_best_is_the_lowest_loss_that_is_as_sparse_as_asked():
    assert [CURVE.best(s) for s in (0.0, 0.1, 0.11, 0.7, 0.9, 0.98)] == [3, 3, 2, 2, 1, 0]


def test_a_sparsity_that_is_met_exactly_is_met():
    for nonzeros in range(1001):
        sparsity = float(f"{(1000 - nonzeros) / 1000:.3f}")
        assert points([nonzeros], [0.5], 1000).best(sparsity) == 0


def test_sparsest_is_the_fewest_weights_of_a_loss_as_low_as_asked():
    assert [CURVE.sparsest(m) for m in (INF, 0.9, 0.5, 0.4, 0.15, 0.1)] == [0, 0, 1, 1, 3, 3]


def test_of_equal_points_the_better_one_in_the_other_number_is_picked():
    assert points([9, 5, 7], [0.1, 0.1, 0.1]).best() == 1
    assert points([5, 5, 5], [0.3, 0.1, 0.2]).sparsest() == 1


def test_a_pick_that_nothing_satisfies_says_what_there_is():
    curve = points([2, 90], [0.9, 0.125])
    with pytest.raises(ValueError, match=r"min_sparsity: .*sparsest network, 0\.98, got 0\.99"):
        curve.best(0.99)
    for limit in (0.1, NAN):
        with pytest.raises(ValueError, match=rf"max_loss: .*lowest loss .*, 0\.125, got {limit}"):
            curve.sparsest(limit)
    for limit in (-0.1, 1.5, NAN):
        with pytest.raises(ValueError, match=r"min_sparsity: must lie in \[0, 1\]"):
            curve.best(limit)


def test_a_pick_by_name_is_the_one_that_its_limit_belongs_to():
    assert CURVE.pick() == CURVE.pick("knee") == CURVE.knee
    assert CURVE.pick("best") == 3
    assert CURVE.pick("sparsest") == 0
    assert CURVE.pick(max_loss=0.3) == CURVE.pick("sparsest", max_loss=0.3) == 2
    assert CURVE.pick(min_sparsity=0.8) == CURVE.pick("best", min_sparsity=0.8) == 1
    with pytest.raises(ValueError, match="pick: must be one of knee, best, sparsest, got 'worst'"):
        CURVE.pick("worst")
    with pytest.raises(ValueError, match="max_loss: must go with the pick sparsest, got knee"):
        CURVE.pick("knee", max_loss=0.3)
    with pytest.raises(ValueError, match="min_sparsity: must go with the pick best, got sparsest"):
        CURVE.pick(max_loss=0.3, min_sparsity=0.3)


# --- what is on the front ------------------------------------------------------------------


def test_dominated_points_and_losses_that_are_no_numbers_are_out():
    everything = points([50, 2, 10, 20, 1, 3, 90], [0.1, 0.9, 0.4, 0.5, NAN, INF, 0.1])
    assert everything.front().tolist() == [1, 2, 0]
    assert len(points([1, 2], [NAN, INF]).front()) == 0
    assert points([1, 2], [NAN, 3.0]).front().tolist() == [1]


def test_a_point_that_is_better_in_another_objective_stays():
    everything = points([1, 5, 9], [0.5, 0.6, 0.7], units=[3.0, 2.0, 2.0])
    assert everything.front().tolist() == [0, 1]
    assert everything.knee == 0


def test_rows_are_plain_numbers_by_name():
    (row,) = points([25], [0.5], accuracies=[0.75], units=[3.0]).rows()
    assert list(row) == ["sparsity", "density", "nonzeros", "loss", "accuracy", "units"]
    assert json.loads(json.dumps(row)) == row
    assert list(row.values()) == [0.75, 0.25, 25, 0.5, 0.75, 3.0]
    assert points([25], [0.5]).rows()[0]["accuracy"] is None


# --- to look at ----------------------------------------------------------------------------


def test_the_table_has_a_line_a_point_and_only_columns_that_are_known():
    lines = table(points([5, 90], [0.5, 0.1], accuracies=[0.6, 0.9], units=[3, 12])).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["sparsity", "non-zeros", "loss", "accuracy", "units", ""]
    assert cells[2:] == [
        ["95.00%", "5", "0.5", "60.00%", "3", "knee"],
        ["10.00%", "90", "0.1", "90.00%", "12", "best"],
    ]
    assert "accuracy" not in table(points([5], [0.5]))
    assert table(points([5], [0.5])).endswith("knee, best |")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 10, 11, 50])
def test_a_short_table_shows_the_ends_the_picks_and_some_between(count):
    curve = points([1 + i for i in range(count)], [1 / (1 + i) for i in range(count)])
    for most in (4, 7, 10):
        lines = table(curve, most).splitlines()
        assert len(lines) == 2 + min(count, most)
        for i in (0, curve.knee, curve.best(), count - 1):
            assert any(f"| {1 + i:>9} |" in line for line in lines)
    with pytest.raises(ValueError, match="most: must be a whole number of at least 4, got 3"):
        table(curve, 3)


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("new/b.svg", b"<?xml")])
@pytest.mark.parametrize("accuracies", [None, [0.1, 0.5, 0.9]])
def test_a_plot_is_a_file_of_the_kind_that_its_name_says(tmp_path, name, start, accuracies):
    plot(points([0, 10, 90], [2.0, 0.2, 0.1], accuracies=accuracies), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [(tmp_path / name).name]


def test_a_plot_leaves_matplotlib_as_it_is(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    plot(CURVE, tmp_path / "front.png")
    assert (dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules) == before


def test_one_point_can_be_plotted(tmp_path):
    plot(points([7], [0.3], accuracies=[1.0]), tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_no_known_kind_or_without_matplotlib_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for name in ("a.xyz", "a"):
        with pytest.raises(ValueError, match=rf"path: must end in one of .*png.*, got .*{name}"):
            plot(CURVE, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"writable.*a\.png"):
        plot(CURVE, tmp_path / "file" / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"plot: needs matplotlib.*pip install 'gradevo\[plot\]'"):
        plot(CURVE, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
