"""Tables of numbers and words, encoded as numbers by what their training rows hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from gradevo.datasets.names import DataError
from gradevo.datasets.preparation import Preparation
from gradevo.datasets.sources import Encoder, Rows, as_number

_MOST_WORDS = 1000


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers and words with labels; a `Source`.

    `x` holds float64 where all columns are numbers, else objects; a missing value is NaN in both.
    `words` are the numbers of the columns that hold words.

    >>> table = Table(np.array([[1.0], [np.nan], [3.0]]), (), ("a", "b", "a"))
    >>> table.fit(np.array([0, 2]))(np.array([0, 1, 2])).ravel().tolist()
    [-1.0, 0.0, 1.0]
    """

    x: NDArray[Any]
    words: tuple[int, ...]
    labels: tuple[str, ...]
    own_test: int = 0

    def fit(self, train: Rows) -> Encoder:
        """Learn medians, most frequent words, means and deviations from some rows only.

        Args:
            train: The row numbers to learn from.

        Returns:
            The function that encodes rows as float32: numbers standardised, words one-hot.
        """
        encoder = _encoder(self.x.shape[1], self.words).fit(self.x[train])
        return Encoder(
            lambda rows: np.asarray(encoder.transform(self.x[rows]), dtype=np.float32),
            _preparation(encoder),
        )


def _encoder(columns: int, words: tuple[int, ...]) -> ColumnTransformer:
    numbers = [column for column in range(columns) if column not in set(words)]
    scale = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()
    )
    one_hot = make_pipeline(
        SimpleImputer(strategy="most_frequent", keep_empty_features=True),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    return ColumnTransformer(
        [("numbers", scale, numbers), ("words", one_hot, list(words))], sparse_threshold=0
    )


def _preparation(encoder: ColumnTransformer) -> Preparation:
    """What a fitted encoder does; a part without columns was not fitted."""
    parts = {name: (fitted, list(columns)) for name, fitted, columns in encoder.transformers_}
    (scale, numbers), (one_hot, words) = parts["numbers"], parts["words"]
    fill, mean, deviation = (np.zeros(0),) * 3
    if numbers:
        fill = np.nan_to_num(scale[0].statistics_)  # an empty column becomes zeros
        mean, deviation = scale[1].mean_, scale[1].scale_
    return Preparation(
        tuple(fill.tolist()),
        tuple(mean.tolist()),
        tuple(deviation.tolist()),
        tuple(numbers),
        tuple(_places(one_hot, words)) if words else (),
    )


def _places(one_hot: Pipeline, words: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The word that stands for a missing one, and those that have a place, of each column."""
    imputer, places = (cast(Any, step) for _, step in one_hot.steps)
    for column, fill, values in zip(words, imputer.statistics_, places.categories_, strict=True):
        yield {"column": column, "fill": str(fill), "values": [str(value) for value in values]}


def table_of(
    names: Sequence[str],
    columns: Sequence[NDArray[Any]],
    labels: Sequence[str],
    own_test: int = 0,
) -> Table:
    """Build a table of columns, each either float64 or objects (words).

    Args:
        names: The name of each column, for the error line.
        columns: The columns, with NaN for a missing value.
        labels: The label of each row.
        own_test: Number of rows at the end that are the test split.

    Returns:
        The table.

    Raises:
        DataError: No column, a number that float32 cannot hold, or too many different words.

    >>> table_of(["size"], [np.array([1.0, 2.0])], ["a", "b"]).words
    ()
    """
    if not columns:
        raise DataError("data: a table must have a column beside the target, but has none")
    for name, column in zip(names, columns, strict=True):
        _check_column(name, column)
    words = tuple(index for index, column in enumerate(columns) if column.dtype == object)
    return Table(np.column_stack(columns), words, tuple(labels), own_test)


def column_of(cells: Sequence[str]) -> NDArray[Any]:
    """Turn text cells into float64 when every cell that is not missing is a number, else words.

    An empty cell, `?`, `NA` and `nan` are missing and become NaN.

    >>> column_of(["1", "?", "2.5"]).tolist(), column_of(["1", "", "red"]).tolist()
    ([1.0, nan, 2.5], ['1', nan, 'red'])
    """
    numbers = [np.nan if is_missing(cell) else as_number(cell) for cell in cells]
    if None not in numbers:
        return np.array(numbers, dtype=np.float64)
    return np.array([np.nan if is_missing(cell) else cell for cell in cells], dtype=object)


def is_missing(cell: str) -> bool:
    """Tell whether a text cell stands for a missing value.

    >>> [is_missing(cell) for cell in ("", "?", "NA", "NaN", "0")]
    [True, True, True, True, False]
    """
    return cell in {"", "?", "NA"} or cell.lower() == "nan"


def _check_column(name: str, column: NDArray[Any]) -> None:
    if column.dtype == object:
        _check_words(name, len({value for value in column if value == value}))
        return
    wrong = column[np.abs(column) > np.finfo(np.float32).max]
    if wrong.size:
        raise DataError(f"data: column '{name}' must hold float32 numbers, but holds {wrong[0]}")


def _check_words(name: str, count: int) -> None:
    if count > _MOST_WORDS:
        raise DataError(
            f"data: column '{name}' must hold at most {_MOST_WORDS} different words, but holds "
            f"{count}; leave out names and identifiers"
        )
