"""Tensors taken apart into what is not zero and where it is, in as few bytes as possible.

Zeros lose their sign: a negative weight times the zero of a mask is -0.0, and half of a masked
tensor would count as entries. Every other entry keeps all its bits. Positions are written as a
mask with a bit for every entry, or as gaps: the numbers of zeros before each non-zero entry, in
bytes or pairs of bytes. The largest number of the type stands for that many zeros with no entry
behind them, so that a longer gap is a sum.
"""

from collections.abc import Collection, Mapping
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SECOND = 96  # bytes that a second part costs in the header of a file, roughly
_KINDS = ({"dense"}, {"values", "mask"}, {"values", "gaps"})


def encoded(tensor: Tensor) -> dict[str, Tensor]:
    """The smallest parts that a tensor can be made from, by kind.

    Args:
        tensor: of any shape and device, and any type of whole bytes.

    Returns:
        `{"dense": ...}` or `{"values": ..., "mask": ...}` or `{"values": ..., "gaps": ...}`;
        new tensors on the CPU.

    Example:
        >>> sparse = torch.zeros(1000)
        >>> sparse[[2, 300]] = 7.0
        >>> encoded(sparse)["gaps"]  # 2 zeros, 7; 255 + 42 zeros, 7
        tensor([  2, 255,  42], dtype=torch.uint8)
    """
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().clone()
    rows = _rows(plain)  # (n, bytes of an entry), the tensor's own memory
    kept = (rows != 0).any(1) & (rows != _rows(plain.new_full((), -0.0))).any(1)  # (n,)
    rows[~kept] = 0
    values = rows[kept].flatten().view(plain.dtype)
    kind, positions = min(_ways(kept.numpy()), key=lambda way: way[1].nbytes)
    if plain.nbytes <= values.nbytes + positions.nbytes + _SECOND:
        return {"dense": plain}
    return {"values": values, kind: torch.from_numpy(positions)}


def decoded(parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """The tensor that `encoded` took apart, bit for bit but for the sign of zeros.

    Args:
        parts: on the CPU.
        shape: of the tensor.

    Raises:
        ValueError: the parts are not those of a tensor of this shape.

    Example:
        >>> decoded(encoded(torch.eye(2)), (2, 2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    check_parts(parts)
    if "dense" in parts:
        if parts["dense"].shape != shape:
            raise ValueError(f"parts: must be of shape {shape}, got {tuple(parts['dense'].shape)}")
        return parts["dense"]
    values, positions = parts["values"], torch.from_numpy(_positions(parts, prod(shape)))
    if values.shape != positions.shape or (positions >= prod(shape)).any():
        raise ValueError(f"parts: must fit shape {shape}, got {tuple(values.shape)} values")
    rows = torch.zeros(prod(shape), values.itemsize, dtype=torch.uint8)
    rows[positions] = _rows(values)
    return rows.flatten().view(values.dtype).reshape(shape)


def check_parts(parts: Collection[str]) -> None:
    """Raise if a tensor cannot be made from parts of these kinds.

    Raises:
        ValueError: they are not what `encoded` gives.
    """
    if set(parts) not in _KINDS:
        raise ValueError(f"parts: must be dense, or values with a mask or gaps, got {set(parts)}")


def _rows(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, an entry a row."""
    return tensor.flatten().view(torch.uint8).reshape(-1, tensor.itemsize)


def _ways(kept: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.generic]]]:
    """All the ways to write where the entries are."""
    gaps = np.diff(np.flatnonzero(kept), prepend=-1) - 1
    return [
        ("mask", np.packbits(kept)),
        ("gaps", _codes(gaps, np.dtype(np.uint8))),
        ("gaps", _codes(gaps, np.dtype(np.uint16))),
    ]


def _codes(gaps: NDArray[np.integer], dtype: np.dtype) -> NDArray[np.integer]:
    """Gaps in a small type: as often the type's largest number as it goes, then the rest."""
    largest = np.iinfo(dtype).max
    lengths = gaps // largest + 1
    codes = np.full(lengths.sum(), largest, dtype)
    codes[np.cumsum(lengths) - 1] = gaps % largest
    return codes


def _positions(parts: Mapping[str, Tensor], count: int) -> NDArray[np.int64]:
    """Where the entries are, in ascending order."""
    if "mask" in parts:
        return np.flatnonzero(np.unpackbits(parts["mask"].numpy(), count=count))
    codes = parts["gaps"].numpy()
    if codes.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"parts: must have gaps in uint8 or uint16, got {codes.dtype}")
    ends = codes < np.iinfo(codes.dtype).max  # whether an entry comes after so many zeros
    return np.cumsum(codes.astype(np.int64) + ends)[ends] - 1
