"""gradevo trains PyTorch networks with hybrids of gradient descent and evolution or swarms.

The front door; names are imported on first use, so that `gradevo --help` need not wait for
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradevo.algorithms.gadam import GADAM
    from gradevo.algorithms.independent import Independent
    from gradevo.errors import CheckpointError, DivergedError, EngineError
    from gradevo.folder import Checkpoint
    from gradevo.population import Population
    from gradevo.result import Result
    from gradevo.run import fit

__version__ = "0.1.0"

_ROOMS = {
    "GADAM": "gradevo.algorithms.gadam",
    "Checkpoint": "gradevo.folder",
    "CheckpointError": "gradevo.errors",
    "DivergedError": "gradevo.errors",
    "EngineError": "gradevo.errors",
    "Independent": "gradevo.algorithms.independent",
    "Population": "gradevo.population",
    "Result": "gradevo.result",
    "fit": "gradevo.run",
}

__all__ = [
    "GADAM",
    "Checkpoint",
    "CheckpointError",
    "DivergedError",
    "EngineError",
    "Independent",
    "Population",
    "Result",
    "fit",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'gradevo' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
