"""All members in one call through `torch.func.vmap`: good for small modules without loops."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from gradevo import trees
from gradevo.engines.buffers import lend, take_back
from gradevo.engines.check import Declined, backward, scalar
from gradevo.snapshots import Attributes
from gradevo.structure import Tensors, buffers_of

if TYPE_CHECKING:
    from gradevo.population import Loss, Population


class VMap:
    """The stacked module itself is called, its tensors replaced by one member's under vmap.

    Dropout differs between members. Where two members would take different branches, vmap
    raises, and the engine is not offered for that module. A loss that has `of_members(outputs,
    targets)`, as `SwarmLoss` has, gets the stacked outputs as they are.
    """

    name = "vmap"

    def __init__(self, population: "Population") -> None:
        self.population = population

    def forward(self, x: Any, per_member: bool) -> Any:
        together: Any = None  # made under vmap, which itself takes nothing but tensors

        def run(parameters: Tensors, buffers: Tensors, x: Any) -> tuple[Any, Tensors]:
            nonlocal together
            output, assigned = self._call(parameters, buffers, x)
            found, together = trees.divided(output)
            return found, assigned

        found = self._mapped(run, per_member, x)
        return together(found)

    def losses(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        if (of_members := getattr(loss, "of_members", None)) is not None:
            size = self.population.size
            shared = pytree.tree_map(lambda t: t.expand(size, *t.shape), y)
            return of_members(self.forward(x, per_member), y if per_member else shared)  # (g,)

        def run(parameters: Tensors, buffers: Tensors, x: Any, y: Any) -> tuple[Tensor, Tensors]:
            output, assigned = self._call(parameters, buffers, x)
            return scalar(loss(output, y)), assigned

        return self._mapped(run, per_member, x, y)  # (g,)

    def accumulate(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        return backward(self.losses(loss, x, y, per_member))

    def _mapped(self, run: Any, per_member: bool, *batch: Any) -> Any:
        """What `run` returns for all members; buffers are brought up to date.

        Raises:
            Declined: torch's vmap would get the gradient wrong without a word.
        """
        stacked = self.population.stacked
        if torch.is_grad_enabled() and any(map(_has_rules, stacked.modules())):
            raise Declined("it has an Embedding with padding_idx or another rule for gradients")
        buffers = buffers_of(stacked)
        lent = lend(buffers)
        axes = (0, 0, *[0 if per_member else None for _ in batch])
        mapped, kept = (
            torch.func.vmap(run, in_dims=axes, randomness="different"),
            Attributes(stacked),
        )
        try:
            value, assigned = mapped(dict(stacked.named_parameters()), lent, *batch)
        finally:
            kept.restore()  # a forward may have left its batched tensors in attributes
        take_back(buffers, {**lent, **assigned})
        return value

    def _call(self, parameters: Tensors, buffers: Tensors, x: Any) -> tuple[Any, Tensors]:
        """Output, and those buffers to which the module assigned a new tensor."""
        given = {**parameters, **buffers}
        output = functional_call(self.population.stacked, given, *trees.arguments(x))
        return trees.entered(output), {
            n: given[n].detach() for n, b in buffers.items() if given[n] is not b
        }


def _has_rules(part: nn.Module) -> bool:
    """Whether a table of words has rules for its gradient, which are lost under vmap."""
    table = isinstance(part, nn.Embedding)
    return table and (part.padding_idx is not None or part.scale_grad_by_freq or part.sparse)
