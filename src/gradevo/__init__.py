"""gradevo trains PyTorch networks with hybrids of gradient descent and evolution or swarms.

The front door; names are imported on first use, so that `gradevo --help` need not wait for
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradevo import datasets as datasets
    from gradevo import distributed as distributed
    from gradevo import export as export
    from gradevo import lightning as lightning
    from gradevo import loggers as loggers
    from gradevo import losses as losses
    from gradevo import models as models
    from gradevo import ray as ray
    from gradevo import report as report
    from gradevo import shrink as shrink
    from gradevo import sklearn as sklearn
    from gradevo import stacked as stacked
    from gradevo import swarm as swarm
    from gradevo.algorithms.adaswarm import AdaSwarm
    from gradevo.algorithms.gadam import GADAM
    from gradevo.algorithms.gemonn import GEMONN
    from gradevo.algorithms.independent import Independent
    from gradevo.algorithms.islands import Islands
    from gradevo.errors import CheckpointError, DivergedError, EngineError
    from gradevo.evolution import evolve
    from gradevo.folder import Checkpoint
    from gradevo.front import Front
    from gradevo.losses import OnLogits
    from gradevo.population import Population
    from gradevo.result import Result
    from gradevo.run import fit
    from gradevo.start import Start
    from gradevo.swarm.loss import SwarmLoss

__version__ = "0.1.0"

_ROOMS = {
    "AdaSwarm": "gradevo.algorithms.adaswarm",
    "GADAM": "gradevo.algorithms.gadam",
    "GEMONN": "gradevo.algorithms.gemonn",
    "Checkpoint": "gradevo.folder",
    "CheckpointError": "gradevo.errors",
    "DivergedError": "gradevo.errors",
    "EngineError": "gradevo.errors",
    "Front": "gradevo.front",
    "Independent": "gradevo.algorithms.independent",
    "Islands": "gradevo.algorithms.islands",
    "OnLogits": "gradevo.losses",
    "Population": "gradevo.population",
    "Result": "gradevo.result",
    "Start": "gradevo.start",
    "SwarmLoss": "gradevo.swarm.loss",
    "evolve": "gradevo.evolution",
    "fit": "gradevo.run",
}
_SUBMODULES = (
    "datasets", "distributed", "export", "lightning", "loggers", "losses", "models", "ray",
    "report", "shrink", "sklearn", "stacked", "swarm",
)  # fmt: skip

__all__ = [
    "GADAM",
    "GEMONN",
    "AdaSwarm",
    "Checkpoint",
    "CheckpointError",
    "DivergedError",
    "EngineError",
    "Front",
    "Independent",
    "Islands",
    "OnLogits",
    "Population",
    "Result",
    "Start",
    "SwarmLoss",
    "evolve",
    "fit",
    "loggers",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(_ROOMS[name]), name)
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    from gradevo.deprecation import successor

    return successor(name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES, "__version__"})
