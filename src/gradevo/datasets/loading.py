"""One function from a name, file, folder or OpenML id to tensors ready for training."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradevo.datasets.finding import data_name, read_source
from gradevo.datasets.names import DataError
from gradevo.datasets.preparation import Preparation
from gradevo.datasets.sources import Encoder, Rows, class_indices, class_names
from gradevo.datasets.splits import split_rows

_LARGEST_SEED = 2**32 - 1

_Part = tuple[Tensor, Tensor]
_Parts = tuple[_Part, _Part, _Part]


@dataclass(frozen=True, eq=False)
class Data:
    """A classification data set, split, encoded and scaled, ready for training.

    Each part is a pair of float32 inputs (rows, ...) and int64 class indices (rows). Encoding and
    scaling were learnt from the training part only; `preparation` says what they are. `classes`
    has the original label of each class index, over all parts.

    >>> load("iris")
    Data(name='iris', classes=('setosa', 'versicolor', 'virginica'))
    """

    name: str
    train: tuple[Tensor, Tensor] = field(repr=False)
    valid: tuple[Tensor, Tensor] = field(repr=False)
    test: tuple[Tensor, Tensor] = field(repr=False)
    classes: tuple[str, ...]
    preparation: Preparation | None = field(default=None, repr=False)

    @property
    def inputs(self) -> tuple[int, ...]:
        """The shape of one row, (columns,) for a table, (1, height, width) for images.

        >>> load("wine").inputs
        (13,)
        """
        return tuple(self.train[0].shape[1:])


def load(
    data: str | Path,
    *,
    target: str | None = None,
    seed: int = 0,
    valid_share: float = 0.2,
    test_share: float = 0.2,
    test: str | Path | None = None,
    max_size: int | None = None,
) -> Data:
    """Load a data set, split it and prepare it, so that a network can be trained on it at once.

    Numbers are imputed by the median and standardised, words imputed by the most frequent one and
    one-hot encoded, pixels standardised; all learnt from the training rows only. Splits keep the
    proportions of the classes where each class has enough rows.

    Args:
        data: In this order: a built-in name (see `available`), a CSV file (.csv, .csv.gz), an
            .npz file with `images` and `labels`, a folder of MNIST-style idx files, or a name or
            id on OpenML.
        target: The label column of a CSV file (default: the last) or of OpenML data.
        seed: Same seed, same split.
        valid_share: Share of the rows that are not test rows which goes to the validation part.
        test_share: Share of all rows which goes to the test part; unused where the data have a
            test part of their own.
        test: A second CSV file with the same columns that holds the test rows.
        max_size: Bytes that a packed file (.csv.gz, .npz, .idx.gz) may hold once it is unpacked,
            and that are read from a pipe. Default: a hundred times the file's own, and 256 MB.

    Returns:
        The three parts as tensors, with the names of the classes.

    Raises:
        DataError: An argument or the data cannot be used; one line that says why.

    >>> data = load("digits", seed=1)
    >>> data.train[0].shape, data.valid[0].shape, data.test[0].shape
    (torch.Size([1150, 64]), torch.Size([288, 64]), torch.Size([359, 64]))
    """
    _check_shares(valid_share=valid_share, test_share=test_share)
    _check_seed(seed)
    if max_size is not None and (not isinstance(max_size, Real) or not 0 < max_size < 2**63):
        raise DataError(f"max_size must be a positive number of bytes, but is {max_size!r}")
    most = None if max_size is None else int(max_size)
    source = read_source(data, target=target, test=test, most=most)
    name = data_name(data)
    classes = class_names(source.labels, name)
    y = class_indices(source.labels, classes)
    shares = {"valid_share": valid_share, "test_share": test_share}
    parts = split_rows(y, seed=int(seed), own_test=source.own_test, **shares)
    encode = source.fit(parts[0])
    return Data(name, *_tensors(encode, y, parts), classes, encode.preparation)


def _tensors(encode: Encoder, y: NDArray[np.int64], parts: tuple[Rows, Rows, Rows]) -> _Parts:
    train, valid, test = (
        (torch.from_numpy(encode(rows)), torch.from_numpy(y[rows])) for rows in parts
    )
    return train, valid, test


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not isinstance(share, Real) or not 0 < share < 1:
            raise DataError(f"{name} must lie between 0 and 1 (exclusive), but is {share!r}")


def _check_seed(seed: int) -> None:
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not whole or not 0 <= seed <= _LARGEST_SEED:
        raise DataError(f"seed must be a whole number from 0 to {_LARGEST_SEED}, but is {seed!r}")
