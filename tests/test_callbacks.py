"""What a run folder's log has, and when callbacks are called."""

import json
import time

import pytest

import runs
from gradevo.callbacks import JsonLines
from gradevo.errors import CheckpointError
from gradevo.folder import FILE, LOG


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


@pytest.mark.parametrize("lost", [1, 20])
def test_a_line_that_a_crash_cut_off_is_made_whole_when_the_run_goes_on(lost, tmp_path):
    runs.fit("tensors", tmp_path, generations=2)
    whole = (tmp_path / LOG).read_text()
    (tmp_path / LOG).write_text(whole[:-lost])
    runs.fit("tensors", tmp_path, generations=3)
    assert [line["generation"] for line in lines(tmp_path)] == [1, 2, 3]


def test_what_a_callback_does_to_its_numbers_stays_with_it(tmp_path):
    result = runs.fit("tensors", tmp_path, callbacks=[lambda info: info["losses"].clear()])
    assert all(info["losses"] for info in result.history)
