"""The run folder: when to save, what may be continued, and what is refused."""

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from gradevo import checkpoint, disk
from gradevo.algorithms.base import Info
from gradevo.errors import CheckpointError
from gradevo.fields import settle
from gradevo.forms import Form, anything, exactly, fitting, mapping, plain
from gradevo.history import ALWAYS, engine, history, last_generation
from gradevo.identity import Identity, differences
from gradevo.lock import FolderLock
from gradevo.names import CHECKPOINT as FILE
from gradevo.names import GENERATIONS, HEAD, LOG
from gradevo.population import Population
from gradevo.validation import not_negative, path

log = logging.getLogger(__name__)
PAUSE = 10  # saves at the ends of short generations leave this many times their duration between


def saved_in(folder: Path) -> bool:
    """Whether there is a run to go on with, of one process or of several."""
    return (folder / FILE).exists() or bool(generations(folder))


def generations(folder: Path) -> list[Path]:
    """The checkpoints of several processes, oldest first, those without a head left out."""
    found = [p for p in folder.glob("generation-*") if GENERATIONS.fullmatch(p.name)]
    return sorted((p for p in found if (p / HEAD).is_file()), key=number_of)


def number_of(generation: Path) -> int:
    """The number in the name of such a checkpoint."""
    return int(generation.name.partition("-")[2])


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a run is saved.

    Attributes:
        folder: the run folder; made if need be.
        seconds: time between saves inside a generation; the end of a generation, of the run
            and Ctrl-C save as well. Of generations so short that saving would take more than a
            tenth of the time, some are left out.
        notes: plain values that are noted in `run.json` as well, by name.

    Raises:
        ValueError: `folder` is a file, or `seconds` is negative.
    """

    folder: str | Path
    seconds: float = 60.0
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settle(self, folder=lambda _, value: path("checkpoint", value), seconds=not_negative)
        if os.path.isfile(self.folder):
            raise ValueError(f"checkpoint: must be a folder, got the file {self.folder}")

    @classmethod
    def of(cls, where: "str | Path | Checkpoint") -> "Checkpoint":
        """Settings as they are, or the default ones for a folder."""
        return where if isinstance(where, Checkpoint) else cls(where)


@dataclass
class Saved:
    """What a run folder holds: the state of a run, its history and its engine."""

    state: Any
    history: list[Info]
    engine: str


class RunFolder:
    """Saves a run and finds it again; a block in which no other run uses the folder.

    Args:
        settings: where and how often.
        identity: what the run shares with one that it goes on from.
        form: what a state of the run looks like that so many processes have saved, with the tensors
            of these members; None: of all.
        noted: names that every generation has in the history.
        force: go on with another run, too.
    """

    def __init__(
        self,
        settings: Checkpoint,
        identity: Identity,
        form: Callable[[int, Tensor | None], Form],
        noted: Collection[str] = ALWAYS,
        *,
        force: bool = False,
    ) -> None:
        self.root = Path(settings.folder)
        self.path, self.log = self.root / FILE, self.root / LOG
        self.seconds, self.notes = settings.seconds, settings.notes
        self.identity, self.form, self.force = identity, form, force
        self.saved: dict[str, Form] = {
            "identity": mapping({}, others=plain), "state": anything, "history": history(noted),
            "engine": engine,
        }  # fmt: skip
        self.lock = FolderLock(self.root)
        self.saved_at, self.took = time.monotonic(), 0.0

    def __enter__(self) -> Self:
        self.lock.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.lock.__exit__(*error)

    def load(self) -> Saved | None:
        """The run that is there, if any; nothing is changed, but what a kill left is removed.

        Raises:
            CheckpointError: it is damaged, another run's, or does not fit this one.
        """
        with disk.explaining("be readable", self.path):
            if not self.path.exists():
                return None
        saved = self._checked(checkpoint.read(self.path), self.path, 1)
        disk.clear_unfinished(self.root)
        return saved

    def _checked(
        self, value: Any, path: Path, ranks: int, own: Tensor | None = None, **more: Form
    ) -> Saved:
        """What a file holds, once all of it is known to be of this run and to fit it.

        Args:
            value: what the file holds.
            path: of the file.
            ranks: processes that have saved it.
            own: members whose tensors are in it; None: all.
            more: forms of what else is in it.
        """
        with fitting(path):
            mapping({**self.saved, **more})(value, "")
        self._check_same(value["identity"])
        with fitting(path):
            self.form(ranks, own)(value["state"], "state")
            last = last_generation(value["history"])
            exactly(last)(getattr(value["state"], "generation", last), "state.generation")
        return Saved(value["state"], value["history"], value["engine"])

    def _check_same(self, theirs: Identity) -> None:
        """Refuse another run, or warn of it where it is asked for."""
        found = differences(self.identity, theirs, self.path.parent)
        if not found:
            return
        if not self.force:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise CheckpointError(
                f"checkpoint: must be of the same run, but {found[0]}{more}; use another folder, "
                "or go on all the same with force=True (--force)"
            )
        for line in found:
            log.warning("checkpoint: goes on with another run: %s", line)

    def due(self, *, ended: bool) -> bool:
        """Whether it is time to save, inside a generation or when one has ended."""
        since = time.monotonic() - self.saved_at
        return since >= self.seconds or (ended and since >= PAUSE * self.took)

    def save(self, saved: Saved) -> None:
        """Replace the folder's checkpoint; the old one stays until the new one is whole."""
        start = time.monotonic()
        checkpoint.write(self.path, {"identity": self.identity, **vars(saved)})
        self.saved_at = time.monotonic()
        self.took = self.saved_at - start

    def failed(self) -> None:
        """Nothing could be saved: the next attempt is when the next save is due."""
        self.saved_at = time.monotonic()

    def where(self) -> str:
        """A sentence on what is saved, for whoever has to go on from there."""
        if self.path.exists():
            return f"The last good checkpoint is in {self.path.parent}"
        return f"Nothing was saved in {self.path.parent} yet"


def placed(value: Any, population: Population) -> Any:
    """A loaded state with its members' tensors on the population's device; the rest stays."""
    if isinstance(value, dict):
        known = population.tensors.keys()
        if value and value.keys() <= known and all(map(torch.is_tensor, value.values())):
            return {name: tensor.to(population.device) for name, tensor in value.items()}
        return {name: placed(item, population) for name, item in value.items()}
    if isinstance(value, list):
        return [placed(item, population) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: placed(getattr(value, f.name), population) for f in fields(value)}
        return dataclasses.replace(value, **inner)
    return value


def healthy(population: Population) -> bool:
    """Whether at least one member's weights in progress are finite: worth saving.

    One after another, as it is nearly always the first: all can be a gigabyte.
    """
    leaves = [leaf.detach() for leaf in population.parameters()]
    return any(
        all(bool(leaf[i].isfinite().all()) for leaf in leaves) for i in range(population.size)
    )
