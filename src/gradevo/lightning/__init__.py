"""A LightningModule trained as a population, by Lightning's own Trainer.

`PopulationModule` is a LightningModule around g members of yours, `Evolve` a callback that replaces
the worst of them by children of the others. Needs the extra: pip install 'gradevo[lightning]'. The
rest of gradevo does not know of Lightning.
"""

from importlib.util import find_spec

if find_spec("lightning") is None:
    raise ImportError(
        "gradevo.lightning: needs Lightning, got none; pip install 'gradevo[lightning]'"
    )

from gradevo.lightning.callback import Evolve
from gradevo.lightning.module import PopulationModule

__all__ = ["Evolve", "PopulationModule"]
