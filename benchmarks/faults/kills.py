"""Killed runs: do they go on to the bits of an undisturbed run?

    python -m benchmarks.faults.kills --count 50 --seed 0 [--alone]

A run is killed at random instants, three times at most, and started again until it has ended: by
SIGKILL, SIGTERM or SIGINT, in one process or several; of several it is torchrun or a worker.

same      the result of an undisturbed run, bit for bit
lost      another result
refused   it would not go on
left      a process was still there three seconds later
code      another exit code than the signal's
"""

import argparse
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.samples import digest, fit

import gradevo as ge
from gradevo.folder import saved_in
from gradevo.kept import read

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOST = 3  # kills of a run
PATIENCE = 120.0  # seconds of a run
WRONG, EARLY = 3, 1  # exit codes: of an error; of Ctrl-C before there was a run
LONG = ge.GADAM(population=3, generations=4, steps=150, batch_size=16)
COMMAND = (
    "train", "iris", "--population", "4", "--generations", "5", "--steps", "150", "--engine",
    "loop", "--quiet", "--json",
)  # fmt: skip


@dataclass
class Alone:
    """A run of the library in a process of its own."""

    folder: Path
    code: int | None = None
    process: Any = field(init=False)

    def start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["gradevo.run", "gradevo.algorithms.saved", "torch._dynamo"])
        self.process = context.Process(target=run_here, args=(self.folder,))
        self.process.start()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended."""
        self.process.join(seconds)
        self.code = self.process.exitcode
        return self.code is not None

    def kill(self, number: int, draw: random.Random) -> None:
        os.kill(self.process.pid, number)

    def left(self) -> bool:
        return False


def run_here(folder: Path) -> None:
    """What the process does."""
    try:
        fit(LONG, folder, slice_seconds=0.01).save(folder)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception:
        traceback.print_exc()
        sys.exit(WRONG)


@dataclass
class Several:
    """The command with two processes."""

    folder: Path
    code: int | None = None
    process: Any = field(init=False)

    def start(self) -> None:
        words = [*COMMAND, "--processes", "2", "--out", str(self.folder)]
        words += ["--resume"] if saved_in(self.folder) else []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gradevo", *words],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def wait(self, seconds: float) -> bool:
        try:
            self.said = self.process.communicate(timeout=seconds)[1]
        except subprocess.TimeoutExpired:
            return False
        self.code = self.process.returncode
        return True

    def kill(self, number: int, draw: random.Random) -> None:
        theirs = self._theirs()
        if number == signal.SIGKILL and draw.random() < 0.5 and len(theirs) > 1:
            os.kill(draw.choice(theirs[1:]), number)  # a worker: the others start again
        else:
            os.kill(self.process.pid, number)

    def left(self) -> bool:
        """Whether anything of it is still there after some time."""
        end = time.monotonic() + 3
        while time.monotonic() < end and self._theirs():
            time.sleep(0.1)
        return bool(self._theirs())

    def _theirs(self) -> list[int]:
        listed = subprocess.run(
            ["ps", "-e", "-ww", "-o", "pid=,args="], capture_output=True, text=True
        )
        lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
        return sorted(int(pid) for pid, words in lines if str(self.folder) in words)


def came_of(folder: Path) -> str:
    """A number of the result in a folder."""
    found = read(folder)
    numbers = {name: found[name] for name in ("losses", "history", "member_steps", "engine")}
    return digest(found["tensors"], found["soup"], numbers)


def trial(kind: Any, folder: Path, draw: random.Random, seconds: float, most: int) -> list[str]:
    """One run to its end; a verdict for every kill that hit it."""
    found: list[str] = []
    while True:
        run = kind(folder)
        run.start()
        if len(found) < most and not run.wait(draw.uniform(0.0, seconds)):
            number = draw.choice(SIGNALS)
            run.kill(number, draw)
            assert run.wait(PATIENCE), "it hangs"
            found.append(verdict(run, number))
            if run.code != 0:
                continue
        elif run.code is None:
            assert run.wait(PATIENCE), "it hangs"
        return found if run.code == 0 else [*found, "refused"]


def verdict(run: Any, number: int) -> str:
    """On a run that was killed; whether it is the same is known at its end."""
    if run.left():
        return "left"
    gentle = number in (signal.SIGTERM, signal.SIGINT)
    right = {0, 128 + number, -number} if gentle else {0, -number}
    if isinstance(run, Alone) and number == signal.SIGINT:
        right |= {EARLY}
    return "hit" if run.code in right else "code"


def run(count: int, seed: int, kinds: list[Any]) -> Counter[str]:
    """Kill so often; how many came to which verdict."""
    draw, counts = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        root, expected, seconds = Path(place), {}, {}
        for kind in kinds:
            began, whole = time.monotonic(), kind(root / f"whole {kind.__name__}")
            whole.start()
            assert whole.wait(PATIENCE) and whole.code == 0, "the undisturbed run failed"
            expected[kind], seconds[kind] = came_of(whole.folder), time.monotonic() - began
        number = 0
        while counts.total() < count:
            kind, folder = kinds[number % len(kinds)], root / f"run {number}"
            most = min(MOST, count - counts.total())
            found = trial(kind, folder, draw, seconds[kind], most)
            ended = "refused" not in found and came_of(folder) == expected[kind]
            end = "same" if ended else "lost"
            said = [end if word == "hit" else word for word in found]
            counts.update(said)
            print(f"{kind.__name__}: {', '.join(said) or 'missed'}", flush=True)
            number += 1
    print("  ".join(f"{word} {n}" for word, n in counts.items()))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="runs of one process only")
    given = parser.parse_args()
    kinds = [Alone] if given.alone else [Alone, Alone, Several]
    counts = run(given.count, given.seed, kinds)
    sys.exit(int(counts.total() != counts["same"]))


if __name__ == "__main__":
    main()
