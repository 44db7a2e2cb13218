"""Short names of contents: the same for the same bytes, in any process."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_128


def digest(parts: Iterable[Any]) -> str:
    """A name, 32 hexadecimal digits, of tensors, arrays and words one after another.

    Types and shapes count as well as numbers. It tells mistakes apart, not attackers.

    Example:
        >>> digest([torch.zeros(2)]) == digest([torch.zeros(2, 1)])
        False
    """
    found = xxh3_128()
    for part in parts:
        for block in _blocks(part):
            found.update(block)
    return found.hexdigest()


def _blocks(part: Any) -> Iterable[Any]:
    """What of a part is hashed: a head that says what it is, and bytes."""
    if isinstance(part, Tensor):
        plain = _strided(part)
        head = [str(part.layout), *(f"{t.dtype}{tuple(t.shape)}" for t in plain)]
        return [repr(head).encode(), *(_bytes(t) for t in plain)]
    if isinstance(part, np.ndarray) and part.dtype != object:
        head = f"array {part.dtype}{part.shape}".encode()
        return [head, np.ascontiguousarray(part).reshape(-1).view(np.uint8)]
    return [repr(part.tolist() if isinstance(part, np.ndarray) else part).encode()]


def _strided(tensor: Tensor) -> list[Tensor]:
    """The tensors that a tensor of any layout is made of."""
    tensor = tensor.detach()
    if tensor.is_meta:
        return [torch.empty(0, dtype=tensor.dtype).expand(*tensor.shape, 0)]
    if tensor.is_quantized:
        return [tensor.int_repr()]
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]


def _bytes(tensor: Tensor) -> np.ndarray:
    flat = tensor.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
