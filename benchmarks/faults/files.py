"""Damaged files: refused by name, of no consequence, or wrong in silence?

    python -m benchmarks.faults.files --count 1000 --seed 0 [--only "GADAM within"] [--show]

Every damage is done to a copy of a run's folder, which is then gone on with to its end.

refused   a CheckpointError that names the file or its folder
same      the result of an undisturbed run, bit for bit
said      another result, and a warning that says so
silent    another result, and nothing that says so
foreign   an error of another kind, or one that names no file
crash     the process has died
hang      no answer
"""

import argparse
import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.damage import DAMAGES, swapped
from benchmarks.faults.pool import each
from benchmarks.faults.samples import CASES

from gradevo.errors import CheckpointError

VERDICTS = ("refused", "same", "said", "silent", "foreign", "crash", "hang")
WRONG = {"silent", "foreign", "crash", "hang"}
WEIGHT = 6  # of files that a run goes on from, over its log and record


@dataclass(frozen=True)
class Task:
    """A folder to go on with, and what comes of an undamaged one."""

    case: str
    folder: Path
    expected: str
    what: str


class Said(logging.Handler):
    """Warnings, in a list."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def work(task: Task) -> tuple[str, str]:
    """The verdict on a folder, and why."""
    said, log = Said(), logging.getLogger("gradevo")
    log.handlers, log.propagate = [said], False
    try:
        found = CASES[task.case].use(task.folder)
    except CheckpointError as error:
        return ("refused" if str(task.folder) in str(error) else "foreign"), str(error)
    except BaseException as error:
        return "foreign", f"{type(error).__name__}: {error}"
    if found == task.expected:
        return "same", found
    return ("said", said.texts[0]) if said.texts else ("silent", found)


def made(root: Path, names: list[str]) -> dict[str, Path]:
    """Every sample, twice: of two seeds."""
    for name in names:
        for seed in (0, 1):
            CASES[name].make(root / name / str(seed), seed)
    return {name: root / name / "0" for name in names}


def damaged(
    samples: dict[str, Path], expected: dict[str, str], count: int, seed: int, root: Path
) -> Iterator[Task]:
    """Copies of samples, each with one damage."""
    draw, names = random.Random(seed), list(samples)
    for number in range(count):
        case, what = names[number % len(names)], None
        folder = root / "copies" / str(number)
        shutil.copytree(samples[case], folder)
        found = [p for pattern in CASES[case].files for p in sorted(folder.glob(pattern))]
        files = [path for path in found if path.stat().st_size]
        weights = [WEIGHT if path.suffix == ".safetensors" else 1 for path in files]
        while what is None:
            path, damage = draw.choices(files, weights)[0], draw.choice(DAMAGES)
            if damage is swapped and not CASES[case].named:
                continue
            other = samples[case].with_name("1") / path.relative_to(folder)
            said = damage(draw, path, other)
            what = (
                None if said is None else f"{path.relative_to(folder)}: {damage.__name__}, {said}"
            )
        yield Task(case, folder, expected[case], what)


def run(count: int, seed: int, names: list[str], workers: int, show: bool) -> Counter[str]:
    """Damage so many copies; how many came to which verdict."""
    counts, table = Counter[str](), Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        samples = made(root, names)
        wholes = []
        for name, folder in samples.items():
            shutil.copytree(folder, root / "whole" / name)
            wholes.append(Task(name, root / "whole" / name, "", "nothing"))
        answers = {task.case: answer for task, answer in each(work, wholes, workers)}
        for name, (verdict, found) in answers.items():
            assert verdict == "silent", (name, verdict, found)
        expected = {name: found for name, (_, found) in answers.items()}
        tasks = damaged(samples, expected, count, seed, root)
        for task, (verdict, why) in each(work, tasks, workers):
            counts[verdict] += 1
            table[task.case, verdict] += 1
            if show or verdict in WRONG:
                print(f"{verdict}: {task.case}: {task.what}: {why}", flush=True)
            shutil.rmtree(task.folder, ignore_errors=True)
    print(f"{'':24}" + "".join(f"{verdict:>9}" for verdict in VERDICTS))
    for name in names:
        print(f"{name:24}" + "".join(f"{table[name, verdict]:9}" for verdict in VERDICTS))
    print(f"{'all':24}" + "".join(f"{counts[verdict]:9}" for verdict in VERDICTS))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", action="append", choices=list(CASES))
    parser.add_argument("--show", action="store_true", help="also what went well")
    given = parser.parse_args()
    names = given.only or list(CASES)
    counts = run(given.count, given.seed, names, given.workers, given.show)
    sys.exit(int(any(counts[verdict] for verdict in WRONG)))


if __name__ == "__main__":
    main()
