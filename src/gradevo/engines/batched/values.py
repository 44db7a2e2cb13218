"""What flows through a graph: a tensor for all members, and how their axis is laid out."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Layout = Literal["shared", "members", "folded"]


@dataclass(frozen=True)
class Value:
    """A tensor that a member's forward would see as `(*shape,)`, for all g members.

    Attributes:
        data: the numbers.
        layout: "shared" `(*shape,)`, the same for all; "members" `(g, *shape)`; "folded", for a
            batch of images or signals `(B, C, ...)`, `(B, g * C, ...)` with channels last.
    """

    data: Tensor
    layout: Layout

    def shape(self, g: int) -> tuple[int, ...]:
        """What a member sees."""
        if self.layout == "shared":
            return tuple(self.data.shape)
        if self.layout == "members":
            return tuple(self.data.shape[1:])
        return (self.data.shape[0], self.data.shape[1] // g, *self.data.shape[2:])


def members(value: Value, g: int) -> Tensor:
    """As `(g, *shape)`: a view, and of what is shared one without copies."""
    if value.layout == "members":
        return value.data
    if value.layout == "shared":
        return value.data.expand(g, *value.data.shape)
    return value.data.unflatten(1, (g, -1)).movedim(1, 0)


def folded(value: Value, g: int) -> Tensor:
    """As `(B, g * C, ...)` with channels last in memory."""
    if value.layout == "folded":
        return value.data
    stacked = members(value, g).movedim(0, 1)  # (B, g, C, ...)
    last = stacked.movedim((1, 2), (-2, -1)).contiguous()  # (B, ..., g, C)
    return last.flatten(-2).movedim(-1, 1)


def aligned(values: list[Value], g: int) -> tuple[list[Tensor], Layout]:
    """Tensors that an elementwise function can take together, and the layout of what it gives.

    Members' axes are broadcast as their own: from the right, the members' axis left out.
    """
    layouts = {value.layout for value in values}
    folds = {(value.data.dim(), value.data.shape[1]) for value in values if value.data.dim() > 1}
    if layouts == {"shared"} or (layouts == {"folded"} and len(folds) == 1):
        return [value.data for value in values], values[0].layout
    rank = max(len(value.shape(g)) for value in values)
    tensors = []
    for value in values:
        if value.layout == "shared":
            tensors.append(value.data)  # it lacks the members' axis: broadcast along it
        else:
            tensor = members(value, g)
            ones = (1,) * (rank + 1 - tensor.dim())
            tensors.append(tensor.reshape(g, *ones, *tensor.shape[1:]))
    return tensors, "members"


def is_tensor(value: Any) -> bool:
    """Whether something is a value of a graph."""
    return isinstance(value, Value)


def of_batch(leaf: Any, per_member: bool) -> Any:
    """A part of the input as a value; what is no tensor stays."""
    return Value(leaf, "members" if per_member else "shared") if torch.is_tensor(leaf) else leaf
