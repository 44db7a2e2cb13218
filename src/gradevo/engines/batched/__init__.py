"""Layer by layer in batched kernels: a member's forward is traced and run for many at once."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gradevo.engines.batched import chance, losses
from gradevo.engines.batched.bank import Bank, rows_by_owner
from gradevo.engines.batched.graph import Run, named_inputs, trace
from gradevo.engines.batched.values import of_batch
from gradevo.engines.check import backward, rows_of
from gradevo.engines.threads import in_order
from gradevo.randomness import narrowed, own

if TYPE_CHECKING:
    from gradevo.population import Loss, Population

Span = tuple[int, int]


class Batched:
    """Linear layers as one batched product, convolutions as one with groups, channels last.

    Where a layer has no batched form, each member's own is called. `accumulate` works in chunks
    of members, as activations of many do not fit the processor's cache.
    """

    name: str

    def __init__(self, population: "Population", chunk: int | None = None) -> None:
        self.population = population
        self.chunk = chunk or population.size
        self.name = f"batched/{chunk}" if chunk else "batched"
        self.runs: dict[Any, Run] = {}
        self.banks: dict[Span, Bank] = {}
        self.linked: Tensor | None = None

    def forward(self, x: Any, per_member: bool) -> Any:
        return self._outputs(Bank(self.population.size), x, per_member)

    def losses(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        self._check("y", y, per_member)
        output = self.forward(x, per_member)
        return losses.of_members(loss, output, y, self.population.size, per_member)

    def accumulate(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        return torch.cat(in_order(self.jobs(loss, x, y, per_member)))  # (g,)

    def jobs(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> list[Callable[[], Tensor]]:
        """Every chunk's part of `accumulate`; they do not touch each other."""
        self._check("x", x, per_member)
        self._check("y", y, per_member)
        run, chunks = self.traced(x), list(self._chunks())  # traced before threads share it
        cpu = self.population.device.type == "cpu"
        own = cpu and chance.drops(run.nodes, self.population.stacked)
        jobs = []
        for span, bank in chunks:
            bank.generators = chance.generators(bank.g, span[0]) if own else []
            mine = _rows((x, y), span) if per_member else (x, y)
            jobs.append(partial(self._step, bank, span, loss, mine[0], mine[1], per_member))
        return jobs

    def _step(
        self, bank: Bank, span: Span, loss: "Loss", x: Any, y: Any, per_member: bool
    ) -> Tensor:
        """Forward and backward of some members."""
        with narrowed(span[0], bank.g):
            own(0)
            output = self._outputs(bank, x, per_member)
            values = losses.of_members(loss, output, y, bank.g, per_member)
        bank.adding = True
        try:
            return backward(values)
        finally:
            bank.adding = False

    def _outputs(self, bank: Bank, x: Any, per_member: bool) -> Any:
        self._check("x", x, per_member, bank.g)
        named = named_inputs(self.population.stacked, x)
        given = x if named is None else named
        values = pytree.tree_map(lambda leaf: of_batch(leaf, per_member), given)
        return self.traced(x)(bank, values)

    def traced(self, x: Any) -> Run:
        """The graph for such inputs in the modes that the population's parts are in."""
        stacked = self.population.stacked
        named = named_inputs(stacked, x)
        inputs = None if named is None else tuple(named)
        key = inputs, tuple(part.training for part in stacked.modules())
        if key not in self.runs:
            member = self.population.member(0)
            self.runs[key] = Run(trace(member, inputs), stacked, member)
        return self.runs[key]

    def _check(self, name: str, batch: Any, per_member: bool, g: int | None = None) -> None:
        if per_member:
            rows_of(name, batch, g or self.population.size, per_member)

    # --- chunks ------------------------------------------------------------------------

    def _chunks(self) -> Iterator[tuple[Span, Bank]]:
        """Members' tensors, some at a time, whose gradients are views of the leaves'."""
        self._link()
        size = self.population.size
        for first in range(0, size, self.chunk):
            span = (first, min(first + self.chunk, size))
            yield span, self.banks[span]

    def _link(self) -> None:
        first = next(iter(self.population.leaves.values())).grad
        if first is not None and first is self.linked:
            return
        size, stacked = self.population.size, self.population.stacked
        for start in range(0, size, self.chunk):
            span = (start, min(start + self.chunk, size))
            rows = rows_by_owner(stacked, partial(_slice, span=span))
            self.banks[span] = Bank(span[1] - span[0], rows)
        self.linked = first


def _slice(tensor: Tensor, span: Span) -> Tensor:
    """Some members' rows: a leaf of its own, whose gradient is a view of the whole one's."""
    rows = tensor.detach()[slice(*span)]
    if tensor.requires_grad and tensor.grad is not None:
        rows.requires_grad_()
        rows.grad = tensor.grad[slice(*span)]
    return rows


def _rows(tree: Any, span: Span) -> Any:
    return pytree.tree_map(lambda t: t[slice(*span)] if torch.is_tensor(t) else t, tree)
