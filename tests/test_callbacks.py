"""What is shown and logged beside a run, and what is not."""

import json
import os
import pty
import re
import subprocess
import sys
import time

import pytest

import runs
from gradevo.callbacks import JsonLines
from gradevo.errors import CheckpointError
from gradevo.folder import FILE, LOG

PROGRAM = """
import gradevo as ge, runs
shown = lambda info: print("callback", info["generation"])
runs.fit("tensors", steps=30, slice_seconds=0.01, generations=3, callbacks=[shown])
"""


def on_a_terminal(program: str) -> tuple[str, str]:
    """What a program writes to a terminal as its errors, and to a file as its output."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=follower,
        stdout=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        cwd=os.path.dirname(runs.__file__),
    )
    os.close(follower)
    shown = b""
    while chunk := read(leader):
        shown += chunk
    os.close(leader)
    output = process.communicate()[0]
    assert process.returncode == 0, shown.decode()
    return shown.decode(), output.decode()


def read(leader: int) -> bytes:
    try:
        return os.read(leader, 4096)
    except OSError:  # the other end was closed
        return b""


def test_a_terminal_shows_generation_losses_adoption_and_time_left_and_output_stays_output():
    shown, output = on_a_terminal(PROGRAM)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    for generation in range(4):
        assert f"generation {generation}/3" in plain
    assert re.search(r"best \d\S* +mean \d\S* +adopted +\d+%", plain)
    assert re.search(r"\d:\d\d:\d\d", plain)
    assert output.splitlines() == ["callback 1", "callback 2", "callback 3"]
    assert "callback" not in plain


def test_nothing_is_printed_where_there_is_no_terminal(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    runs.fit("tensors", tmp_path).save(tmp_path)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


# --- the log -----------------------------------------------------------------------------------


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_the_log_has_one_json_object_a_generation_with_its_seconds(tmp_path):
    result = runs.fit("tensors", tmp_path, generations=3)
    logged = lines(tmp_path)
    seconds = [line.pop("seconds") for line in logged]
    assert logged == result.history
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_after_a_resume_there_is_exactly_one_line_for_each_generation(tmp_path):
    runs.fit("tensors", tmp_path, generations=2)
    before = (tmp_path / LOG).read_text()
    (tmp_path / LOG).write_text(before + '{"generation": 3, "from": "a run that was killed"}\n{"ge')
    runs.fit("tensors", tmp_path, generations=4)
    assert (tmp_path / LOG).read_text().startswith(before)
    assert [line["generation"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert not any("from" in line for line in lines(tmp_path))


def test_a_log_that_was_lost_is_written_again(tmp_path):
    result = runs.fit("tensors", tmp_path)
    (tmp_path / LOG).unlink()
    runs.fit("tensors", tmp_path)
    assert lines(tmp_path) == result.history


def test_a_new_run_in_the_folder_of_an_old_log_starts_it_anew(tmp_path):
    (tmp_path / LOG).write_bytes(b"\xff old \n")
    runs.fit("tensors", tmp_path)
    assert [line["generation"] for line in lines(tmp_path)] == [1, 2]


def test_numbers_that_are_not_finite_are_null_and_the_log_is_strict_json(tmp_path):
    log = JsonLines(tmp_path / LOG)
    log({"generation": 1, "losses": [float("nan"), 2.0], "best": float("-inf")})
    text = (tmp_path / LOG).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    (line,) = lines(tmp_path)
    assert (line["losses"], line["best"]) == ([None, 2.0], None)


def test_a_log_is_of_use_on_its_own_as_a_callback(tmp_path):
    runs.fit("tensors", callbacks=[JsonLines(tmp_path / "deep" / "mine.jsonl")])
    assert len((tmp_path / "deep" / "mine.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / FILE).exists()


def test_the_time_between_saves_is_the_one_that_was_asked_for(tmp_path):
    seen = []

    def look(info):
        seen.append((tmp_path / FILE).exists())
        time.sleep(0.01)

    runs.fit("tensors", tmp_path, seconds=3600, callbacks=[look])
    assert seen == [False, True]  # only ends of generations
    (tmp_path / FILE).unlink()
    seen.clear()
    runs.fit("tensors", tmp_path, seconds=0, callbacks=[look])
    assert seen == [True, True]


def test_a_log_that_cannot_be_written_is_refused_with_its_name():
    with pytest.raises(CheckpointError, match=r"log\.jsonl"):
        JsonLines("/proc/nowhere/log.jsonl")
