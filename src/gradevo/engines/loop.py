"""One member after another: serves every module, and is what the others are checked against."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gradevo import trees
from gradevo.engines.buffers import lend, places_of, take_back, write_back
from gradevo.engines.byname import bridge, reached_by_name
from gradevo.engines.check import rows_of, scalar
from gradevo.engines.modes import Modes
from gradevo.engines.threads import in_order
from gradevo.randomness import own
from gradevo.structure import Tensors, buffers_of

if TYPE_CHECKING:
    from gradevo.population import Loss, Population


class Loop:
    """Each member is an ordinary module whose tensors are views into the population."""

    name = "loop"

    def __init__(self, population: "Population", members: Sequence[nn.Module] = ()) -> None:
        self.population = population
        self.members = list(members) or population.live
        self.modes = Modes(population.stacked, self.members)
        self.places = [places_of(member) for member in self.members]
        self.linked: Tensor | None = None
        self.by_name: dict[tuple[bool, ...], bool] = {}
        self.bridged = False

    def forward(self, x: Any, per_member: bool) -> Any:
        return trees.stack(list(self._outputs(x, per_member)))

    def losses(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        targets = rows_of("y", y, self.population.size, per_member)
        outputs = self._outputs(x, per_member)
        rows = [scalar(loss(output, y)) for output, y in zip(outputs, targets, strict=True)]
        return torch.stack(rows)  # (g,)

    def accumulate(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        """Backward for each member alone, so that one member's activations live at a time."""
        return torch.cat(in_order(self.jobs(loss, x, y, per_member)))  # (g,)

    def jobs(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> list[Callable[[], Tensor]]:
        """Every member's part of `accumulate`; they do not touch each other."""
        size = self.population.size
        xs, ys = rows_of("x", x, size, per_member), rows_of("y", y, size, per_member)
        self._link()
        self.modes.follow()
        return [
            lambda i=i: self.member_step(i, loss, xs[i], ys[i]).unsqueeze(0) for i in range(size)
        ]

    def member_step(self, i: int, loss: "Loss", x: Any, y: Any) -> Tensor:
        """Forward and backward of one member on its batch; adds to its share of the gradient."""
        self._link()
        self.modes.follow()
        own(i)
        try:
            value = scalar(loss(trees.call(self.members[i], x), y))
            value.backward()
        finally:
            write_back(self.places[i])
        return value.detach()

    # --- forward -----------------------------------------------------------------------

    def _outputs(self, x: Any, per_member: bool) -> Iterator[Any]:
        """The members' outputs, one after another."""
        self.modes.follow()
        batches = rows_of("x", x, self.population.size, per_member)
        if not torch.is_grad_enabled():
            return self._plain(batches)
        modes = tuple(self.modes.told)
        if modes not in self.by_name:
            self.by_name[modes] = reached_by_name(self.population, batches)
        return self._graphs(batches) if self.by_name[modes] else self._direct(batches)

    def _plain(self, batches: list[Any]) -> Iterator[Any]:
        for member, places, x in zip(self.members, self.places, batches, strict=True):
            output = trees.call(member, x)
            write_back(places)
            yield output

    def _graphs(self, batches: list[Any]) -> Iterator[Any]:
        """Through slices of the stacked leaves, so that gradients reach them."""
        size, stacked = self.population.size, self.population.stacked
        parameters = _rows(self.population.leaves, size)
        buffers = _rows(buffers_of(stacked), size)
        for i, (member, x) in enumerate(zip(self.members, batches, strict=True)):
            given = {**parameters[i], **lend(buffers[i])}
            output = functional_call(member, given, *trees.arguments(x))
            take_back(buffers[i], given)
            yield trees.entered(output)

    def _direct(self, batches: list[Any]) -> Iterator[Any]:
        """Through the members' own tensors, whose gradients are handed to the leaves."""
        if not self.bridged:
            for name, leaf in self.population.leaves.items():
                for i, member in enumerate(self.members):
                    bridge(member.get_parameter(name), leaf, i)
            self.bridged = True
        self.linked = None
        for member, places, x in zip(self.members, self.places, batches, strict=True):
            member.zero_grad()
            output = trees.call(member, x)
            write_back(places)
            yield output

    # --- the members' tensors ----------------------------------------------------------

    def _link(self) -> None:
        """Let every member's gradients be views of the leaves' gradients."""
        first = next(iter(self.population.leaves.values())).grad
        if first is None or first is not self.linked:
            for name, gradient in self.population.gradients().items():
                for member, row in zip(self.members, gradient, strict=True):
                    member.get_parameter(name).grad = row
            self.linked = first


def _rows(stacked: Mapping[str, Tensor], size: int) -> list[Tensors]:
    """One dict of tensors a member from one of stacked tensors."""
    columns = {name: tensor.unbind(0) for name, tensor in stacked.items()}
    return [{name: column[i] for name, column in columns.items()} for i in range(size)]
