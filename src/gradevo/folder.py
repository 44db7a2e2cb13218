"""The run folder: when to save, what may be continued, and what is refused."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gradevo import checkpoint
from gradevo.algorithms.base import Algorithm
from gradevo.errors import CheckpointError
from gradevo.problem import Problem

FILE = "checkpoint.safetensors"
LOG = "log.jsonl"
EXTENDABLE = {"generations", "theta"}  # a run may be made longer


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a run is saved.

    Attributes:
        folder: the run folder; made if need be.
        seconds: time between saves inside a generation; each end of a generation and Ctrl-C
            save as well.
    """

    folder: str | Path
    seconds: float = 60.0


@dataclass
class Saved:
    """What a run folder holds: the state of a run, its history and its engine."""

    state: Any
    history: list[dict[str, Any]]
    engine: str


class RunFolder:
    """Saves a run and finds it again."""

    def __init__(self, settings: Checkpoint, identity: dict[str, Any]) -> None:
        self.path = Path(settings.folder) / FILE
        self.log = Path(settings.folder) / LOG
        self.seconds = settings.seconds
        self.identity = identity
        self.saved_at = time.monotonic()

    def load(self) -> Saved | None:
        """The run that is there, if any.

        Raises:
            CheckpointError: it is damaged, or another run's.
        """
        if not self.path.exists():
            return None
        value = checkpoint.read(self.path)
        self._check_same(value["identity"])
        return Saved(value["state"], value["history"], value["engine"])

    def _check_same(self, theirs: dict[str, Any]) -> None:
        for name in sorted(self.identity.keys() | theirs.keys()):
            mine, other = self.identity.get(name), theirs.get(name)
            if mine != other:
                raise CheckpointError(
                    f"checkpoint: must be of the same run, but {name} is {other!r} in "
                    f"{self.path.parent} and {mine!r} here; use another folder"
                )

    def due(self) -> bool:
        """Whether it is time to save inside a generation."""
        return time.monotonic() - self.saved_at >= self.seconds

    def save(self, saved: Saved) -> None:
        """Replace the folder's checkpoint; the old one stays until the new one is whole."""
        value = {"identity": self.identity, **vars(saved)}
        checkpoint.write(self.path, value)
        self.saved_at = time.monotonic()


def identity_of(algorithm: Algorithm, problem: Problem, seed: int) -> dict[str, Any]:
    """What two runs must share for one to go on from the other's checkpoint."""
    config = {
        field.name: _plain(getattr(algorithm, field.name))
        for field in dataclasses.fields(algorithm)  # type: ignore[arg-type] # all are dataclasses
        if field.name not in EXTENDABLE
    }
    tensors = problem.population.tensors
    architecture = [[n, list(t.shape[1:]), str(t.dtype)] for n, t in tensors.items()]
    return {
        "algorithm": algorithm.name,
        **config,
        "architecture": architecture,
        "training rows": problem.source.rows,
        "validation rows": len(problem.valid[0]),
        "seed": seed,
    }


def _plain(value: Any) -> Any:
    """A config value as JSON gives it back."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", repr(value))


def healthy(problem: Problem) -> bool:
    """Whether at least one member's weights in progress are finite: worth saving."""
    leaves = [leaf.detach().flatten(1) for leaf in problem.population.parameters()]
    finite = torch.stack([leaf.isfinite().all(dim=1) for leaf in leaves]).all(dim=0)
    return bool(finite.any())
