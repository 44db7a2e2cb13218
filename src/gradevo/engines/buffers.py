"""Buffers to run a forward on, while its graph may still need what was in them.

A module may assign a new tensor to a buffer, `self.mean = 0.9 * self.mean + ...`. The
population's buffer is one tensor for good, so the new value must be copied into it; but
backward may need the old one, and autograd refuses if it was overwritten. So a forward with
a graph runs on copies.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gradevo.structure import Tensors


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
