"""Arrays and tables of other packages as tensors; what has no numbers is named."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMBERS = "biufc"  # kinds of NumPy's dtypes
NARROWER = {"uint16": "int32", "uint32": "int64", "uint64": "int64"}  # which torch can compute with


def tensor_of(name: str, value: Any) -> Tensor:
    """A tensor of what was given, which shares its memory where it can.

    Args:
        name: what errors call it, "train: x" for example.
        value: a tensor, an array, a list of numbers, a pandas DataFrame or Series.

    Raises:
        TypeError: it holds no numbers, or is of a kind that rows cannot be taken from.
        ValueError: entries are masked.
    """
    if isinstance(value, Tensor):
        return _dense(name, value.detach())
    if is_frame(value):
        value = _numbers(name, value)
    elif hasattr(value, "toarray"):
        raise TypeError(f"{name}: must be dense, got a sparse {_kind(value)}; use .toarray()")
    elif not isinstance(value, list | tuple) and hasattr(value, "__array__"):
        value = np.asanyarray(value)
    if isinstance(value, np.ndarray):
        value = _native(name, value)
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = f": {error}" if isinstance(value, list | tuple) else ""
        raise TypeError(_rule(name, f"{_kind(value)}{reason}")) from error


def _dense(name: str, value: Tensor) -> Tensor:
    kinds = {"sparse": value.layout != torch.strided, "nested": value.is_nested,
             "quantized": value.is_quantized, "meta": value.is_meta}  # fmt: skip
    for kind, given in kinds.items():
        if given:
            raise TypeError(f"{name}: must be a dense tensor with its numbers, got a {kind} one")
    return value.clone() if value.is_inference() else value


def _native(name: str, array: np.ndarray) -> np.ndarray:
    """An array that torch takes: its own byte order and types, writable, no mask."""
    if isinstance(array, np.ma.MaskedArray):
        if (count := int(np.ma.count_masked(array))) > 0:
            raise ValueError(
                f"{name}: must have no masked entries, got {count}; use .filled(value), or leave "
                "those rows out"
            )
        array = np.asarray(array.data)
    if array.dtype.kind not in NUMBERS:
        raise TypeError(_rule(name, f"{_kind(array)} of dtype {array.dtype}"))
    dtype = np.dtype(NARROWER.get(array.dtype.name, array.dtype.newbyteorder("=")))
    usable = array.dtype == dtype and array.dtype.isnative and array.flags.writeable
    if not usable or any(stride < 0 for stride in array.strides):
        if array.dtype.name == "uint64" and array.size and array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"{name}: must be below 2**63, got {array.max()}")
        array = array.astype(dtype)  # a copy in order
    return array


# --- pandas --------------------------------------------------------------------------------


def is_frame(value: Any) -> bool:
    """Whether it is a pandas DataFrame or Series."""
    return hasattr(value, "iloc") and hasattr(value, "to_numpy")


def without_numbers(frame: Any) -> list[str]:
    """Columns of a DataFrame, or the Series itself, that hold no numbers: names and dtypes.

    Categories count as such even if they are numbers: their order means nothing.
    """
    columns = _columns(frame)
    return [f"{name!r} ({column.dtype})" for name, column in columns if not _numeric(column)]


def _columns(frame: Any) -> list[tuple[Any, Any]]:
    if not hasattr(frame, "columns"):
        return [(frame.name, frame)]
    return [(name, frame.iloc[:, i]) for i, name in enumerate(frame.columns)]


def _numeric(column: Any) -> bool:
    if getattr(column.dtype, "kind", "O") in NUMBERS:
        return True
    if column.dtype != np.dtype(object):
        return False
    try:
        column.to_numpy().astype(np.float32)
    except (TypeError, ValueError):
        return False
    return not any(isinstance(value, str | bytes) for value in column)


def _numbers(name: str, frame: Any) -> np.ndarray:
    if bad := without_numbers(frame):
        what = "every column must hold numbers" if hasattr(frame, "columns") else "must be numbers"
        raise TypeError(f"{name}: {what}, got {', '.join(bad)}; encode them first")
    array = frame.to_numpy()
    if array.dtype.kind in NUMBERS:
        return array
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)


def _rule(name: str, got: str) -> str:
    which, _, part = name.partition(": ")
    if not part:
        return f"{name}: must be a tensor or an array of numbers, got {got}"
    return f"{which}: x and y must be tensors or arrays of numbers, got {got} as {part}"


def _kind(value: Any) -> str:
    return type(value).__name__
