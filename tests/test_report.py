"""The report: what is on the page, and what happens if a run folder is not as it should be."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import gradevo as ge
from gradevo import record, report
from gradevo.cli import main
from gradevo.frontfile import FrontFile
from gradevo.models import mlp
from gradevo.report.family import family
from gradevo.report.front import command
from gradevo.report.losses import losses
from gradevo.report.reading import find, read
from gradevo.tradeoff import Tradeoff
from reported import compared, figures, front, words

HOSTILE = "<script>alert(1)<script>&\"'"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compared(tmp_path_factory.mktemp("compared"))


@pytest.fixture(scope="module")
def front_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return front(tmp_path_factory.mktemp("front"))


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """A finished run of GADAM that a test may damage."""
    return Path(shutil.copytree(runs / "gadam-0", tmp_path / "run"))


def page_of(*folders: Path, at: Path) -> str:
    return report.write(folders, at / "report.html").read_text(encoding="utf-8")


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["report", *arguments])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    return printed.err


# --- one run -----------------------------------------------------------------------------------


def test_a_page_shows_the_numbers_of_the_run_folder(runs: Path, tmp_path: Path) -> None:
    page = page_of(runs / "gadam-0", at=tmp_path)
    found, said = record.read(runs / "gadam-0"), words(page)
    outcome = found["outcome"]
    for text in (
        "gadam on iris, seed 0",
        f"test accuracy {outcome['accuracy']:.2%}".replace("%", " %"),
        f"test loss {outcome['loss']:.4g}",
        f"member-steps {outcome['member_steps']:,}",
        f"torch {found['versions']['torch']}",
        "3 classes (setosa, versicolor, virginica)",
        "crossover blend",
        "learners children",
        f"folder {runs / 'gadam-0'}",
    ):
        assert text in said, text
    history = json.loads((runs / "gadam-0" / "history.json").read_text())
    drawn = figures(page)
    assert set(drawn) == {
        "run-1-losses", "run-1-course-1", "run-1-course-2", "run-1-family",
    }  # fmt: skip
    best = drawn["run-1-losses"]["data"][-1]
    assert best["name"] == "best"
    assert best["y"] == pytest.approx([info["best"] for info in history])
    worst = [max(info["losses"]) for info in history]
    assert drawn["run-1-losses"]["data"][0]["y"] == pytest.approx(worst)
    adopted, diverse = (drawn[f"run-1-course-{i}"]["data"][0]["y"] for i in (1, 2))
    assert adopted == [info["adoption"] for info in history]
    assert diverse == [info["diversity"] for info in history]


def test_engines_are_shown_with_their_times_and_reasons(copied: Path, tmp_path: Path) -> None:
    measured = {"loop": 0.004, "vmap": 0.002, "simd": "not tried: it takes 15 s to start"}
    record.note(copied, engine={"name": "vmap", "measured": measured})
    record.note(copied, finished={"member_steps": 96, "engine": "vmap"})
    said = words(page_of(copied, at=tmp_path))
    assert "vmap chosen 2 ms loop 4 ms simd not tried: it takes 15 s to start" in said


def test_the_same_runs_give_the_same_page(runs: Path, front_run: Path, tmp_path: Path) -> None:
    first = page_of(runs, front_run, at=tmp_path)
    assert page_of(runs, front_run, at=tmp_path) == first
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_names_from_outside_are_text_on_the_page(copied: Path, tmp_path: Path) -> None:
    folder = copied.rename(tmp_path / HOSTILE)
    data = {**record.read(folder)["data"], "name": HOSTILE, "classes": [HOSTILE] * 3}
    method = {"name": HOSTILE, "pick": "best", "meaning": HOSTILE}
    outcome = {**record.read(folder)["outcome"], "dataset": HOSTILE, "method": HOSTILE}
    record.note(folder, data=data, method=method, outcome=outcome, loss=HOSTILE)
    again = Path(shutil.copytree(folder, tmp_path / f"{HOSTILE}2"))
    page = page_of(folder, again, at=tmp_path)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;script&gt;&amp;&#34;&#39;" in page
    labels = figures(page)["comparison-1-1"]["layout"]["yaxis"]["ticktext"]
    assert all("&lt;script&gt;" in label and "<script>" not in label for label in labels)


def test_a_result_that_was_saved_by_itself_has_a_page(tmp_path: Path) -> None:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    algorithm = ge.GADAM(population=3, generations=2, steps=3, batch_size=16)
    result = ge.fit(algorithm, mlp(4, 3, 1), nn.MSELoss(), (x, x[:, :1]), engine="loop")
    result.save(tmp_path / "alone")
    page = page_of(tmp_path / "alone", at=tmp_path)
    assert "Unfinished" not in words(page)
    assert "run-1-family" in figures(page)
    assert f"validation loss {result.history[-1]['best']:.4g}" in words(page)


# --- losses ------------------------------------------------------------------------------------


def test_members_that_are_not_finite_are_left_out_and_counted() -> None:
    history = [
        {"generation": 1, "losses": [0.3, None, 0.5]},
        {"generation": 2, "losses": [0.2, 0.3, None]},
        {"generation": 3, "losses": [None, None, None]},
    ]
    drawn = losses(history)
    assert drawn is not None and "Left out: 5 losses" in drawn.caption
    assert drawn.spec["data"][-1]["y"] == [0.3, 0.2]


def test_the_axis_is_logarithmic_where_losses_span_a_decade() -> None:
    def kind(*best: float) -> str:
        history = [{"generation": i, "losses": [b, b]} for i, b in enumerate(best, start=1)]
        drawn = losses(history)
        assert drawn is not None
        return drawn.spec["layout"]["yaxis"].get("type", "linear")

    assert kind(1.0, 0.2) == "linear" and kind(-1.0, 20.0) == "linear"
    assert kind(1.0, 0.05) == "log" and kind(1.0, 0.05, 0.0) == "log"


# --- the family --------------------------------------------------------------------------------


class Being:
    """A network as an object, with pointers to its parents."""

    def __init__(self, born: int, parents: tuple["Being", ...] = ()) -> None:
        self.born, self.parents = born, parents

    def ancestry(self) -> set["Being"]:
        found, waiting = set(), [self]
        while waiting:
            being = waiting.pop()
            if being not in found:
                found.add(being)
                waiting.extend(being.parents)
        return found


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[Being]]:
    """A history of some generations, and its last members as objects."""
    g = draw(st.integers(2, 6))
    members = [Being(0) for _ in range(g)]
    history = []
    for generation in range(1, draw(st.integers(1, 6)) + 1):
        pair = st.tuples(st.integers(0, g - 1), st.integers(0, g - 1))
        parents = draw(st.lists(pair, min_size=g, max_size=g))
        chosen = draw(st.permutations(range(2 * g)))[:g]
        children = [Being(generation, tuple({members[a], members[b]})) for a, b in parents]
        members = [[*members, *children][i] for i in chosen]
        values = [i + generation / 10 for i in range(g)]
        history.append({
            "generation": generation, "losses": values, "hyper": {"lr": values},
            "parents": [list(pair) for pair in parents], "survivors": list(chosen),
        })  # fmt: skip
    return history, members


@given(lives())
def test_a_family_is_the_winner_and_all_its_ancestors(
    life: tuple[list[dict[str, Any]], list[Being]],
) -> None:
    history, members = life
    found, expected = family(history), members[0].ancestry()
    assert found is not None
    births = sorted(key[0] for key in found.members)
    assert births == sorted(being.born for being in expected)
    assert found.winner[0] == members[0].born
    used = {parent for member in found.members.values() for parent in member.parents}
    assert used | {found.winner} == set(found.members)
    for (generation, _), member in found.members.items():
        assert all(parent[0] < generation for parent in member.parents)
        assert bool(member.parents) == (generation > 0)
    line = found.line()
    assert line[0] == found.winner and line[-1][0] == 0


def test_a_real_runs_winner_has_the_runs_best_loss_and_known_parents(runs: Path) -> None:
    history = read(runs / "gadam-1").history
    found = family(history)
    assert found is not None
    assert found.members[found.winner].loss == history[-1]["best"]
    children = [member for member in found.members.values() if member.generation]
    assert children and all(member.lr is not None for member in children)


def test_a_method_that_records_no_parents_has_no_family(front_run: Path, runs: Path) -> None:
    assert family(read(front_run).history) is None
    assert family(read(runs / "adam-0").history) is None
    assert family([]) is None


# --- the front ---------------------------------------------------------------------------------


def test_every_member_of_a_front_is_in_figures_table_and_hover(
    front_run: Path, tmp_path: Path
) -> None:
    points = FrontFile.read(front_run).points
    page = page_of(front_run, at=tmp_path)
    for name, values in (("1", points.losses), ("2", points.accuracies)):
        data = figures(page)[f"run-1-front-{name}"]["data"]
        assert values is not None and data[0]["y"] == pytest.approx(values.tolist())
        assert len(data[0]["text"]) == len(points)
        knee = points.knee
        assert data[-1]["name"] == "selected" and data[-1]["x"] == [data[0]["x"][knee]]
    for i, row in enumerate(points.rows()):
        hover = words(data[0]["text"][i])
        said = f"sparsity {row['sparsity']:.2%}".replace("%", " %")
        assert said in hover and f"loss {row['loss']:.4g}" in hover and "accuracy" in hover
    assert page.count('name="run-1-member"') == len(points)


def picked_by(line: str, points: Tradeoff) -> int:
    """What the picks of an export command give, read as the command line does."""
    given_words = shlex.split(line)
    options = dict(zip(given_words[3::2], given_words[4::2], strict=True))
    assert options.pop("--to") == "onnx"
    name = options.pop("--pick")
    limits = {key[2:].replace("-", "_"): float(value) for key, value in options.items()}
    return points.pick(name, **limits)


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30, unique=True), st.randoms())
def test_the_command_of_a_member_picks_exactly_that_member(sizes: list[int], random: Any) -> None:
    values = sorted((random.random() for _ in sizes), reverse=True)
    points = Tradeoff(10**6, torch.tensor(sorted(sizes)), torch.tensor(values).double())
    points = points.take(points.front())
    for i in range(len(points)):
        line = command(points, i, Path("runs/a b's"))
        assert line.startswith("gradevo export 'runs/a b'\"'\"'s' --to onnx --pick ")
        assert picked_by(line, points) == i


def test_the_export_command_writes_the_member_that_was_shown(
    front_run: Path, tmp_path: Path
) -> None:
    file = FrontFile.read(front_run)
    picks = file.points.knee, file.points.best(), 0
    i = next(i for i in range(len(file.points)) if i not in picks)
    line = command(file.points, i, front_run).replace("--to onnx", "--to safetensors")
    main([*shlex.split(line)[1:], "--out", str(tmp_path / "network.safetensors")])
    written, expected = load_file(tmp_path / "network.safetensors"), file.state_dict(i)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)


def test_a_member_that_no_pick_gives_has_no_command() -> None:
    sizes, others = torch.tensor([10, 20, 30]), {"error": torch.tensor([3.0, 1.0, 2.0])}
    points = Tradeoff(100, sizes, torch.tensor([0.1, 0.2, 0.15]), None, others)
    lines = [command(points, i, Path("run")) for i in range(3)]
    assert lines[0] and not lines[1] and not lines[2]


# --- several runs ------------------------------------------------------------------------------


def test_runs_below_a_folder_are_found_once_in_the_order_given(runs: Path, front_run: Path) -> None:
    found = find([front_run, runs, runs / "adam-0"])
    assert found[0] == front_run and len(found) == 7
    assert {path.parent for path in found[1:]} == {runs}
    (runs / ".unfinished-1").mkdir()
    shutil.copy(runs / "adam-0" / "run.json", runs / ".unfinished-1")
    assert find([runs]) == [path for path in found if path != front_run]
    shutil.rmtree(runs / ".unfinished-1")


# --- what is not as it should be ---------------------------------------------------------------


def test_a_run_that_was_stopped_says_how_far_it_came(tmp_path: Path) -> None:
    def stop(info: dict[str, Any]) -> None:
        if info["generation"] == 2:
            raise RuntimeError("stopped")

    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    algorithm = ge.GADAM(population=3, generations=8, steps=3, batch_size=16)
    run = algorithm, mlp(4, 3, 1), nn.MSELoss(), (x, x[:, :1])
    with pytest.raises(RuntimeError, match="stopped"):
        ge.fit(*run, engine="loop", checkpoint=tmp_path / "run", callbacks=[stop])
    done = len(read(tmp_path / "run").history)
    said = words(page_of(tmp_path / "run", at=tmp_path))
    assert 1 <= done <= 2 and f"Unfinished: generation {done} of 8. Go on with" in said
    (tmp_path / "run" / "log.jsonl").write_text("")
    said = words(page_of(tmp_path / "run", at=tmp_path))
    assert "No generation has ended yet" in said and "generation 0 of 8" in said


def test_a_last_line_that_was_cut_off_is_left_out_and_said(copied: Path, tmp_path: Path) -> None:
    log = copied / "log.jsonl"
    log.write_text(log.read_text()[:-40])
    assert [info["generation"] for info in read(copied).history] == [1, 2, 3]  # of the result
    assert "is not that of the result, whose numbers are shown" in words(
        page_of(copied, at=tmp_path)
    )
    (copied / "result.safetensors").unlink()
    assert [info["generation"] for info in read(copied).history] == [1, 2]
    assert "The last line of log.jsonl was cut off" in words(page_of(copied, at=tmp_path))


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("log.jsonl", lambda text: text.replace('"generation": 1', "", 1)[3:], "damaged line 1"),
        ("log.jsonl", lambda text: "[1]\n" + text, "damaged line 1"),
        ("run.json", lambda text: text[:-20], "damaged file"),
        ("history.json", lambda text: text[:-20], "damaged"),
        ("history.json", lambda text: '[{"losses": []}]', "damaged"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    name: str, damage: Any, said: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "history.json":  # which the log and the result have, too
        for other in ("log.jsonl", "result.safetensors"):
            (copied / other).unlink()
    (copied / name).write_text(damage((copied / name).read_text()))
    printed = error_of([str(copied)], capsys)
    assert said in printed and str(copied / name) in printed
    assert not (copied / "report.html").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda info: info.update(losses=["a"]),
        lambda info: info.update(parents=[[90, 91]] * len(info["parents"])),
        lambda info: info.update(survivors=[900]),
    ],
)
def test_a_log_that_holds_something_else_is_refused_by_the_runs_name(
    damage: Any, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    infos = [json.loads(line) for line in (copied / "log.jsonl").read_text().splitlines()]
    damage(infos[-1])
    (copied / "result.safetensors").unlink()  # else its numbers are shown
    (copied / "log.jsonl").write_text("".join(json.dumps(info) + "\n" for info in infos))
    assert f"in {copied}" in error_of([str(copied)], capsys)


@pytest.mark.parametrize("part", [{"run": {"architecture": [1, 2]}}, {"data": {"inputs": 5}}])
def test_a_record_that_holds_something_else_is_refused_by_the_runs_name(
    part: dict[str, Any], copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record.note(copied, **part)
    assert f"in {copied}" in error_of([str(copied)], capsys)


def test_a_damaged_front_is_refused_by_name(
    front_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(front_run, tmp_path / "run"))
    result = run / "result.safetensors"
    result.write_bytes(result.read_bytes()[:200])
    assert str(result) in error_of([str(run)], capsys)
    result.unlink()  # as of a run that has not ended
    assert "front" not in " ".join(figures(page_of(run, at=tmp_path)))


def test_what_is_no_run_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert "runs: must be folders of runs" in error_of([str(folder)], capsys)
    assert "runs: must be at least one" in error_of([], capsys)


def test_without_plotly_the_command_says_what_to_install(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "gradevo.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    assert "pip install 'gradevo[report]'" in error_of([str(runs)], capsys)


def test_the_page_is_in_the_run_folder_or_here_or_where_asked(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    several = Path(shutil.copytree(runs, tmp_path / "several"))
    run = several / "adam-0"
    for arguments, where in (
        ([str(run)], run / "report.html"),
        ([str(several)], several / "report.html"),
        ([str(run), str(several / "adam-1")], tmp_path / "report.html"),
        ([str(run), str(several / "adam-1"), "--out", "new/page.html"], tmp_path / "new/page.html"),
    ):
        main(["report", *arguments])
        assert where.exists() and where.name in capsys.readouterr().out
