"""Rows that a loader's `collate_fn` is handed: it leaves them as they are, or it is refused."""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, default_collate

from gradevo.guards import same_bits
from gradevo.randomness import generator_from, isolated

log = logging.getLogger(__name__)
TRIED = 2  # rows


def check_collate(name: str, loader: DataLoader[Any]) -> None:
    """Refuse a collate that writes into rows which the dataset still holds.

    Every pass over the data would see other rows, and so would the user. Rows that a dataset makes
    anew at every call may be written to. Worker processes write into copies of their own, and
    rows that differ from call to call cannot be compared: both are taken as they are.

    Args:
        name: of the argument.
        loader: the user's; a few rows are read, and what a collate has written is put back.

    Raises:
        ValueError: it writes into them.
    """
    own = loader.collate_fn not in (None, default_collate)
    if not own or loader.num_workers or not hasattr(loader.dataset, "__getitem__"):
        return
    try:
        with isolated(generator_from(0)):
            changed = _changes(loader)
    except Exception as error:  # whatever a dataset or collate raises on so few rows
        log.info("data: collate_fn is not tried, %s: %s", type(error).__name__, error)
        return
    if changed:
        raise ValueError(
            f"{name}: must be a loader whose collate_fn leaves the rows as they are, got "
            f"{getattr(loader.collate_fn, '__name__', type(loader.collate_fn).__name__)}, which "
            "changes what the dataset holds, so that every pass would see other rows; work on "
            "copies of them"
        )


def _changes(loader: DataLoader[Any]) -> bool:
    """Whether rows are others once they were collated."""
    chosen = range(min(TRIED, len(loader.dataset)))  # pyright: ignore[reportArgumentType]

    def read() -> tuple[list[Any], list[Tensor]]:
        rows = [loader.dataset[i] for i in chosen]
        return rows, [found for leaf in pytree.tree_leaves(rows) for found in _memory(leaf)]

    rows, held = read()
    before = [tensor.clone() for tensor in held]
    if not _same(read()[1], before):
        return False
    loader.collate_fn(rows)
    changed = not _same(read()[1], before)
    if changed:
        with torch.no_grad():
            for tensor, known in zip(held, before, strict=True):
                tensor.copy_(known)
    return changed


def _memory(leaf: Any) -> list[Tensor]:
    """A row's part as a tensor in the same memory, if it has such."""
    if isinstance(leaf, Tensor):
        return [leaf.detach()]
    writable = isinstance(leaf, np.ndarray) and leaf.flags.writeable
    return [torch.from_numpy(leaf)] if writable else []


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(same_bits, one, other))
