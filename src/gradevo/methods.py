"""Methods by name, all but fronts at one cost: what `gradevo train` and `gradevo compare` run."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import nn

from gradevo.algorithms.adaswarm import AdaSwarm
from gradevo.algorithms.base import Algorithm
from gradevo.algorithms.gadam import GADAM
from gradevo.algorithms.gemonn import GEMONN
from gradevo.algorithms.independent import Independent
from gradevo.front import Front
from gradevo.losses import LOSSES, Named
from gradevo.result import Result
from gradevo.validation import one_of


@dataclass(frozen=True)
class Method:
    """An algorithm and which network of its outcome counts.

    Attributes:
        algorithm: its config.
        pick: "best" or "ensemble", which a front has not.
        meaning: one line for `--help` and tables.
    """

    algorithm: Algorithm
    pick: Literal["best", "ensemble"]
    meaning: str

    def network(self, result: Result | Front) -> nn.Module:
        """The network that the method hands over."""
        if isinstance(result, Front):
            return result.best()
        return result.best if self.pick == "best" else result.gather().ensemble


MEANINGS = {
    "gadam": "a population evolved, the default setting; its best member",
    "gadam-paper": "a population evolved, the GADAM paper's setting; its best member",
    "gadam-ensemble": "the same population as gadam; its members' averaged predictions",
    "adam": "one Adam run with all the steps, early-stopped on validation",
    "adam-best-of": "g Adam runs of equal length, each early-stopped; the best on validation",
    "adam-random": "the same with learning rates drawn at random around the given one",
    "adam-ensemble": "the runs of adam-best-of; their averaged predictions",
    "adaswarm": "one Adam run on a swarm's gradient, for losses that can only be evaluated",
    "adaswarm-paper": "the same in the AdaSwarm paper's setting, one joint swarm a batch",
    "gemonn": "a front of networks from sparse to dense; its member of the lowest loss",
    "gemonn-paper": "the same by the GEMONN paper's crossover and zeroing",
}

WITHOUT = {"gemonn-paper": ("steps", "epochs")}  # settings that mean nothing to a method


def method(name: str, loss: str = "cross-entropy", **settings: Any) -> Method:
    """A method by name, at the cost of GADAM with the same settings.

    GEMONN takes them as its own, and costs what they say: by default about the 25,000 passes
    that GADAM takes.

    Args:
        name: one of `MEANINGS`.
        loss: one of `LOSSES`; what it is decides how a swarm searches.
        settings: `population`, `generations`, `steps`, `epochs`, `batch_size`, `lr` and other
            fields of `LearningConfig`; those that are None keep their defaults.

    Raises:
        ValueError: no such method or loss, a setting out of range, or a loss without a gradient
            for a method that needs one.

    Example:
        >>> method("adam", population=4, generations=2, steps=100).algorithm.steps
        1200
    """
    if name not in MEANINGS:
        raise ValueError(f"method: must be one of {', '.join(MEANINGS)}, got {name!r}")
    chosen = _loss(loss, name)
    given: dict[str, Any] = {k: v for k, v in settings.items() if v is not None}
    if name.startswith("gadam"):
        make: Callable[..., GADAM] = GADAM.paper if name == "gadam-paper" else GADAM
        pick = "ensemble" if name == "gadam-ensemble" else "best"
        return Method(make(**given), pick, MEANINGS[name])
    if name.startswith("gemonn"):
        front: Callable[..., GEMONN] = GEMONN.paper if name == "gemonn-paper" else GEMONN
        return Method(front(**given), "best", MEANINGS[name])
    pick = "ensemble" if name == "adam-ensemble" else "best"
    runs = _independent(name, given)
    return Method(_swarm(name, runs, chosen) if "swarm" in name else runs, pick, MEANINGS[name])


def _loss(name: str, method: str) -> Named:
    one_of("loss", name, LOSSES)
    if not LOSSES[name].differentiable and "swarm" not in method:
        raise ValueError(
            f"loss: must have a gradient for {method}, got {name!r}, which can only be evaluated; "
            "adaswarm trains on it"
        )
    return LOSSES[name]


def _swarm(name: str, runs: Independent, loss: Named) -> AdaSwarm:
    """The same run on the gradient of a swarm."""
    setting: dict[str, Any] = {field.name: getattr(runs, field.name) for field in fields(runs)}
    del setting["spread"]
    bounds = (0.0, 1.0) if loss.probabilities else None
    if name == "adaswarm-paper":
        return AdaSwarm.paper(**setting, bounds=bounds)
    return AdaSwarm(**setting, bounds=bounds, scope=loss.scope)


def _independent(name: str, given: dict[str, Any]) -> Independent:
    """Adam runs that cost together what GADAM costs."""
    evolved = GADAM(**given)
    runs = 1 if name in ("adam", "adaswarm", "adaswarm-paper") else evolved.population
    factor = evolved.phases * evolved.population // runs
    learning = {k: v for k, v in given.items() if k not in ("population", "generations")}
    if name == "adam-random":
        learning = {"spread": evolved.spread, "lr": evolved.lr, **learning}
    if evolved.epochs is None:
        learning["steps"] = evolved.steps * factor
    else:
        learning["epochs"] = evolved.epochs * factor
    return Independent(population=runs, **learning)
