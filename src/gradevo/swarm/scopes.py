"""What one swarm searches: a row of outputs, or one entry of them; `batch` has whole batches.

A scope turns stacked outputs `(g, B, ...)` into places `w`, `(swarms, dims)`, evaluates points
around them, and puts the swarms' directions together as the gradient of each member's loss.
"""

import re
from typing import Any, Protocol

import torch
from torch import Tensor

from gradevo.swarm.criteria import Criterion, each_tensor, inverse, repeated
from gradevo.swarm.evaluating import exact


class Scope(Protocol):
    """One search over the outputs of g members."""

    w: Tensor

    def evaluate(self, x: Tensor) -> Tensor:
        """Losses of points `(swarms, particles, dims)`, as `(swarms, particles)`."""
        ...

    def gradient(self, direction: Tensor, sized: bool) -> Tensor:
        """The members' gradients, shaped like the outputs, from the swarms' directions.

        Args:
            direction: `(swarms, dims)`.
            sized: whether its size is that of a gradient, which contains the row's weight.
        """
        ...


class Rows:
    """One swarm a row; rows are independent."""

    def __init__(self, criterion: Criterion, outputs: Tensor, targets: Any) -> None:
        self.criterion = criterion
        self.outputs = outputs
        flat = outputs.flatten(0, 1)
        target = each_tensor(lambda t: t.flatten(0, 1), targets)
        self.rows, target = criterion.rows(flat, target)  # (rows, ...)
        self.weighed = criterion.weighed(self.rows, target, len(outputs))
        self.target = self.weighed.target
        self.w = at_least_single(self.rows.reshape(len(self.rows), -1))
        self.entries = 1

    def evaluate(self, x: Tensor) -> Tensor:
        values = self.each(x)
        rows = values.flatten(1).mean(dim=1) if values.dim() > 1 else values
        return rows.view(x.shape[:2])

    def each(self, x: Tensor) -> Tensor:
        """What the criterion says about points `(rows, particles, dims)`, one after another."""
        points = x.reshape(-1, *self.rows.shape[1:]).to(self.outputs.dtype)
        target = repeated(self.target, x.shape[1])
        values = checked_rows(self._asked(points, target), points)
        self.entries = values[0].numel()
        return exact(values, x)

    def _asked(self, points: Tensor, target: Any) -> Any:
        """The criterion's answer, or a word on rows that it cannot take so often."""
        try:
            return self.criterion.each(points, target)
        except (IndexError, RuntimeError, ValueError) as error:
            if len(points) == len(self.rows) or not re.search("size|shape|broadcast", str(error)):
                raise
            raise ValueError(
                f"loss: must take any number of rows, each with its own target, got one that fails "
                f"for {len(points)} points around {len(self.rows)} rows ({error}); what belongs to "
                "a row must be in the target"
            ) from error

    def gradient(self, direction: Tensor, sized: bool) -> Tensor:
        rows = len(self.rows) // len(self.outputs)
        share = self.criterion.share(rows, self.entries, self.weighed)
        return self._in_place(direction * self._counted(share, sized and self.criterion.contained))

    def of_batch(self, direction: Tensor, sized: bool) -> Tensor:
        """The same of whole batches, whose joint swarm knows the mean of unweighted rows.

        A direction has the size of the cloud, whatever the number of rows: of the weights only
        what they are to each other, and to 1, counts.
        """
        rows = len(self.rows) // len(self.outputs)
        found = self.criterion.places(direction.flatten(0, 1)).reshape(self.w.shape)
        if sized:
            share = self.criterion.share(rows, self.entries, self.weighed) * rows
        else:
            average = self.weighed.average
            share = 1.0 if average is None else inverse(average)
        return self._in_place(found * self._counted(share))

    def _counted(self, share: Tensor | float, contained: bool = False) -> Tensor | float:
        """What directions count: a factor, or one a member, times weights not contained in them."""
        if isinstance(share, Tensor):
            rows = len(self.rows) // len(self.outputs)
            share = share if len(share) == 1 else share.repeat_interleave(rows).unsqueeze(1)
            share = share.to(self.w.dtype)
        weights = None if contained else self.weighed.weights
        return share if weights is None else weights.to(self.w.dtype) * share

    def _in_place(self, found: Tensor) -> Tensor:
        """Rows `(rows, dims)` as the outputs lie."""
        if self.rows.shape != self.outputs.shape[1:] and self.criterion.classwise:
            last = self.outputs.movedim(2, -1)  # classes of every place side by side
            return found.view(last.shape).movedim(-1, 2).to(self.outputs.dtype)
        return found.view(self.outputs.shape).to(self.outputs.dtype)


class Entries(Rows):
    """One swarm an entry, for losses that give each entry of the output a value of its own."""

    def __init__(self, criterion: Criterion, outputs: Tensor, targets: Any) -> None:
        super().__init__(criterion, outputs, targets)
        self.shape = self.w.shape
        self.w = self.w.reshape(-1, 1)

    def evaluate(self, x: Tensor) -> Tensor:
        rows, dims = self.shape
        particles = x.shape[1]
        values = self.each(x.view(rows, dims, particles).transpose(1, 2))
        if values.numel() != x.numel():
            raise ValueError(
                f"loss: must return one value an entry with scope='entry', shape ({len(values)}, "
                f"{dims}), got {tuple(values.shape)}; with scope='row' it may return one a row"
            )
        return values.view(rows, particles, dims).transpose(1, 2).reshape(x.shape[:2])

    def gradient(self, direction: Tensor, sized: bool) -> Tensor:
        rows, dims = self.shape
        return super().gradient(direction.view(rows, dims) / dims, sized)


def part(targets: Any, i: int | slice) -> Any:
    """Targets of a member, or of some."""
    return each_tensor(lambda t: t[i], targets)


def at_least_single(w: Tensor) -> Tensor:
    """Half precision is too coarse to compare points around an output."""
    return w.float() if w.dtype in (torch.float16, torch.bfloat16) else w


def checked_rows(values: Any, points: Tensor) -> Tensor:
    """What a loss said about rows, or a word on what it must say."""
    if isinstance(values, Tensor) and values.dim() > 0 and len(values) == len(points):
        return values
    got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
    raise ValueError(
        f"loss: must return one value a row, shape ({len(points)},) for outputs of shape "
        f"{tuple(points.shape)}, got {got}; a loss of the whole batch needs scope='batch'"
    )
