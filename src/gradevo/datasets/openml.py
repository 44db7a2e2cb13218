"""Tables from OpenML, through the cache of scikit-learn."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from gradevo.datasets.names import DataError, available, hint
from gradevo.datasets.tables import Table, table_of


def read_openml(name: str, *, target: str | None = None) -> Table:
    """Fetch a data set from OpenML, or from the cache (`~/scikit_learn_data`) the second time.

    Columns are words or numbers as OpenML declares them, not as their values look.

    Args:
        name: The name of the data set or its numeric id.
        target: The column with the labels; the target that OpenML states by default.

    Returns:
        The table.

    Raises:
        DataError: No network, no such data set, a column of free text, or no usable target.

    The example needs a network.

    >>> read_openml("credit-g").labels[:2]  # doctest: +SKIP
    ('good', 'bad')
    """
    bunch = _fetch(name, target)
    if getattr(bunch.target, "ndim", 0) != 1:
        raise DataError(f"target must name one column of OpenML data '{name}', which states none")
    if issparse(bunch.data):
        raise DataError(f"data: OpenML data '{name}' must be dense, but is sparse")
    if any(label is None or label != label for label in bunch.target):
        raise DataError(f"data: OpenML data '{name}' must have a label in every row, but has not")
    names = list(bunch.feature_names)
    columns = [
        _column(bunch.data[:, index], bunch.categories.get(column))
        for index, column in enumerate(names)
    ]
    return table_of(names, columns, [_label(label) for label in bunch.target])


def _fetch(name: str, target: str | None) -> Any:
    """Download or read the cache; whatever stops that comes from outside and is one line here."""
    try:
        return _download(name, target)
    except Exception as error:
        reason = " ".join(str(error).split())
        if "target_column" in reason:
            rule = f"target must be a column of OpenML data '{name}', but is '{target}'"
            raise DataError(f"{rule}: {reason}") from error
        close = hint(name, (known.name for known in available()))
        raise DataError(
            f"data: '{name}' is neither built in nor a file{close}, and OpenML did not give it: "
            f"{reason}"
        ) from error


def _download(name: str, target: str | None) -> Any:
    """Fetch arrays with the parser that needs no pandas.

    The pandas parser of scikit-learn 1.9 stops at words that are digits with pandas 3.1
    (scikit-learn issue 34892).
    """
    from sklearn.datasets import fetch_openml

    which: dict[str, Any] = {"data_id": int(name)} if name.isdecimal() else {"name": name}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A network error occurred")
        return fetch_openml(
            **which,
            target_column=target or "default-target",
            as_frame=False,
            parser="liac-arff",
            n_retries=1,
        )


def _column(codes: NDArray[Any], words: list[str] | None) -> NDArray[Any]:
    """Give float64, or words with NaN where missing for a column of codes of words."""
    codes = codes.astype(np.float64)
    if words is None:
        return codes
    return np.array([np.nan if np.isnan(c) else words[int(c)] for c in codes], dtype=object)


def _label(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)
