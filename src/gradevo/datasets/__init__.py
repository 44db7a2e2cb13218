"""Classification data sets: read from a name, a file or OpenML, split, encoded and scaled.

`load` gives a `Data` ready for training. `available` and `DataError` can be used without
importing torch; `load` and `Data` import it on first use.

>>> from gradevo.datasets import load
>>> load("iris").inputs
(4,)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradevo.datasets.names import DataError, Known, available

if TYPE_CHECKING:
    from gradevo.datasets.loading import Data, load

__all__ = ["Data", "DataError", "Known", "available", "load"]


def __getattr__(name: str) -> Any:
    if name not in {"Data", "load"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gradevo.datasets import loading

    return getattr(loading, name)
