"""The built-in data sets by name, readable without importing torch or scikit-learn."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple


class DataError(ValueError):
    """A data set, or an argument that describes it, cannot be used.

    The message is one line that names the argument or file, the rule and the value, so that a
    command line can print it as it is.

    >>> raise DataError("test_share must lie between 0 and 1, but is 2")
    Traceback (most recent call last):
    gradevo.datasets.names.DataError: test_share must lie between 0 and 1, but is 2
    """


class Known(NamedTuple):
    """One line of the list of built-in data sets.

    `inputs` is the number of values in a row, `classes` the number of classes.

    >>> Known("iris", 150, 4, 3, "scikit-learn").inputs
    4
    """

    name: str
    rows: int
    inputs: int
    classes: int
    source: str


_KNOWN = (
    Known("digits", 1797, 64, 10, "scikit-learn"),
    Known("iris", 150, 4, 3, "scikit-learn"),
    Known("wine", 178, 13, 3, "scikit-learn"),
    Known("breast_cancer", 569, 30, 2, "scikit-learn"),
)


def available() -> list[Known]:
    """List the data sets that `load` knows by name and that need neither a file nor a network.

    The list is constant, so that showing it costs nothing.

    Returns:
        One `Known` tuple (name, rows, inputs, classes, source) per data set.

    >>> [known.name for known in available()]
    ['digits', 'iris', 'wine', 'breast_cancer']
    """
    return list(_KNOWN)


def hint(word: str, choices: Iterable[str]) -> str:
    """Suggest the choices that look like a misspelt word.

    Args:
        word: What was written.
        choices: What could have been meant.

    Returns:
        ` (did you mean 'iris'?)`, or nothing when no choice is close.

    >>> hint("irsi", ["iris", "wine"])
    " (did you mean 'iris'?)"
    """
    close = difflib.get_close_matches(word, list(choices), n=3)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
