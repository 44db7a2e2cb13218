"""Names that were: they work for one minor version, with a warning that says what to use."""

import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Former:
    """What became of a public name.

    Attributes:
        module: where its successor is.
        name: the successor.
        since: the minor version that renamed it, "0.2" for example; the next one drops it.
    """

    module: str
    name: str
    since: str


FORMER: dict[str, Former] = {}  # names of `gradevo` that were renamed: none so far


def successor(name: str) -> Any:
    """What a former name of the front door stands for now, after a `DeprecationWarning`.

    Raises:
        AttributeError: there was never such a name, or it has been dropped.
    """
    former = FORMER.get(name)
    if former is None:
        raise AttributeError(f"module 'gradevo' has no attribute {name!r}")
    warnings.warn(
        f"gradevo.{name} is now {former.module}.{former.name}; the old name works in "
        f"{former.since} only",
        DeprecationWarning,
        stacklevel=3,
    )
    return getattr(import_module(former.module), former.name)
