"""What fits an argument, said apart from the code that checks it: True, False, or None, either."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Fits = Callable[[Any], bool | None]


def item(value: Any) -> Any:
    """A number of NumPy or torch as Python's."""
    scalar = isinstance(value, np.generic | np.ndarray | torch.Tensor) and value.ndim == 0
    if not scalar or (isinstance(value, torch.Tensor) and value.is_meta):
        return value
    return value.item()


def whole(least: int, most: float = math.inf) -> Fits:
    """A whole number in a range."""
    return lambda value: type(item(value)) is int and least <= item(value) <= most


def real(low: float, high: float = 1e308, *, above: bool = False) -> Fits:
    """A finite number in a range, its lower end left out where it must be above it."""

    def fits(value: Any) -> bool:
        found = item(value)
        if type(found) not in (int, float) or not low <= found <= high:  # NaN is nowhere
            return False
        return found > low or not above

    return fits


def flag(value: Any) -> bool:
    """True or False."""
    return type(item(value)) is bool


def name(*names: str) -> Fits:
    """One of some names."""
    return lambda value: isinstance(value, str) and value in names


def perhaps(fits: Fits) -> Fits:
    """None, too."""
    return lambda value: True if value is None else fits(value)


def never(value: Any) -> bool:
    """Nothing among the values fits."""
    return False


def either(value: Any) -> None:
    """Some of the values may fit: what counts is that an error names the argument."""
    return None
