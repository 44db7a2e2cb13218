"""What a run shows while it is under way, and what it says when it is stopped."""

import json
import logging
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import gradevo as ge
import runs
from gradevo import progress
from gradevo.cli import main
from gradevo.folder import saved_in
from gradevo.progress import ASCII, BLOCKS, Lines, chart, charts

PROGRAM = """
import sys
import gradevo as ge, runs
runs.fit("tensors", quiet=True)
sys.stderr.write("loud: ")
shown = lambda info: print("callback", info["generation"])
runs.fit("tensors", steps=30, slice_seconds=0.01, generations=3, callbacks=[shown])
"""
SHORT = ["--steps", "5", "--population", "2", "--generations", "3", "--engine", "loop"]


def on_a_terminal(program: str, **environment: str) -> tuple[str, str]:
    """What a program writes to a terminal as its errors, and to a file as its output."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=follower,
        stdout=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", **environment},
        cwd=os.path.dirname(runs.__file__),
    )
    os.close(follower)
    shown = b""
    while chunk := read(leader):
        shown += chunk
    os.close(leader)
    output = process.communicate()[0]
    assert process.returncode == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()), output.decode()


def read(leader: int) -> bytes:
    try:
        return os.read(leader, 4096)
    except OSError:  # the other end was closed
        return b""


# --- on a terminal -----------------------------------------------------------------------------


def test_a_terminal_shows_generation_losses_charts_and_time_left_and_output_stays_output() -> None:
    shown, output = on_a_terminal(PROGRAM)
    assert shown.startswith("loud: ")  # nothing of the quiet run
    for generation in range(4):
        assert f"generation {generation}/3" in shown
    words = r"best \d\S* [▁-█]{3}  mean \d\S* [▁-█]{3}  adopted \d+%"
    assert re.search(words, shown)
    assert re.search(r"\d:\d\d:\d\d", shown)
    assert output.splitlines() == ["callback 1", "callback 2", "callback 3"]
    assert "callback" not in shown


def test_a_terminal_without_unicode_gets_charts_of_ascii() -> None:
    shown, _ = on_a_terminal(PROGRAM, PYTHONIOENCODING="ascii")
    assert shown.isascii()
    assert re.search(rf"best \d\S* [{re.escape(ASCII)}]{{3}}  mean", shown)


@given(st.lists(st.floats(), max_size=40), st.booleans())
def test_a_chart_has_one_character_for_each_number_and_the_order_of_the_numbers(values, ascii):
    drawn = chart(values, ascii=ascii)
    levels = ASCII if ascii else BLOCKS
    assert len(drawn) == len(values)
    found = [(v, levels.index(c)) for v, c in zip(values, drawn, strict=True) if c != " "]
    assert [v for v, _ in found] == [v for v in values if abs(v) < float("inf")]
    for (a, high), (b, low) in pairwise(found):
        assert high == low or (a > b) == (high > low)


@given(st.integers(20, 200), st.integers(1, 60))
def test_the_line_of_charts_fits_where_its_words_do(width: int, count: int) -> None:
    history = [{"best": 0.5 / i, "mean": 1.0 / i, "adoption": 0.5} for i in range(1, count + 1)]
    words = len("  ".join(progress.numbers(history[-1]).values()))
    assert len(charts(history, width)) <= max(width, words)


# --- elsewhere ---------------------------------------------------------------------------------


def test_the_library_prints_nothing_where_there_is_no_terminal(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    runs.fit("tensors", tmp_path).save(tmp_path)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_the_librarys_log_has_the_first_and_the_last_generation(caplog) -> None:
    caplog.set_level(logging.INFO, "gradevo.progress")
    runs.fit("tensors", generations=5)
    said = [record.message for record in caplog.records if record.name == "gradevo.progress"]
    assert [line.split("  ")[0] for line in said] == ["generation 1/5", "generation 5/5"]
    assert re.fullmatch(r"generation 5/5  best \S+  mean \S+  adopted \d+%  \d+ s", said[1])


def test_a_generation_is_told_once_the_pause_is_over(caplog, monkeypatch) -> None:
    caplog.set_level(logging.INFO, "gradevo.progress")
    monkeypatch.setattr(progress, "SECONDS", 0.05)
    with Lines(9) as lines:
        for generation in range(1, 4):
            lines.update(0.1, {"generation": generation, "best": 0.1, "mean": 0.2})
        time.sleep(0.06)
        lines.update(0.2, None)  # a slice within the fourth
    assert [record.message.split("  ")[0] for record in caplog.records] == [
        "generation 1/9",
        "generation 3/9",
    ]


def test_the_command_writes_lines_where_there_is_no_terminal(capsys) -> None:
    main(["train", "iris", *SHORT])
    assert re.findall(r"generation \d/3", capsys.readouterr().err) == [
        "generation 1/3",
        "generation 3/3",
    ]
    main(["compare", "iris", "--methods", "gadam,adam", "--seeds", "1", *SHORT])
    said = capsys.readouterr().err
    assert "gadam, seed 0" in said
    assert "adam, seed 0" in said


@pytest.mark.parametrize("silent", ["--quiet", "--json"])
def test_the_command_can_be_silenced(silent: str, capsys) -> None:
    main(["train", "iris", *SHORT, silent])
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "accuracy" in printed.out
    assert logging.getLogger("gradevo.progress").handlers == []


# --- Ctrl-C ------------------------------------------------------------------------------------


def stopped(folder: Path, words: list[str]) -> str:
    """What the command says after Ctrl-C once it has saved something."""
    with subprocess.Popen(
        [sys.executable, "-m", "gradevo", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        end = time.monotonic() + 60
        while not saved_in(folder):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_ctrl_c_prints_the_command_that_goes_on(processes: list[str], tmp_path: Path) -> None:
    out = tmp_path / "two words"
    words = ["train", "iris", "--out", str(out), "--steps", "99", "--population", "3", *processes]
    more = ["--generations", "1000", "--engine", "loop", "--quiet", "--log", "tensorboard"]
    said = stopped(out, [*words, *more])
    assert len(list(out.glob("tensorboard/*"))) == 1  # of several processes the first one logs
    found = re.fullmatch(
        r"gradevo: stopped\. The last good checkpoint is in (.*); go on with: (.*)", said
    )
    assert found is not None, said
    assert found[1] == str(out)
    again = shlex.split(found[2])
    assert again == ["gradevo", *words, *again[len(words) + 1 : -1], "--resume"]
    done = len((out / "log.jsonl").read_text().splitlines())
    again[again.index("1000")] = str(done + 1)
    for word in processes:
        again.remove(word)  # any number of processes can go on, here this one
    main([*again[1:], "--json"])
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["generation"] for line in logged] == list(range(1, done + 2))
    events = EventAccumulator(str(out / "tensorboard"), {"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("best")] == list(range(1, done + 2))


def test_ctrl_c_without_a_run_folder_says_that_nothing_was_saved(capsys, monkeypatch) -> None:
    def press(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ge.GADAM, "step", press)
    with pytest.raises(SystemExit) as stop:
        main(["train", "iris", *SHORT])
    assert stop.value.code == 130
    assert capsys.readouterr().err.startswith("gradevo: stopped. Nothing was saved: it needs --out")


def test_ctrl_c_tells_the_library_how_to_go_on(tmp_path: Path) -> None:
    press = [lambda info: os.kill(os.getpid(), signal.SIGINT)]
    with pytest.raises(KeyboardInterrupt) as stop:
        runs.fit("tensors", tmp_path, callbacks=press)
    assert f"the same call of fit with checkpoint={str(tmp_path)!r} goes on" in str(stop.value)
    with pytest.raises(KeyboardInterrupt, match="No checkpoint was asked for"):
        runs.fit("tensors", callbacks=press)
