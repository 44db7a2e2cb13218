"""What every reader hands over: rows with labels, not yet split, encoded or scaled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gradevo.datasets.names import DataError
from gradevo.datasets.preparation import Preparation

Rows = NDArray[np.intp]

_MOST_NUMBERS = 50


@dataclass(frozen=True, eq=False)
class Encoder:
    """Encodes rows of a source by their numbers, as `preparation` says."""

    encode: Callable[[Rows], NDArray[np.float32]]
    preparation: Preparation

    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        return self.encode(rows)


class Source(Protocol):
    """Rows with labels that can be encoded as float32 once the training rows are known.

    `own_test` counts the rows at the end that are a test split of their own, 0 without one.
    `fit` learns imputing, encoding and scaling from the given rows only and returns the function
    that encodes any rows.
    """

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def own_test(self) -> int: ...

    def fit(self, train: Rows) -> Encoder: ...


def class_names(labels: tuple[str, ...], name: str) -> tuple[str, ...]:
    """List the different labels in order: by value if all are numbers, else by alphabet.

    Args:
        labels: The label of every row.
        name: The name of the data set, for the error line.

    Returns:
        The classes; the index of a label in them is its class index.

    Raises:
        DataError: There is one class only, or the labels look like a number to be predicted.

    >>> class_names(("10", "9", "10", "9"), "marks")
    ('9', '10')
    """
    distinct = set(labels)
    numbers = {label: as_number(label) for label in distinct}
    _check_classes(len(labels), [numbers[label] for label in distinct], name)
    if None in numbers.values():
        return tuple(sorted(distinct))
    return tuple(sorted(distinct, key=lambda label: (numbers[label], label)))


def class_indices(labels: tuple[str, ...], classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Give the class index of each label.

    >>> class_indices(("b", "a", "b"), ("a", "b")).tolist()
    [1, 0, 1]
    """
    index = {label: number for number, label in enumerate(classes)}
    return np.array([index[label] for label in labels], dtype=np.int64)


def _check_classes(rows: int, numbers: list[float | None], name: str) -> None:
    count = len(numbers)
    if count < 2:
        raise DataError(f"data: '{name}' must have at least 2 classes, but has {count}")
    fractions = all(number is not None for number in numbers) and not all(
        number is not None and number.is_integer() for number in numbers
    )
    if fractions and count > _MOST_NUMBERS:
        raise DataError(
            f"data: the target of '{name}' must hold classes, but holds {count} different "
            "fractional numbers; regression is not supported"
        )
    if 2 * count > rows:
        raise DataError(
            f"data: the target of '{name}' must hold classes with 2 rows or more on average, but "
            f"holds {count} different labels in {rows} rows; regression is not supported"
        )


def as_number(text: str) -> float | None:
    """Read a number, or nothing when the text is not a number.

    >>> as_number(" .5"), as_number("1_000"), as_number("red")
    (0.5, None, None)
    """
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None
