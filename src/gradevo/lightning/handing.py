"""A batch that all members see: they get it as it was, or nobody does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gradevo.guards import copied, same_bits, version


class Handing:
    """Hands out a copy of every batch, each time in containers of its own.

    A step that writes into a tensor is refused. Torch counts most of such writes; what it does not
    count (through `.data` or NumPy) is noticed at the first batch of a kind, by the numbers. A
    batch of a class that torch's pytrees do not know is handed out as it is.
    """

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which look again."""
        return {"seen": set()}

    @contextmanager
    def over(self, kind: str, batch: Any) -> Iterator[Callable[[], Any]]:
        """A block that gets the batch by calling what it is given.

        Args:
            kind: the first batch of every kind is looked at closely.
            batch: Lightning's.

        Raises:
            ValueError: afterwards, if the block has changed it.
        """
        with torch.inference_mode(False):  # so that writes are counted in evaluation, too
            own = pytree.tree_map_only(Tensor, copied, batch)
        tensors, before = _tensors(own), list(map(version, _tensors(own)))
        yield lambda: pytree.tree_map(lambda leaf: leaf, own)
        changed = before != list(map(version, tensors))
        if changed or (kind not in self.seen and _differ(tensors, _tensors(batch))):
            raise ValueError(
                "batch: must be left as it is, all members see the same, got one that a step "
                "changed in place"
            )
        self.seen.add(kind)


def _tensors(batch: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]


def _differ(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    return not all(same_bits(a.detach(), b.detach()) for a, b in zip(mine, theirs, strict=True))
