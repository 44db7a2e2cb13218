"""Which reader a name, file or folder belongs to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets as sklearn_datasets

from gradevo.datasets.csvfile import read_csv
from gradevo.datasets.idx import read_idx_folder
from gradevo.datasets.images import read_npz
from gradevo.datasets.names import DataError, available
from gradevo.datasets.openml import read_openml
from gradevo.datasets.sources import Source
from gradevo.datasets.tables import Table

_ENDINGS = (".gz", ".csv", ".npz", ".txt", ".data")


def read_source(
    data: str | Path,
    *,
    target: str | None = None,
    test: str | Path | None = None,
    most: int | None = None,
) -> Source:
    """Find out what kind of data was named and read it, neither split nor encoded.

    Args:
        data: A built-in name, a file, a folder, or a name or id on OpenML, tried in this order.
        target: The label column, for a CSV file or OpenML.
        test: A second CSV file with the test rows.
        most: Bytes that a packed file may hold; None: a hundred times its own, and 256 MB.

    Returns:
        The rows with their labels.

    Raises:
        DataError: An argument does not fit the kind of data, or the data cannot be read.

    >>> len(read_source("wine").labels)
    178
    """
    if not isinstance(data, str | Path) or not str(data).strip():
        raise DataError(f"data must be a name, a file or a folder, but is {data!r}")
    if _is_known(data):
        _refuse(data, target=target, test=test)
        return _built_in(str(data))
    path = _path(data)
    if not (isinstance(data, Path) or _is_path(data, path)):
        _refuse(data, test=test)
        return read_openml(data, target=target)
    return _read_path(path, target, test, most)


def _read_path(path: Path, target: str | None, test: str | Path | None, most: int | None) -> Source:
    if os.path.isdir(path):
        _refuse(path, target=target, test=test)
        return read_idx_folder(path, most)
    if path.suffix == ".npz":
        _refuse(path, target=target, test=test)
        return read_npz(path, most)
    test_path = None if test is None else _path(test)
    return read_csv(path, target=target, test=test_path, most=most)


def _path(data: str | Path) -> Path:
    return Path(os.path.expanduser(data))


def _is_known(data: str | Path) -> bool:
    return isinstance(data, str) and data in {known.name for known in available()}


def _is_path(data: str, path: Path) -> bool:
    return os.sep in data or data.endswith(_ENDINGS) or os.path.exists(path)


def _refuse(data: str | Path, **arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise DataError(f"{name} must be left out for data '{data}', but is '{value}'")


def _built_in(name: str) -> Table:
    bunch = getattr(sklearn_datasets, f"load_{name}")()
    names = [str(label) for label in bunch.target_names]
    labels = tuple(names[index] for index in bunch.target)
    return Table(np.asarray(bunch.data, dtype=np.float64), (), labels)


def data_name(data: str | Path) -> str:
    """Give the name that a data set is called by: that of its file without endings.

    >>> data_name("tables/adult.csv.gz")
    'adult'
    """
    if _is_known(data):
        return str(data)
    name = _path(data).absolute().name
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name
