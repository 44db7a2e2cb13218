"""Members as rows of bytes: what travels between processes, and lies in shards on disk."""

import hashlib

import torch
from torch import Tensor

from gradevo.structure import Tensors


def row_bytes(tensors: Tensors, rows: Tensor) -> Tensor:
    """Some members' tensors, `(n, bytes)` uint8, one tensor after another.

    Example:
        >>> row_bytes({"a": torch.zeros(3, 2), "b": torch.zeros(3)}, torch.tensor([2])).shape
        torch.Size([1, 12])
    """
    parts = [_bytes(t[rows.to(t.device)]) for t in tensors.values()]
    return torch.cat(parts, dim=1)


def from_bytes(rows: Tensor, like: Tensors) -> Tensors:
    """The members' tensors that `row_bytes` packed, of the types and shapes of `like`."""
    found, start = {}, 0
    for name, t in like.items():
        width = t.shape[1:].numel() * t.element_size()
        part = rows.new_empty(len(rows) * width)  # memory that every type may lie in
        part.view(len(rows), width).copy_(rows[:, start : start + width])
        found[name] = part.view(t.dtype).view(len(rows), *t.shape[1:]).to(t.device)
        start += width
    return found


def fingerprints(tensors: Tensors) -> Tensor:
    """A number for every member, `(n,)` int64: the same for the same bits, else another."""
    count = len(next(iter(tensors.values())))
    digests = [hashlib.blake2b(digest_size=8) for _ in range(count)]
    for t in tensors.values():
        for digest, row in zip(digests, _bytes(t).cpu().numpy(), strict=True):
            digest.update(row)
    return torch.tensor([int.from_bytes(d.digest(), "little", signed=True) for d in digests])


def _bytes(rows: Tensor) -> Tensor:
    flat = rows.detach().contiguous().flatten()
    width = rows.shape[1:].numel() * rows.element_size()
    return flat.view(torch.uint8).view(len(rows), width)
