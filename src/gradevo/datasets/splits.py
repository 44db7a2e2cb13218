"""Stratified, reproducible splits into training, validation and test rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from gradevo.datasets.names import DataError
from gradevo.datasets.sources import Rows


def split_rows(
    y: NDArray[np.int64],
    *,
    seed: int,
    valid_share: float,
    test_share: float,
    own_test: int = 0,
) -> tuple[Rows, Rows, Rows]:
    """Split the row numbers so that each part has the classes in the same proportions.

    A part is taken without regard to the classes where a class has a single row or the part would
    have fewer rows than there are classes.

    Args:
        y: Class index of each row.
        seed: Same seed, same split.
        valid_share: Share of the rows left after the test rows are taken.
        test_share: Share of all rows; unused where there is a test split of its own.
        own_test: Number of rows at the end that are the test split, 0 to draw one.

    Returns:
        The row numbers of the training, validation and test part, which together are all rows.

    Raises:
        DataError: The training part would have fewer rows than there are classes, or one class.

    >>> y = np.array([0, 1] * 10)
    >>> [len(part) for part in split_rows(y, seed=0, valid_share=0.25, test_share=0.2)]
    [12, 4, 4]
    """
    rows = np.arange(len(y), dtype=np.intp)
    if own_test:
        rest, test = rows[:-own_test], rows[-own_test:]
    else:
        rest, test = _carve(rows, y, test_share, seed)
    train, valid = _carve(rest, y, valid_share, seed)
    _check_train(y[train], len(np.unique(y)), len(y))
    return train, valid, test


def _carve(rows: Rows, y: NDArray[np.int64], share: float, seed: int) -> tuple[Rows, Rows]:
    take = max(1, round(share * len(rows)))
    if take >= len(rows):
        return rows[:0], rows
    classes, counts = np.unique(y[rows], return_counts=True)
    smallest = min(take, len(rows) - take)
    stratify = y[rows] if counts.min() >= 2 and smallest >= len(classes) else None
    rest, part = train_test_split(rows, test_size=take, random_state=seed, stratify=stratify)
    return np.asarray(rest, dtype=np.intp), np.asarray(part, dtype=np.intp)


def _check_train(y: NDArray[np.int64], classes: int, rows: int) -> None:
    if len(y) < classes:
        raise DataError(
            f"data: the training part must have a row per class, but of {rows} rows the shares of "
            f"test and validation leave {len(y)} for {classes} classes"
        )
    if len(np.unique(y)) < 2:
        raise DataError(
            f"data: the training part must have at least 2 classes, but its {len(y)} rows have 1"
        )
