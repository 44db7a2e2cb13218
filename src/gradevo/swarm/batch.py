"""One swarm for all outputs of a batch: losses that see every row and return one number."""

import logging
from typing import Any

import torch
from torch import Tensor

from gradevo.swarm.criteria import Loss
from gradevo.swarm.scopes import at_least_single, part

log = logging.getLogger(__name__)


class BatchLoss:
    """A loss of a whole batch, evaluated for many points: at once where `vmap` can, else in turn.

    Args:
        loss: returns one number, in a tensor or plain, or one a row, of which the mean counts.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.mapped: bool | None = None  # known after the first time

    def __call__(self, output: Tensor, target: Any) -> Tensor:
        """The loss of one batch, a scalar."""
        value = self.loss(output, target)
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value, device=output.device)
        if value.numel() != 1 and len(value) != len(output):
            raise ValueError(
                "loss: must return one number for the batch with scope='batch', or one a row, "
                f"of which the mean counts, got shape {tuple(value.shape)} for {len(output)} rows"
            )
        return (value if value.is_floating_point() else value.float()).mean()

    def of_points(self, points: Tensor, target: Any) -> Tensor:
        """Losses of points `(n, rows, ...)`, as `(n,)`."""
        if self.mapped is None:
            self.mapped = self._try(points[:2], target)
        if self.mapped:
            return self._at_once(points, target)
        return torch.stack([self(point, target) for point in points])

    def _at_once(self, points: Tensor, target: Any) -> Tensor:
        return torch.func.vmap(lambda point: self(point, target), randomness="different")(points)

    def _try(self, points: Tensor, target: Any) -> bool:
        """Whether vmap gives the loss's own numbers."""
        alone = torch.stack([self(point, target) for point in points])
        try:
            same = torch.allclose(self._at_once(points, target), alone, 1e-4, equal_nan=True)
            reason = "vmap gives other numbers"
        except Exception as error:  # whatever a transform raises on what it cannot handle
            same, reason = False, type(error).__name__
        if not same:
            log.info("swarm: the batch loss is evaluated point by point: %s", reason)
        return same


class Batches:
    """One swarm a member."""

    def __init__(self, loss: BatchLoss, outputs: Tensor, targets: Any) -> None:
        self.loss, self.outputs, self.targets = loss, outputs, targets
        self.w = at_least_single(outputs.flatten(1))

    def evaluate(self, x: Tensor) -> Tensor:
        points = x.to(self.outputs.dtype).view(*x.shape[:2], *self.outputs.shape[1:])
        values = [self.loss.of_points(p, part(self.targets, i)) for i, p in enumerate(points)]
        return torch.stack(values).to(x.dtype)

    def gradient(self, direction: Tensor, sized: bool) -> Tensor:
        return direction.view(self.outputs.shape).to(self.outputs.dtype)
