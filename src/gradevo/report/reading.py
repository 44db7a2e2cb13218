"""From run folders to plain values: what there is to show, and what is wrong with it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gradevo import kept, record
from gradevo.checkpoint import strict
from gradevo.disk import UNFINISHED, text_of
from gradevo.errors import CheckpointError
from gradevo.names import HISTORY, LOG
from gradevo.names import RESULT as FILE
from gradevo.sealed import parsed
from gradevo.tradeoff import Tradeoff

SIGNS = (record.FILE, LOG, HISTORY)  # a folder with one of them is a run's


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
        folder: where it is.
        record: the parts of its `run.json`; none for a result that was saved by itself.
        history: one dict of numbers a generation, as far as the run has come.
        front: the points of its front; None for other methods, or before the end.
        faults: what could not be read, a sentence each.
    """

    folder: Path
    record: dict[str, Any]
    history: list[dict[str, Any]]
    front: Tradeoff | None = None
    faults: tuple[str, ...] = ()

    def part(self, name: str) -> dict[str, Any]:
        """A part of the record; empty where there is none."""
        found = self.record.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def method(self) -> str:
        known = self.part("method").get("name") or self.part("run").get("algorithm")
        return str(known or self.folder.resolve().name)

    @property
    def dataset(self) -> str:
        """The data's name; empty where the run was not the command's."""
        return str(self.part("data").get("name", ""))

    @property
    def loss(self) -> str:
        """What networks were measured by: its name, or as the settings have it."""
        return str(self.record.get("loss") or self.part("run").get("loss", ""))

    @property
    def seed(self) -> int | None:
        seed = self.part("run").get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def unfinished(self) -> bool:
        """Whether it was stopped, or is still under way."""
        return bool(self.part("run")) and not self.record.get("finished")

    @property
    def engine(self) -> str:
        return str(self.part("finished").get("engine") or self.part("engine").get("name") or "")

    @cached_property
    def outcome(self) -> dict[str, Any]:
        """Its figures on test rows; empty where they are not known."""
        found = self.part("outcome")
        numbers = ("accuracy", "loss", "member_steps", "seconds", "seed")
        whole = all(isinstance(found.get(name), int | float) for name in numbers)
        return found if whole else {}


def find(folders: Sequence[Path]) -> list[Path]:
    """Run folders among these and below, each once, in the order given, then as they started.

    Raises:
        ValueError: there is no run in one of the folders, or none is given.
    """
    if not folders:
        raise ValueError("runs: must be at least one run folder, got none")
    found: dict[Path, Path] = {}
    for folder in folders:
        for run in [folder] if _is_run(folder) else _below(folder):
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SIGNS)


def _below(folder: Path) -> list[Path]:
    found = {path.parent for name in SIGNS for path in folder.rglob(name)}
    runs = [run for run in found if not run.name.startswith(UNFINISHED)]
    if not runs:
        signs = ", ".join(SIGNS)
        raise ValueError(f"runs: must be folders of runs, got {folder} with none of {signs}")
    return sorted(runs, key=lambda run: (str(record.read(run).get("started", "")), run))


def read(folder: Path) -> Run:
    """What there is of one run.

    Raises:
        CheckpointError: a file is damaged.
    """
    done = kept.read(folder) if (folder / FILE).exists() else {}
    history, faults = _history(folder, done.get("history"))
    front = Tradeoff(**done["points"]) if "points" in done else None
    return Run(folder, record.read(folder), history, front, tuple(faults))


def _history(folder: Path, known: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Of the log, which grows with the run, unless a result has another; else of that result."""
    if known is not None:
        known = json.loads(json.dumps(strict(known)))  # as the log has it
    if (folder / LOG).exists():
        infos, faults = _logged(folder / LOG)
        if known is None or [_told(info) for info in infos[: len(known)]] == known:
            return infos, faults
        return known, [*faults, f"{LOG} is not that of the result, whose numbers are shown."]
    path = folder / HISTORY
    if known is None and path.exists():
        known = _parsed(_text(path))
        if not isinstance(known, list) or not all(map(_is_info, known)):
            raise CheckpointError(f"checkpoint: must be a list of generations, got damaged {path}")
    return known or [], []


def _told(info: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in info.items() if name != "seconds"}


def _logged(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    lines = _text(path).splitlines()
    infos = [_parsed(line) for line in lines]
    faults = []
    if infos and not _is_info(infos[-1]):
        infos.pop()
        faults.append(f"The last line of {path.name} was cut off, by a crash perhaps; left out.")
    for number, info in enumerate(infos, start=1):
        if not _is_info(info):
            raise CheckpointError(
                f"checkpoint: must be a generation a line, got a damaged line {number} in {path}"
            )
    return infos, faults


def _text(path: Path) -> str:
    return text_of(path) or ""


def _parsed(text: str) -> Any:
    try:
        return parsed(text.encode())
    except ValueError:
        return None


def _is_info(value: Any) -> bool:
    """Whether it is the numbers of a generation."""
    if not isinstance(value, dict) or not isinstance(value.get("generation"), int):
        return False
    return isinstance(value.get("losses", []), list)
