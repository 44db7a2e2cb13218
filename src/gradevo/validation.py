"""Checks of arguments: errors that name the argument, the rule and the value.

A check takes the argument's name and what was given, and returns it as the plain Python value:
numbers of NumPy and tensors without axes are numbers, bool is none, and a flag is nothing else.
"""

import sys
from collections.abc import Collection
from os import PathLike
from typing import Any

LARGEST, LARGEST_SEED = sys.float_info.max, 2**63 - 1


def plain(value: Any) -> Any:
    """A NumPy scalar, or an array or tensor without axes, as Python's own value.

    Example:
        >>> import numpy as np
        >>> plain(np.int64(3)), plain(np.array(0.5)), plain("text")
        (3, 0.5, 'text')
    """
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (RuntimeError, ValueError):  # a tensor without data
        return value


# --- numbers -------------------------------------------------------------------------------


def at_least(name: str, value: Any, least: int) -> int:
    """A whole number that is no smaller."""
    found = plain(value)
    if not is_whole(found) or found < least:
        raise ValueError(f"{name}: must be a whole number of at least {least}, got {value!r}")
    return int(found)


def seed(name: str, value: Any) -> int:
    """A whole number that generators of random numbers start from."""
    found = plain(value)
    if not is_whole(found) or not 0 <= found <= LARGEST_SEED:
        raise ValueError(f"{name}: must be a whole number from 0 to 2**63 - 1, got {value!r}")
    return int(found)


def not_negative(name: str, value: Any) -> float:
    """A finite number of at least 0."""
    found = plain(value)
    if not is_number(found) or found < 0:
        raise ValueError(f"{name}: must be a finite number that is not negative, got {value!r}")
    return found


def positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    found = plain(value)
    if not is_number(found) or found <= 0:
        raise ValueError(f"{name}: must be a finite positive number, got {value!r}")
    return found


def share(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    found = plain(value)
    if not is_number(found) or not 0 <= found <= 1:
        raise ValueError(f"{name}: must lie in [0, 1], got {value!r}")
    return found


def number(name: str, value: Any) -> float:
    """A finite number."""
    found = plain(value)
    if not is_number(found):
        raise ValueError(f"{name}: must be a finite number, got {value!r}")
    return found


def pair(name: str, value: Any) -> tuple[float, float]:
    """Two numbers, the lower one first."""
    found = [plain(side) for side in value] if isinstance(value, tuple | list) else []
    if len(found) != 2 or not all(map(is_number, found)) or not found[0] < found[1]:
        raise ValueError(
            f"{name}: must be two finite numbers (low, high) with low < high, got {value!r}"
        )
    return found[0], found[1]


def is_number(value: Any) -> bool:
    """Whether it is a finite int or float of Python's."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and -LARGEST <= value <= LARGEST  # which NaN is not, nor too large an int


def is_whole(value: Any) -> bool:
    """Whether it is an int of Python's."""
    return isinstance(value, int) and not isinstance(value, bool)


# --- words, flags, functions -----------------------------------------------------------------


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that could be taken for it."""
    found = plain(value)
    if not isinstance(found, bool):
        raise ValueError(f"{name}: must be True or False, got {value!r}")
    return found


def names(name: str, value: Any) -> tuple[str, ...]:
    """Several names, each once."""
    if not isinstance(value, tuple | list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name}: must be a tuple of names, got {value!r}")
    if len(set(value)) < len(value):
        raise ValueError(f"{name}: must be different names, got {value!r}")
    return tuple(map(str, value))


def one_of(name: str, value: Any, choices: Collection[str]) -> str:
    """One of some names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(choices)}, got {value!r}")
    return str(value)


def text(name: str, value: Any) -> str:
    """A string that says something."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: must be a string that is not empty, got {value!r}")
    return str(value)


def path(name: str, value: Any) -> Any:
    """A string or a path.

    Raises:
        TypeError: it is neither.
        ValueError: it names nothing.
    """
    if not isinstance(value, str | PathLike):
        raise TypeError(f"{name}: must be a path, got {value!r}")
    if not str(value) or "\0" in str(value):
        raise ValueError(f"{name}: must be a path, got {value!r}")
    return value


def function(name: str, value: Any) -> Any:
    """What can be called as it is: a class would make an object of what it is called with.

    Raises:
        TypeError: it is no function.
    """
    if isinstance(value, type):
        kind = value.__name__
        raise TypeError(f"{name}: must be callable, got the class {kind}; {kind}() makes an object")
    if not callable(value):
        raise TypeError(f"{name}: must be callable, got a {type(value).__name__}")
    return value
