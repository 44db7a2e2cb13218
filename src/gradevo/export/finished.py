"""What a finished run's folder holds, and the network that is wanted from it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from gradevo import kept, record
from gradevo.datasets.preparation import Preparation
from gradevo.errors import CheckpointError
from gradevo.front import Front
from gradevo.networks import Network
from gradevo.population import Build
from gradevo.result import Result
from gradevo.tradeoff import Tradeoff, implied
from gradevo.validation import one_of

KINDS = ("best", "soup", "ensemble")
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """Which network of a run.

    Attributes:
        what: "best", "soup" or "ensemble"; default: what the method hands over.
        pick: of a front: "knee", "best" or "sparsest", as `Tradeoff.pick`.
        max_loss: what the sparsest may lose.
        min_sparsity: what the best must have.

    Raises:
        ValueError: there is no such kind.
    """

    what: str | None = None
    pick: str | None = None
    max_loss: float | None = None
    min_sparsity: float | None = None

    def __post_init__(self) -> None:
        if self.what is not None:
            one_of("what", self.what, KINDS)


@dataclass(frozen=True)
class Finished:
    """A run that has ended, and a network of it.

    Args:
        folder: the run's.
        wanted: which network.

    Raises:
        CheckpointError: no result there, or a damaged one.
        ValueError: the run has no such network.
    """

    folder: Path
    wanted: Wanted = field(default_factory=Wanted)

    def __post_init__(self) -> None:
        _ = self.name, self.member  # what is wrong shows at once

    @cached_property
    def kept(self) -> dict[str, Any]:
        return kept.read(self.folder)

    @cached_property
    def record(self) -> dict[str, Any]:
        return record.read(self.folder)

    @cached_property
    def points(self) -> Tradeoff | None:
        """The numbers of a front; None for other results."""
        return Tradeoff(**self.kept["points"]) if "points" in self.kept else None

    @cached_property
    def member(self) -> int:
        """Which of the stacked networks; 0 is the best of a run without a front."""
        if self.points is None:
            return 0
        wanted = self.wanted
        limits = {"max_loss": wanted.max_loss, "min_sparsity": wanted.min_sparsity}
        return self.points.pick(wanted.pick, **limits)

    @cached_property
    def name(self) -> str:
        """What the network is called: its kind, or for a front the pick."""
        wanted = self.wanted
        if self.points is not None:
            if wanted.what is not None:
                raise ValueError(f"what: must be left out for a front, got {wanted.what}; use pick")
            return wanted.pick or implied(wanted.max_loss, wanted.min_sparsity)
        for name in ("pick", "max_loss", "min_sparsity"):
            if getattr(wanted, name) is not None:
                raise ValueError(f"{name}: must go with a front, which {self.folder} does not hold")
        noted = self._noted("method").get("pick")
        return wanted.what or (noted if noted in KINDS else "best")

    # --- the network -------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Its state dict without the code of its class; of an ensemble, of a list of members."""
        keys, tensors = self.kept["keys"], self.kept["tensors"]
        if self.name == "soup":
            return {key: self.kept["soup"][name].clone() for key, name in keys.items()}
        if self.name != "ensemble":
            return {key: tensors[name][self.member].clone() for key, name in keys.items()}
        count = len(self.kept["losses"])
        return {
            f"{i}.{key}": tensors[name][i].clone()
            for i in range(count)
            for key, name in keys.items()
        }

    def module(self, build: Build) -> nn.Module:
        """The network itself.

        Args:
            build: returns a module of the run's architecture.

        Raises:
            CheckpointError: it is of another architecture.
        """
        if self.points is not None:
            return Front.load(self.folder, build).members.member(self.member).eval()
        return getattr(Result.load(self.folder, build), self.name)

    # --- what the command noted of it ---------------------------------------------------

    @property
    def network(self) -> Callable[[], nn.Module] | None:
        """The builder; None for runs of the library."""
        return self._understood(Network.of, self._noted("network"))

    @property
    def data(self) -> dict[str, Any]:
        """Names and shapes; empty for runs of the library."""
        return self._noted("data")

    @property
    def preparation(self) -> Preparation | None:
        """How rows were prepared, where that is known."""
        return self._understood(Preparation.of, self.data.get("preparation"))

    def _noted(self, part: str) -> dict[str, Any]:
        found = self.record.get(part)
        return found if isinstance(found, dict) else {}

    def _understood(self, read: Callable[[dict[str, Any]], T], written: Any) -> T | None:
        """A part of the record as an object; None where it is not there.

        Raises:
            CheckpointError: it is there and says something else.
        """
        if not written:
            return None
        try:
            return read(written)
        except (LookupError, TypeError, ValueError) as error:
            path = self.folder / record.FILE
            raise CheckpointError(
                f"checkpoint: must be the record of a run, got {error!r} in {path}"
            ) from error

    @property
    def about(self) -> dict[str, Any]:
        """What to note in a file: numbers of the network, and of the data what is known."""
        facts = {"network": self.name, "method": self._noted("run").get("algorithm")}
        if self.points is not None:
            row = self.points.rows()[self.member]
            facts |= {name: row[name] for name in ("loss", "sparsity", "nonzeros", "accuracy")}
            facts["member"] = self.member
        elif self.name == "best":
            facts |= {"loss": float(self.kept["losses"][0]), "member": 0}
        return facts | {"data": self.data.get("name"), "classes": self.data.get("classes")}
