"""A run that is killed, interrupted or made longer gives the bits of one that was not."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gradevo as ge
import runs
from gradevo import checkpoint, disk
from gradevo.folder import FILE, RunFolder

STEPS = 60  # a learning phase of the runs that are killed: about half a second


def wait_until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def saved_at(folder: Path) -> int:
    return (folder / FILE).stat().st_mtime_ns if (folder / FILE).exists() else 0


def every_checkpoint(kind: str, monkeypatch, folder: Path) -> tuple[ge.Result, list[bytes]]:
    """A whole run, and what lay on the disk after each of its steps."""
    files: list[bytes] = []
    save = RunFolder.save

    def keep(self, saved):
        save(self, saved)
        files.append(self.path.read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", keep)
        return runs.fit(kind, folder), files


@pytest.mark.parametrize("kind", ["tensors", "loader", "generator", "augmented", "workers"])
def test_every_checkpoint_of_a_run_leads_to_the_same_bits(kind, tmp_path, monkeypatch):
    whole, files = every_checkpoint(kind, monkeypatch, tmp_path / "whole")
    assert len(files) == 12  # 3 phases of 4 steps
    for i, content in enumerate(files[:: 5 if kind == "workers" else 1]):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / FILE).write_bytes(content)
        assert runs.bits(runs.fit(kind, folder)) == runs.bits(whole), f"checkpoint {i}"


def test_another_interpreter_goes_on_from_the_middle_of_a_generation(tmp_path, monkeypatch):
    whole, files = every_checkpoint("augmented", monkeypatch, tmp_path / "whole")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FILE).write_bytes(files[9])
    script = [sys.executable, runs.__file__, "augmented", tmp_path / "run", tmp_path / "result"]
    subprocess.run([*script, "4"], check=True)
    assert runs.bits(ge.Result.load(tmp_path / "result", runs.net)) == runs.bits(whole)


@pytest.mark.parametrize("kind", ["tensors", "augmented"])
def test_a_run_killed_at_random_instants_and_started_again_gives_the_same_bits(kind, tmp_path):
    kills, instants = 0, random.Random(kind)
    while True:
        before = saved_at(tmp_path)
        process = runs.start(runs.fit, kind, tmp_path, steps=STEPS, slice_seconds=0.005)
        wait_until(lambda: saved_at(tmp_path) != before or not process.is_alive())  # noqa: B023 called here
        process.join(instants.uniform(0, 0.03 if kills < 2 else 0.3))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 2
    whole = runs.fit(kind, steps=STEPS, slice_seconds=1.0)
    assert runs.bits(runs.fit(kind, tmp_path, steps=STEPS)) == runs.bits(whole)


def test_a_kill_between_writing_and_renaming_leaves_the_last_good_checkpoint(tmp_path):
    process = runs.start(die_before_renaming, tmp_path, 5)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [p.name[:12] for p in tmp_path.iterdir() if p.is_dir()] == [disk.UNFINISHED]
    assert runs.bits(runs.fit("tensors", tmp_path)) == runs.bits(runs.fit("tensors"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", FILE, "log.jsonl", "run.json"]


def die_before_renaming(folder: Path, count: int) -> None:
    rename, calls = os.replace, 0

    def replace(source, target):
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.replace = replace
    runs.fit("tensors", folder)


def test_more_generations_extend_a_finished_run_as_if_it_had_been_one(tmp_path):
    half = runs.fit("loader", tmp_path, generations=2)
    assert len(half.history) == 2
    longer = runs.fit("loader", tmp_path, generations=4)
    assert runs.bits(longer) == runs.bits(runs.fit("loader", generations=4))


def test_a_finished_run_called_again_returns_the_same_without_work(tmp_path, monkeypatch):
    first = runs.fit("tensors", tmp_path)
    before = (tmp_path / FILE).read_bytes()
    monkeypatch.setattr(ge.GADAM, "step", None)
    called = []
    assert runs.bits(runs.fit("tensors", tmp_path, callbacks=[called.append])) == runs.bits(first)
    assert (tmp_path / FILE).read_bytes() == before
    assert called == []


# --- Ctrl-C --------------------------------------------------------------------------------


def interrupted(folder: Path, **changes) -> None:
    try:
        runs.fit("augmented", folder, seconds=3600, **changes)
    except KeyboardInterrupt as error:
        (folder / "said").write_text(str(error))
        sys.exit(42)


def test_ctrl_c_in_a_generation_saves_and_going_on_gives_the_same_bits(tmp_path):
    process = runs.start(interrupted, tmp_path, steps=3 * STEPS, slice_seconds=0.005)
    log = tmp_path / "log.jsonl"
    wait_until(lambda: log.exists() and log.read_text())
    time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    process.join(20)
    assert process.exitcode == 42
    assert str(tmp_path) in (tmp_path / "said").read_text()
    state = checkpoint.read(tmp_path / FILE)["state"]
    assert state.generation == 1
    assert 0 < state.phase.step < 3 * STEPS
    again = runs.fit("augmented", tmp_path, steps=3 * STEPS, slice_seconds=1.0)
    whole = runs.fit("augmented", steps=3 * STEPS, slice_seconds=1.0)
    assert runs.bits(again) == runs.bits(whole)


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    process = runs.start(interrupted, tmp_path, steps=10**6, slice_seconds=60.0)
    wait_until((tmp_path / "log.jsonl").exists)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    process.join(0.5)
    assert process.is_alive()  # it waits for the end of its slice, to save
    os.kill(process.pid, signal.SIGINT)
    process.join(5)
    assert process.exitcode == 42


def test_ctrl_c_while_the_last_step_is_being_saved_is_not_swallowed(tmp_path, monkeypatch):
    save = RunFolder.save

    def press(self, saved):
        save(self, saved)
        if saved.state.generation == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunFolder, "save", press)
    with pytest.raises(KeyboardInterrupt):
        runs.fit("tensors", tmp_path)
    assert checkpoint.read(tmp_path / FILE)["state"].generation == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_users_own_is_left_in_place():
    seen: list[int] = []
    former = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        runs.fit("tensors", callbacks=[lambda info: os.kill(os.getpid(), signal.SIGINT)])
    finally:
        signal.signal(signal.SIGINT, former)
    assert seen == [signal.SIGINT] * 2


def test_a_run_in_another_thread_gives_the_same_bits():
    results: list[ge.Result] = []
    thread = threading.Thread(target=lambda: results.append(runs.fit("tensors")))
    thread.start()
    thread.join()
    assert runs.bits(results[0]) == runs.bits(runs.fit("tensors"))
