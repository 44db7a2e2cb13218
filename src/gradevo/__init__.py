"""gradevo trains PyTorch networks with hybrids of gradient descent and evolution or swarms.

The front door; names are imported on first use, so that `gradevo --help` need not wait for
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradevo.algorithms.adaswarm import AdaSwarm
    from gradevo.algorithms.gadam import GADAM
    from gradevo.algorithms.gemonn import GEMONN
    from gradevo.algorithms.independent import Independent
    from gradevo.algorithms.islands import Islands
    from gradevo.errors import CheckpointError, DivergedError, EngineError
    from gradevo.folder import Checkpoint
    from gradevo.front import Front
    from gradevo.population import Population
    from gradevo.result import Result
    from gradevo.run import fit
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
    "Population": "gradevo.population",
    "Result": "gradevo.result",
    "SwarmLoss": "gradevo.swarm.loss",
    "fit": "gradevo.run",
}

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
    "Population",
    "Result",
    "SwarmLoss",
    "fit",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'gradevo' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
