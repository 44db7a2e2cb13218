"""Numbers that users hand over, as tensors of the type that they came with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from gradevo.validation import at_least

Numbers = float | Sequence[float] | np.ndarray | Tensor


def own_dtype(name: str, value: Any) -> torch.dtype | None:
    """The type that floats come with: a tensor's, or NumPy's, also inside of lists.

    None: Python's floats, and whole numbers, have none.

    Raises:
        ValueError: it is too coarse.
    """
    found = None
    if isinstance(value, Tensor):
        found = value.dtype
    elif hasattr(value, "__array__"):  # NumPy's, and what is like them, pandas' for example
        found = _torchs(np.asarray(value).dtype)
    elif isinstance(value, list | tuple):
        kinds = [kind for item in value if (kind := own_dtype(name, item)) is not None]
        found = max(kinds, key=lambda kind: kind.itemsize, default=None)
    if found is None or not found.is_floating_point:
        return None
    if found not in (torch.float32, torch.float64):
        raise ValueError(f"{name}: must be of float32 or float64, got {found}")
    return found


def _torchs(dtype: np.dtype[Any]) -> torch.dtype | None:
    if dtype.kind != "f":
        return None
    return getattr(torch, dtype.name, torch.float64)  # longer ones have no place in torch


def numbers(
    name: str,
    value: Any,
    *others: torch.dtype | None,
    like: Tensor | None = None,
    endless: bool = False,
) -> Tensor:
    """A tensor of floats.

    Args:
        name: of the argument.
        value: numbers, in lists, arrays or tensors.
        others: types that count where the value has none of its own.
        like: a tensor whose type and device count instead.
        endless: infinity is a number.

    Raises:
        ValueError: there is something else in it.
    """
    dtypes = [own_dtype(name, value), *others, torch.get_default_dtype()]
    dtype = next(kind for kind in dtypes if kind is not None) if like is None else like.dtype
    found = value.detach() if isinstance(value, Tensor) else _array(value)
    if found is None or found.is_complex() or found.dtype == torch.bool or found.is_meta:
        raise ValueError(f"{name}: must be numbers, got {value!r}")
    found = found.to_dense()
    found = found.to(dtype) if like is None else found.to(like)
    if bool((found.isnan() if endless else ~found.isfinite()).any()):
        raise ValueError(f"{name}: must be finite, got NaN or infinity")
    return found


def size(name: str, value: Any, least: int) -> int:
    """A whole number that an axis can have.

    Raises:
        ValueError: it is out of range.
    """
    found = at_least(name, value, least)
    if found >= 2**31:
        raise ValueError(f"{name}: must be a whole number below 2**31, got {value!r}")
    return found


def _array(value: Any) -> Tensor | None:
    """Numbers in lists and arrays; None: it is something else."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # lists of different lengths
        return None
    if array.dtype.kind not in "fiu":
        return None
    return torch.as_tensor(array.astype(np.float64))


def fitting(generator: Any, device: torch.device) -> Generator:
    """The generator that was given, or else one started from 0.

    Raises:
        TypeError: it is none.
        ValueError: it is on another device.
    """
    if generator is None:
        return torch.Generator(device).manual_seed(0)
    if not isinstance(generator, Generator):
        kind = type(generator).__name__
        raise TypeError(f"generator: must be a torch.Generator, got a {kind}")
    if generator.device.type != device.type:
        raise ValueError(f"generator: must be on {device}, like w, got {generator.device}")
    return generator
