"""Batches that many see: members and points of a swarm get them as they were, or nobody does.

Whoever writes into one would change it for those who come later, and for the user.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gradevo import trees
from gradevo.trees import Tree

RULES = (
    "build: must return modules that leave their input as it is, got a {} that changes it in place",
    "loss: must leave its target as it is, got one that changes it in place",
)


class Watch:
    """Hands out copies of batches, and sees that they stay as they are.

    Torch counts most changes of a tensor, which costs nothing to look at. What it does not count
    (through `.data` or NumPy) is noticed at the first call of a kind, by the numbers.

    Args:
        module: the name of the modules' class, for errors.
    """

    def __init__(self, module: str) -> None:
        self.rules = [rule.format(module) for rule in RULES]
        self.seen: set[Any] = set()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which look again."""
        return {**self.__dict__, "seen": set()}

    @contextmanager
    def over(self, kind: Any, *parts: Tree) -> Iterator[list[Tree]]:
        """A block that computes on copies of inputs and targets.

        Args:
            kind: the first call of every kind is looked at closely.
            parts: inputs, and targets if there are any.

        Raises:
            ValueError: afterwards, if the block has changed one.
        """
        given = [trees.each(copied, part) for part in parts]
        tensors = [trees.tensors(part) for part in given]
        before = [list(map(version, part)) for part in tensors]
        first, failed = kind not in self.seen, None
        try:
            yield given
        except RuntimeError as error:  # autograd's, maybe, of a tensor that it has kept
            failed = error
        for rule, part, known, original in zip(self.rules, tensors, before, parts, strict=False):
            if known != list(map(version, part)) or (first and differs(part, original)):
                raise ValueError(rule) from failed
        if failed is not None:
            raise failed
        self.seen.add(kind)


def copied(tensor: Tensor) -> Tensor:
    """The numbers for somebody who may ask for their gradient, in memory of their own."""
    return tensor.clone() if tensor.requires_grad else tensor.detach().clone()


def own_copy(tensor: Tensor) -> Tensor:
    """The numbers without what they were computed from; it learns where they do."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def fresh(tree: Tree) -> Tree:
    """The same tensors in containers of their own."""
    return tree if isinstance(tree, Tensor) else trees.each(lambda t: t, tree)


def version(tensor: Tensor) -> int:
    """How often a tensor was written to; of one from inference mode nobody counts it."""
    return 0 if tensor.is_inference() else tensor._version


def differs(tensors: list[Tensor], original: Tree) -> bool:
    """Whether numbers are others than those of a tree."""
    pairs = zip(tensors, trees.tensors(original), strict=True)
    return not all(same_bits(mine.detach(), theirs.detach()) for mine, theirs in pairs)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN to itself."""
    return torch.equal(one, other) or bool(
        ((one == other) | ((one != one) & (other != other))).all()
    )
