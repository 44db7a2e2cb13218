"""Another engine's losses through torch.compile: an option, which "auto" never takes."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradevo.engines.batched import Batched
from gradevo.engines.check import backward
from gradevo.engines.vmap import VMap

if TYPE_CHECKING:
    from gradevo.population import Loss, Population


class Compile:
    """`torch.compile` of an engine's losses and of their gradients; outputs are the engine's.

    Compiling takes from ten seconds to minutes for every shape of batch and mode, and needs a
    C++ compiler (on a GPU, Triton). On a processor the engines were faster without it
    (docs/results/speed.md), so it is never chosen by itself.
    """

    def __init__(self, inner: Batched | VMap, name: str) -> None:
        self.inner, self.name = inner, name
        self.population: Population = inner.population
        self._losses = torch.compile(inner.losses, dynamic=False)

    def forward(self, x: Any, per_member: bool) -> Any:
        return self.inner.forward(x, per_member)

    def losses(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        if isinstance(self.inner, Batched):
            self.inner.traced(x)  # not under the compiler, which would follow it step by step
        return self._losses(loss, x, y, per_member)  # (g,)

    def accumulate(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        return backward(self.losses(loss, x, y, per_member))
