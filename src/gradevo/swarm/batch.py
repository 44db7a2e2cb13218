"""One swarm for all outputs of a batch: losses that see every row and return one number."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradevo.swarm.criteria import Criterion, Loss
from gradevo.swarm.evaluating import exact
from gradevo.swarm.scopes import Rows, at_least_single, part
from gradevo.swarm.untouched import Untouched

log = logging.getLogger(__name__)


class BatchLoss:
    """A loss of a whole batch, evaluated for many points: at once where `vmap` can, else in turn.

    Args:
        loss: returns one number, in a tensor or plain, or one a row, of which the mean counts.
        calls: that must leave output and target as they are.
        mapped: whether `vmap` can; None: known after the first time.
    """

    def __init__(self, loss: Loss, calls: Untouched, mapped: bool | None = None) -> None:
        self.loss, self.calls = loss, calls
        self.mapped = mapped
        self.criterion = Criterion.of(loss)

    def value(self, output: Tensor, target: Any) -> Tensor:
        """The loss of one batch, a scalar."""
        return self.number(self.calls.first(self.loss, output, target), output)

    def number(self, value: Any, output: Tensor) -> Tensor:
        """What the loss said about an output, as a scalar."""
        if not isinstance(value, Tensor):
            value = number_of(value, output)
        if value.numel() != 1 and (value.dim() == 0 or len(value) != len(output)):
            raise ValueError(
                "loss: must return one number for the batch with scope='batch', or one a row, "
                f"of which the mean counts, got shape {tuple(value.shape)} for {len(output)} rows"
            )
        return (value if value.is_floating_point() else value.float()).mean()

    def of_points(self, points: Tensor, target: Any, loss: Loss) -> Tensor:
        """Losses of points `(n, rows, ...)`, as `(n,)`; `loss` is ours, or of its rows."""

        def alone(point: Tensor) -> Tensor:
            return self.number(self.calls(loss, point, target), point)

        def at_once(points: Tensor, target: Any) -> Tensor:
            each = torch.func.vmap(
                lambda p: self.number(loss(p, target), p), randomness="different"
            )
            return each(points)

        if self.mapped is None:
            self.mapped = self._try(points[:2], alone, lambda p: at_once(p, target))
        if self.mapped:
            return self.calls(at_once, points, target)
        return torch.stack([alone(point) for point in points])

    def _try(
        self, points: Tensor, alone: Callable[[Tensor], Tensor], at_once: Callable[[Tensor], Tensor]
    ) -> bool | None:
        """Whether vmap gives the loss's own numbers; None where these tell nothing."""
        truth = torch.stack([alone(point) for point in points])
        if not bool(truth.isfinite().any()):
            return None
        try:
            same = torch.allclose(at_once(points), truth, 1e-4, equal_nan=True)
            reason = "vmap gives other numbers"
        except Exception as error:  # whatever a transform raises on what it cannot handle
            same, reason = False, type(error).__name__
        if not same:
            log.info("swarm: the batch loss is evaluated point by point: %s", reason)
        return same


def number_of(value: Any, output: Tensor) -> Tensor:
    """A plain number, or NumPy's, as a tensor."""
    try:
        return torch.as_tensor(value, device=output.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            "loss: must return one number for the batch with scope='batch', got "
            f"{type(value).__name__}"
        ) from error


class Batches:
    """One swarm a member.

    A criterion of torch is asked without its weights, and directions are multiplied by them, as
    for rows.
    """

    def __init__(self, loss: BatchLoss, outputs: Tensor, targets: Any) -> None:
        self.loss, self.outputs, self.targets = loss, outputs, targets
        self.w = at_least_single(outputs.flatten(1))
        criterion = loss.criterion
        weighs = criterion.weigh is not None and not criterion.contained
        self.rows = Rows(criterion, outputs, targets) if weighs else None

    def evaluate(self, x: Tensor) -> Tensor:
        points = x.to(self.outputs.dtype).view(*x.shape[:2], *self.outputs.shape[1:])
        values = [self._member(p, i) for i, p in enumerate(points)]
        return exact(torch.stack(values), x)

    def _member(self, points: Tensor, i: int) -> Tensor:
        """Losses of points `(particles, rows, ...)` of a member."""
        target = part(self.targets, i)
        if self.rows is None:
            return self.loss.of_points(points, target, self.loss.loss)
        own, criterion = self.rows, self.rows.criterion
        rows = len(own.rows) // len(self.outputs)
        weighed = part(own.target, slice(i * rows, (i + 1) * rows))

        def unweighted(point: Tensor, target: Any) -> Tensor:
            values = criterion.each(criterion.places(point), weighed)
            own.entries = values[0].numel()
            return values.mean()

        return self.loss.of_points(points, target, unweighted)

    def gradient(self, direction: Tensor, sized: bool) -> Tensor:
        found = direction.view(self.outputs.shape)
        if self.rows is None:
            return found.to(self.outputs.dtype)
        return self.rows.of_batch(found, sized).to(self.outputs.dtype)
