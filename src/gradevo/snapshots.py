"""What a trial of the user's code must leave as it was: objects, gradients, the batch itself."""

import operator
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gradevo.attributes import reached
from gradevo.code import CODED

LONGEST = 10_000  # items of a container that is put back


class Snapshot:
    """What objects hold now: attributes, items of containers, variables that functions share.

    Args:
        roots: modules, losses, functions; whatever they are made of counts.
    """

    def __init__(self, *roots: Any) -> None:
        self.back: list[Callable[[], None]] = []
        for root in roots:
            for value in reached(root):
                self._keep(value)

    def _keep(self, value: Any) -> None:
        if isinstance(value, CODED):
            for cell in value.__closure__ or ():
                self._keep_cell(cell)
        elif isinstance(value, torch.Generator):
            state = value.get_state()
            self.back.append(lambda: value.set_state(state) and None)
        elif isinstance(value, dict | list | deque | set):
            if len(value) <= LONGEST:
                self.back.append(_refill(value, value.copy()))
        elif isinstance(own := getattr(value, "__dict__", None), dict):
            self.back.append(_refill(own, own.copy()))

    def _keep_cell(self, cell: types.CellType) -> None:
        try:
            known = cell.cell_contents
        except ValueError:  # nothing in it yet
            return
        self.back.append(lambda: setattr(cell, "cell_contents", known))

    def restore(self) -> None:
        """Put everything back."""
        for put_back in self.back:
            put_back()


def _refill(container: Any, before: Any) -> Callable[[], None]:
    def put_back() -> None:
        if _same(container, before):
            return
        container.clear()
        (container.extend if hasattr(container, "extend") else container.update)(before)

    return put_back


def _same(container: Any, before: Any) -> bool:
    """Whether the very objects are in it, in their order."""
    both = container, before
    if isinstance(container, dict):
        both = [*container, *container.values()], [*before, *before.values()]
    return len(both[0]) == len(both[1]) and all(map(operator.is_, *both))


class Attributes:
    """What the parts of a module hold by name, to be put back after every call of a transform."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.parts = [(vars(part), vars(part).copy()) for part in module.modules()]

    def restore(self) -> None:
        for now, before in self.parts:
            if not _same(now, before):
                _refill(now, before)()


@contextmanager
def kept_gradients(leaves: Sequence[Tensor]) -> Iterator[None]:
    """A block after which gradients of tensors are what they were."""
    before = [
        (leaf, leaf.grad, None if leaf.grad is None else leaf.grad.clone()) for leaf in leaves
    ]
    try:
        yield
    finally:
        for leaf, gradient, numbers in before:
            leaf.grad = gradient
            if gradient is not None and numbers is not None:
                gradient.data.copy_(numbers)


def leaves_of(*values: Tensor) -> list[Tensor]:
    """The tensors that a backward pass from values adds gradients to."""
    found: list[Tensor] = []
    ahead, seen = [value.grad_fn for value in values if value.grad_fn is not None], set[Any]()
    while ahead:
        node: Any = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.append(leaf)
        ahead += [function for function, _ in node.next_functions if function is not None]
    return found
