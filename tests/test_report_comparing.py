"""The comparison of a report: what counts as one method, what is left out, and what p is."""

import shutil
from pathlib import Path

import pytest

from gradevo import compare, record
from gradevo.cli import main
from gradevo.outcome import Outcome
from gradevo.report.comparing import comparisons, grouped
from gradevo.report.reading import Run, find, read
from reported import SHORT, compared, front


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compared(tmp_path_factory.mktemp("compared"))


@pytest.fixture(scope="module")
def front_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return front(tmp_path_factory.mktemp("front"))


def changed(run: Path, folder: Path, /, **parts: object) -> Run:
    """A copy of a run with other parts of its record."""
    shutil.copytree(run, folder)
    record.note(folder, **parts)
    return read(folder)


def test_a_comparison_has_the_figures_and_p_values_of_the_command(runs: Path) -> None:
    read_runs = [read(folder) for folder in find([runs])]
    (compared_runs,) = comparisons(read_runs)
    outcomes = [Outcome(**run.outcome) for run in read_runs]
    rows = {row["method"]: row for row in compare.summary(sorted(outcomes, key=lambda o: o.seed))}
    first = read_runs[0].method
    assert compared_runs.equal and compared_runs.cost.startswith("Equal cost")
    for cells in compared_runs.rows:
        row = rows[cells[0]]
        accuracy = f"{row['accuracy']:.2%} ± {row['accuracy_deviation']:.2%}".replace("%", " %")
        assert cells[2].replace("\u202f", " ") == accuracy
        p = row["accuracy_p"]
        assert cells[1] == "2" and cells[3] == ("" if p is None else f"{p:.3f}")
        assert cells[0] != first or p is None
    (said,) = compared_runs.notes
    assert "paired with" in said and "0.5" in said


def test_runs_of_other_data_or_cost_are_not_said_to_be_comparable(
    runs: Path, front_run: Path, tmp_path: Path
) -> None:
    (both,) = comparisons([read(runs / "gadam-0"), read(front_run)])
    assert not both.equal and "Not all at equal cost" in both.cost
    other = Path(shutil.copytree(runs / "gadam-0", tmp_path / "other"))
    data = {**record.read(other)["data"], "name": "other"}
    record.note(other, data=data)
    assert comparisons([read(runs / "gadam-0"), read(other)]) == []
    assert len(comparisons([read(folder) for folder in find([runs, other])])) == 1


def test_p_values_need_the_same_seeds(runs: Path, tmp_path: Path) -> None:
    outcome = read(runs / "adam-0").outcome
    fifth = changed(runs / "adam-0", tmp_path / "adam-5", outcome={**outcome, "seed": 5})
    uneven = [read(runs / name) for name in ("gadam-0", "gadam-1", "adam-1", "adam-best-of-0")]
    for read_runs in (uneven, [*uneven[:3], fifth]):
        (found,) = comparisons(read_runs)
        assert found.rows[0][1] == "2" and "p" in found.heads
        assert all(row[found.heads.index("p")] == "" for row in found.rows)


def test_one_method_with_other_settings_is_another_group(runs: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs / "gadam-1", tmp_path / "other"))
    record.note(other, run={**record.read(other)["run"], "lr": 0.5})
    groups = grouped([read(runs / "gadam-0"), read(runs / "gadam-1"), read(other)])
    assert [group.label for group in groups] == ["gadam, lr 0.01", "gadam, lr 0.5"]
    assert [len(group.outcomes) for group in groups] == [2, 1]


def test_networks_of_other_sizes_are_other_groups_and_say_their_sizes(tmp_path: Path) -> None:
    for hidden in ("4", "9"):
        out = str(tmp_path / hidden)
        main(["train", "iris", *SHORT, "--hidden", hidden, "--out", out, "--json"])
    groups = grouped([read(tmp_path / "4"), read(tmp_path / "9")])
    assert [group.label for group in groups] == ["gadam, hidden 4", "gadam, hidden 9"]
    bare = [read(tmp_path / name) for name in ("4", "9")]
    for run in bare:
        run.record.pop("network")
    assert [group.label for group in grouped(bare)] == [
        "gadam, architecture of 35 numbers", "gadam, architecture of 75 numbers",
    ]  # fmt: skip


def test_groups_that_differ_in_many_settings_have_labels_of_their_own(
    runs: Path, tmp_path: Path
) -> None:
    settings = record.read(runs / "gadam-0")["run"]
    changes = [{}, {"lr": 0.2}, {"steps": 7, "batch_size": 8, "optimizer": "SGD", "checks": 2}]
    found = [
        changed(runs / "gadam-0", tmp_path / str(k), run={**settings, **change})
        for k, change in enumerate(changes)
    ]
    labels = [group.label for group in grouped(found)]
    assert len(set(labels)) == 3


def test_a_run_without_figures_is_not_passed_over_in_silence(runs: Path, tmp_path: Path) -> None:
    lost = changed(runs / "adam-0", tmp_path / "lost", outcome=None, finished=None)
    whole = [read(runs / name) for name in ("gadam-0", "gadam-1", "adam-1")]
    (found,) = comparisons([*whole, lost])
    assert found.notes[0] == "Left out: 1 run of adam without figures on test rows."
    assert found.notes[1].startswith("No p")
    assert [row[:2] for row in found.rows] == [["gadam", "2"], ["adam", "1"]]


def test_a_seed_that_is_there_twice_is_said(runs: Path, tmp_path: Path) -> None:
    again = changed(runs / "gadam-0", tmp_path / "again")
    (found,) = comparisons([read(runs / "gadam-0"), again, read(runs / "adam-0")])
    assert found.notes[0] == "gadam: 2 runs of 1 different seeds."


def test_runs_below_a_folder_are_in_the_order_in_which_they_started(tmp_path: Path) -> None:
    for name, day in (("a", 3), ("b", 1), ("c", 2)):
        record.note(tmp_path / name, started=f"2026-01-0{day}T00:00:00.000Z")
    assert [folder.name for folder in find([tmp_path])] == ["b", "c", "a"]
