"""One member after another: serves every module, and is what the others are checked against."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from gradevo.engines.check import scalar
from gradevo.structure import copy_modes

if TYPE_CHECKING:
    from gradevo.population import Loss, Population

Reassignable = tuple[nn.Module, str, Tensor]


class Loop:
    """Each member is an ordinary module whose tensors are views into the population."""

    name = "loop"

    def __init__(self, population: "Population") -> None:
        self.population = population
        self.members = [population.view(i) for i in range(population.size)]
        self.buffers = [_buffers(member) for member in self.members]
        self.linked: Tensor | None = None

    def forward(self, x: Any, per_member: bool) -> Any:
        outputs = [
            self._call(i, _member_batch(x, i, per_member), slices)
            for i, slices in enumerate(self._slices())
        ]
        return pytree.tree_map(lambda *rows: torch.stack(rows), *outputs)

    def losses(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        rows = []
        for i, slices in enumerate(self._slices()):
            output = self._call(i, _member_batch(x, i, per_member), slices)
            rows.append(scalar(loss(output, _member_batch(y, i, per_member))))
        return torch.stack(rows)  # (g,)

    def accumulate(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        """Backward for each member alone, so that one member's activations live at a time."""
        rows = [
            self.member_step(
                i, loss, _member_batch(x, i, per_member), _member_batch(y, i, per_member)
            )
            for i in range(len(self.members))
        ]
        return torch.stack(rows)  # (g,)

    def member_step(self, i: int, loss: "Loss", x: Any, y: Any) -> Tensor:
        """Forward and backward of one member on its batch; adds to its share of the gradient."""
        self._link()
        value = scalar(loss(self._call(i, x), y))
        value.backward()
        return value.detach()

    def _slices(self) -> list[dict[str, Tensor]]:
        """Each member's slices of the stacked leaves, through which gradients reach them."""
        names = list(self.population.leaves)
        slices = [leaf.unbind(0) for leaf in self.population.leaves.values()]
        return [dict(zip(names, row, strict=True)) for row in zip(*slices, strict=True)]

    def _call(self, i: int, x: Any, parameters: dict[str, Tensor] | None = None) -> Any:
        member = self.members[i]
        if member.training != self.population.stacked.training:
            copy_modes(self.population.stacked, member)
        output = member(x) if parameters is None else functional_call(member, parameters, (x,))
        for owner, name, view in self.buffers[i]:
            _write_back(owner, name, view)
        return output

    def _link(self) -> None:
        """Let every member's gradients be views of the leaves' gradients."""
        first = next(iter(self.population.leaves.values())).grad
        if self.linked is not None and first is self.linked:
            return
        for name, leaf in self.population.leaves.items():
            if leaf.grad is None:
                raise RuntimeError("accumulate: call population.gradient() once before")
            for member, gradient in zip(self.members, leaf.grad, strict=True):
                member.get_parameter(name).grad = gradient
        self.linked = first


def _member_batch(batch: Any, i: int, per_member: bool) -> Any:
    return pytree.tree_map(lambda t: t[i], batch) if per_member else batch


def _buffers(member: nn.Module) -> list[Reassignable]:
    return [
        (owner, name, buffer)
        for owner in member.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]


@torch.no_grad()
def _write_back(owner: nn.Module, name: str, view: Tensor) -> None:
    """A module may assign a new tensor to its buffer: the population's is what counts."""
    current = owner._buffers[name]
    if current is not None and current is not view:
        view.copy_(current.detach())
        owner._buffers[name] = view
