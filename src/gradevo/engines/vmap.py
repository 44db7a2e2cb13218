"""All members in one call through `torch.func.vmap`: good for small modules without loops."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils import _pytree as pytree

from gradevo.engines.check import scalar

if TYPE_CHECKING:
    from gradevo.population import Loss, Population


class VMap:
    """The stacked module itself is called, its tensors replaced by one member's under vmap.

    Dropout differs between members. Where two members would take different branches, vmap
    raises, and the engine is not offered for that module.
    """

    name = "vmap"

    def __init__(self, population: "Population") -> None:
        self.population = population

    def forward(self, x: Any, per_member: bool) -> Any:
        def run(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Any) -> Any:
            return self._call(parameters, buffers, x)

        parameters, buffers = self._tensors()
        axis = 0 if per_member else None
        mapped = torch.func.vmap(run, in_dims=(0, 0, axis), randomness="different")
        output, changed = mapped(parameters, buffers, x)
        _write_back(buffers, changed)
        return output

    def losses(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        def run(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Any, y: Any) -> Any:
            output, changed = self._call(parameters, buffers, x)
            return scalar(loss(output, y)), changed

        parameters, buffers = self._tensors()
        axis = 0 if per_member else None
        mapped = torch.func.vmap(run, in_dims=(0, 0, axis, axis), randomness="different")
        losses, changed = mapped(parameters, buffers, x, y)
        _write_back(buffers, changed)
        return losses  # (g,)

    def accumulate(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        losses = self.losses(loss, x, y, per_member)
        losses.sum().backward()
        return losses.detach()

    def _tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        stacked = self.population.stacked
        return dict(stacked.named_parameters()), dict(stacked.named_buffers())

    def _call(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Any
    ) -> tuple[Any, dict[str, Tensor]]:
        """Output, and those buffers to which the module assigned a new tensor."""
        given = {**parameters, **buffers}
        output = functional_call(self.population.stacked, given, (x,))
        changed = {name: given[name] for name in buffers if given[name] is not buffers[name]}
        return output, pytree.tree_map(torch.Tensor.detach, changed)


@torch.no_grad()
def _write_back(buffers: dict[str, Tensor], changed: dict[str, Tensor]) -> None:
    for name, value in changed.items():
        buffers[name].copy_(value)
