"""Buffers to run a forward on, while its graph may still need what was in them.

A module may assign a new tensor to a buffer, `self.mean = 0.9 * self.mean + ...`. The
population's buffer is one tensor for good, so the new value must be copied into it; but
backward may need the old one, and autograd refuses if it was overwritten. So a forward with
a graph runs on copies.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gradevo.structure import Tensors

Place = tuple[dict[str, Tensor | None], str, Tensor]  # where a module keeps a buffer


def lend(buffers: Mapping[str, Tensor]) -> Tensors:
    """The tensors to compute with, by name."""
    copied = torch.is_grad_enabled()
    return {name: buffer.clone() if copied else buffer for name, buffer in buffers.items()}


@torch.no_grad()
def take_back(buffers: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Copy into `buffers` what the module left in `given`, changed in place or assigned."""
    for name, buffer in buffers.items():
        if given[name] is not buffer:
            buffer.copy_(given[name])


def places_of(member: nn.Module) -> list[Place]:
    """Where a member keeps its buffers, which are views of the population's."""
    return [
        (owner._buffers, name, buffer)
        for owner in member.modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if buffer.layout == torch.strided
    ]


@torch.no_grad()
def write_back(places: list[Place]) -> None:
    """A module may have assigned a new tensor to its buffer: the population's is what counts."""
    for kept, name, view in places:
        current = kept[name]
        if current is not None and current is not view:
            view.copy_(current)
            kept[name] = view
