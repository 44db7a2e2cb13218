"""Methods by name, all at one cost: what `gradevo train` and `gradevo compare` run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from gradevo.algorithms.base import Algorithm
from gradevo.algorithms.gadam import GADAM
from gradevo.algorithms.independent import Independent
from gradevo.result import Result


@dataclass(frozen=True)
class Method:
    """An algorithm and which network of its result counts.

    Attributes:
        algorithm: its config.
        pick: "best" or "ensemble".
        meaning: one line for `--help` and tables.
    """

    algorithm: Algorithm
    pick: Literal["best", "ensemble"]
    meaning: str

    def network(self, result: Result) -> nn.Module:
        """The network that the method hands over."""
        return result.best if self.pick == "best" else result.ensemble


MEANINGS = {
    "gadam": "a population evolved, the default setting; its best member",
    "gadam-paper": "a population evolved, the GADAM paper's setting; its best member",
    "gadam-ensemble": "the same population as gadam; its members' averaged predictions",
    "adam": "one Adam run with all the steps, early-stopped on validation",
    "adam-best-of": "g Adam runs of equal length, each early-stopped; the best on validation",
    "adam-random": "the same with learning rates drawn at random around the given one",
    "adam-ensemble": "the runs of adam-best-of; their averaged predictions",
}


def method(name: str, **settings: Any) -> Method:
    """A method by name, at the cost of GADAM with the same settings.

    Args:
        name: one of `MEANINGS`.
        settings: `population`, `generations`, `steps`, `epochs`, `batch_size`, `lr` and other
            fields of `LearningConfig`; those that are None keep their defaults.

    Raises:
        ValueError: no such method, or a setting out of range.

    Example:
        >>> method("adam", population=4, generations=2, steps=100).algorithm.steps
        1200
    """
    if name not in MEANINGS:
        raise ValueError(f"method: must be one of {', '.join(MEANINGS)}, got {name!r}")
    given: dict[str, Any] = {k: v for k, v in settings.items() if v is not None}
    if name.startswith("gadam"):
        make: Callable[..., GADAM] = GADAM.paper if name == "gadam-paper" else GADAM
        pick = "ensemble" if name == "gadam-ensemble" else "best"
        return Method(make(**given), pick, MEANINGS[name])
    pick = "ensemble" if name == "adam-ensemble" else "best"
    return Method(_independent(name, given), pick, MEANINGS[name])


def _independent(name: str, given: dict[str, Any]) -> Independent:
    """Adam runs that cost together what GADAM costs."""
    evolved = GADAM(**given)
    runs = 1 if name == "adam" else evolved.population
    factor = evolved.phases * evolved.population // runs
    learning = {k: v for k, v in given.items() if k not in ("population", "generations")}
    if name == "adam-random":
        learning = {"spread": evolved.spread, "lr": evolved.lr, **learning}
    learning["steps"] = evolved.steps * factor
    if evolved.epochs is not None:
        learning["epochs"] = evolved.epochs * factor
    return Independent(population=runs, **learning)
