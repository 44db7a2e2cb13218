"""Checks of configurations: errors that name the argument, the rule and the value."""

import math
from collections.abc import Collection
from typing import Any


def at_least(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: must be a whole number of at least {least}, got {value!r}")


def not_negative(name: str, value: Any) -> None:
    if not _is_number(value) or value < 0:
        raise ValueError(f"{name}: must be a finite number that is not negative, got {value!r}")


def positive(name: str, value: Any) -> None:
    if not _is_number(value) or value <= 0:
        raise ValueError(f"{name}: must be a finite positive number, got {value!r}")


def share(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name}: must lie in [0, 1], got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def names(name: str, value: Any) -> None:
    if not isinstance(value, tuple | list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name}: must be a tuple of names, got {value!r}")


def one_of(name: str, value: Any, choices: Collection[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(choices)}, got {value!r}")


def pair(name: str, value: Any) -> None:
    known = isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value))
    if not known or not value[0] < value[1]:
        raise ValueError(
            f"{name}: must be two finite numbers (low, high) with low < high, got {value!r}"
        )
