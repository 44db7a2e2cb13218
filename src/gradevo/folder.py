"""The run folder: when to save, what may be continued, and what is refused."""

import dataclasses
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from gradevo import checkpoint, trees, validation
from gradevo.algorithms.base import Algorithm, Info
from gradevo.errors import CheckpointError
from gradevo.population import Population
from gradevo.problem import Problem

FILE = "checkpoint.safetensors"
LOG = "log.jsonl"
EXTENDABLE = {"generations", "theta"}  # a run may be made longer, unless it plans ahead
FEW = 10_000  # numbers of a loss's own that are compared
PAUSE = 10  # saves at the ends of short generations leave this many times their duration between


def saved_in(folder: Path) -> bool:
    """Whether there is a run to go on with, of one process or of several."""
    return (folder / FILE).exists() or any(folder.glob("generation-*"))


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a run is saved.

    Attributes:
        folder: the run folder; made if need be.
        seconds: time between saves inside a generation; the end of a generation, of the run
            and Ctrl-C save as well. Of generations so short that saving would take more than a
            tenth of the time, some are left out.

    Raises:
        ValueError: `folder` is a file, or `seconds` is negative.
    """

    folder: str | Path
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if os.path.isfile(self.folder):
            raise ValueError(f"checkpoint: must be a folder, got the file {self.folder}")
        validation.not_negative("seconds", self.seconds)

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
    """Saves a run and finds it again."""

    def __init__(self, settings: Checkpoint, identity: dict[str, Any]) -> None:
        self.path = Path(settings.folder) / FILE
        self.log = Path(settings.folder) / LOG
        self.seconds = settings.seconds
        self.identity = identity
        self.saved_at, self.took = time.monotonic(), 0.0

    def load(self) -> Saved | None:
        """The run that is there, if any.

        Raises:
            CheckpointError: it is damaged, or another run's.
        """
        with checkpoint.explaining("be readable", self.path):
            if not self.path.exists():
                return None
            checkpoint.clear_unfinished(self.path.parent)
        value = checkpoint.read(self.path)
        self._check_same(value.get("identity", {}))
        return Saved(value["state"], value["history"], value["engine"])

    def _check_same(self, theirs: dict[str, Any]) -> None:
        for name in sorted(self.identity.keys() | theirs.keys()):
            mine, other = self.identity.get(name), theirs.get(name)
            if mine != other:
                raise CheckpointError(
                    f"checkpoint: must be of the same run, but {name} is {other!r} in "
                    f"{self.path.parent} and {mine!r} here; use another folder"
                )

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

    def where(self) -> str:
        """A sentence on what is saved, for whoever has to go on from there."""
        if self.path.exists():
            return f"The last good checkpoint is in {self.path.parent}"
        return f"Nothing was saved in {self.path.parent} yet"


def identity_of(
    algorithm: Algorithm, problem: Problem, seed: int, start: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What two runs must share for one to go on from the other's checkpoint."""
    free = set() if getattr(algorithm, "planned", False) else EXTENDABLE
    config = {
        field.name: _plain(getattr(algorithm, field.name))
        for field in fields(cast(Any, algorithm))
        if field.name not in free
    }
    tensors, source = problem.population.tensors, problem.source
    return {
        "algorithm": algorithm.name,
        **config,
        "architecture": [[n, list(t.shape[1:]), str(t.dtype)] for n, t in tensors.items()],
        "loss": _plain(problem.loss),
        **_settings_of(problem.loss),
        "training data": type(source).__name__,
        "training rows": source.rows,
        "rows a batch": source.batch_size,
        "validation rows": trees.length(problem.valid[0]),
        "seed": seed,
        **({} if start is None else {"start": start}),
    }


def _settings_of(loss: Any) -> dict[str, Any]:
    """What a loss of torch.nn is set to, which its name does not say: weights of classes, ..."""
    while not isinstance(loss, nn.Module) and hasattr(loss, "loss"):
        loss = loss.loss
    if not isinstance(loss, nn.Module):
        return {}
    names = (name for part in loss.modules() for name in getattr(part, "__constants__", ()))
    found = {name: _plain(getattr(loss, name, None)) for name in names}
    found |= {name: t.tolist() for name, t in loss.state_dict().items() if t.numel() <= FEW}
    return {"loss's settings": found} if found else {}


def _plain(value: Any) -> Any:
    """A config value as another process would write it: no addresses in memory."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", None) or re.sub(r" at 0x[0-9a-f]+", "", repr(value))


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
