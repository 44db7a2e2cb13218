"""Weights inside torch's criteria, taken out: what every entry, or row, of a loss counts.

A swarm's direction has the size of its cloud, whatever the loss is multiplied by. So a criterion
is asked without its weights, of a target that has the same minimum, and directions are multiplied:

    weight            l is w times the unweighted loss: of an entry, or of a row by its class
    pos_weight p      1 + (p - 1) t times the loss of the target p t / (1 + (p - 1) t)
    class weights     of targets t that are probabilities, or smoothed: sum(w t) times the loss of
                      the target w t / sum(w t)
    var               of the Gaussian likelihood: 1 / var times half the squared error, and a
                      number that no output changes
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MODULES: dict[type[nn.Module], Any] = {
    nn.BCELoss: F.binary_cross_entropy,
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
    nn.CrossEntropyLoss: F.cross_entropy,
    nn.MultiLabelSoftMarginLoss: F.multilabel_soft_margin_loss,
    nn.MultiMarginLoss: F.multi_margin_loss,
    nn.NLLLoss: F.nll_loss,
}
CLASSWISE = (F.cross_entropy, F.nll_loss)
BY_SUM = (F.mse_loss, F.l1_loss)  # the mean under weights is over their sum
OF_ENTRIES = (*BY_SUM, F.binary_cross_entropy, F.huber_loss, F.multilabel_soft_margin_loss)


@dataclass(frozen=True)
class Weighed:
    """Rows for a criterion without weights, and what they count.

    Attributes:
        target: as the criterion without weights takes it.
        weights: broadcasts to `(rows, entries)`; None: all count the same.
        count: rows that count, of each member, `(g,)`; None: all.
        average: weight, of those that count, by which a mean is divided, `(g,)`; None: by none.
    """

    target: Any
    weights: Tensor | None = None
    count: Tensor | None = None
    average: Tensor | None = None


Weigh = Callable[[Tensor, Any, int], Weighed]  # of rows, their targets, the number of members


def function_of(loss: Any) -> Any:
    """The function of `torch.nn.functional` that a criterion calls, or what it is by itself."""
    if isinstance(loss, nn.Module):
        return next((f for m, f in MODULES.items() if type(loss).forward is m.forward), None)
    return loss.func if isinstance(loss, partial) else loss


def inherited(loss: Any) -> Any:
    """That of the criterion from which one with a forward of its own is derived, or None."""
    return next((f for module, f in MODULES.items() if isinstance(loss, module)), None)


def weighing(function: Any, options: dict[str, Any]) -> tuple[Weigh | None, dict[str, Any]]:
    """How a criterion of torch weighs, and the settings that take its weights out of it.

    Args:
        function: that the criterion calls.
        options: its settings.
    """
    weight, pos_weight = options.get("weight"), options.get("pos_weight")
    if function in CLASSWISE:
        smoothed = weight is not None and options.get("label_smoothing", 0.0) > 0
        without = {} if weight is None else {"weight": None}
        return Classes(options).labels, without | ({"label_smoothing": 0.0} if smoothed else {})
    if function is F.gaussian_nll_loss:
        return Variance(options["var"], options["eps"]), {"var": 1.0, "full": False}
    if weight is None and pos_weight is None:
        return None, {}
    if function is F.multi_margin_loss:
        return Classes(options).margins, {"weight": None}
    if function is F.binary_cross_entropy_with_logits:
        return Entries(weight, pos_weight), {"weight": None, "pos_weight": None}
    if function in OF_ENTRIES:
        averaged = function in BY_SUM and options["reduction"] == "mean"
        return Entries(weight, averaged=averaged), {"weight": None}
    return None, {}


class Entries:
    """Weights of entries, of any shape that broadcasts to a member's outputs."""

    def __init__(
        self, weight: Tensor | None, positive: Tensor | None = None, averaged: bool = False
    ) -> None:
        self.weight, self.positive, self.averaged = weight, positive, averaged
        both = {"weight": weight, "pos_weight": positive}
        self.given = {name: t for name, t in both.items() if t is not None}

    def __call__(self, rows: Tensor, target: Any, members: int) -> Weighed:
        weights, average = None, None
        if self.weight is not None:
            weights = fitted("weight", self.weight, rows, members)
            if self.averaged:
                average = weights.expand(len(rows), -1).reshape(members, -1).mean(dim=1)
        if self.positive is None:
            return Weighed(target, weights, None, average)
        p = fitted("pos_weight", self.positive, rows, members)
        flat = target.reshape(len(rows), -1)
        size = 1 + (p - 1) * flat
        changed = torch.where(size == 0, flat, p * flat / size).view(target.shape)
        return Weighed(changed.to(target.dtype), size if weights is None else size * weights)


class Variance:
    """The Gaussian likelihood's variances: a number, or a shape that `torch` takes for it."""

    def __init__(self, var: Any, eps: float) -> None:
        self.var, self.eps = var, eps

    def __call__(self, rows: Tensor, target: Any, members: int) -> Weighed:
        var = torch.as_tensor(self.var, dtype=rows.dtype, device=rows.device)
        if var.dim() == rows.dim() - 1 and var.dim() and len(var) == len(rows) // members:
            var = var.unsqueeze(-1)
        return Weighed(target, 1 / fitted("var", var, rows, members).clamp(min=self.eps))


class Classes:
    """Weights of classes, labels that do not count, and smoothing."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.weight: Tensor | None = options.get("weight")
        self.ignored: int | None = options.get("ignore_index")
        self.smoothing: float = options.get("label_smoothing", 0.0)
        self.reduction: str = options["reduction"]

    def margins(self, rows: Tensor, target: Tensor, members: int) -> Weighed:
        """Of a loss whose mean is over rows, whatever they weigh."""
        return Weighed(target, self._of(target)[:, None])

    def labels(self, rows: Tensor, target: Tensor, members: int) -> Weighed:
        """Of cross-entropy and its like; a target that is floating point is of probabilities."""
        if target.is_floating_point():
            return self._probabilities(target)
        counts = target != self.ignored
        count = counts.view(members, -1).sum(dim=1) if self.reduction == "mean" else None
        if self.weight is None:
            return Weighed(target, counts[:, None], count)
        weights = torch.where(counts, self._of(target), 0.0)
        average = None
        if count is not None:
            average = weights.view(members, -1).sum(dim=1) / count.clamp(min=1)
        if not self.smoothing:
            return Weighed(target, weights[:, None], count, average)
        clear = F.one_hot(target.clamp(0, len(self.weight) - 1), len(self.weight))
        soft, size = self._smoothed(clear.to(self.weight.dtype), self.weight)
        return Weighed(soft * counts[:, None], size * counts[:, None], count, average)

    def _probabilities(self, target: Tensor) -> Weighed:
        if self.weight is None:
            return Weighed(target)
        return Weighed(*self._smoothed(target, self.weight))

    def _smoothed(self, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities under weights, and what their rows count, `(rows, 1)`."""
        smoothed = (1 - self.smoothing) * target + self.smoothing / target.shape[1]
        weighted = smoothed * weight
        size = weighted.sum(dim=1, keepdim=True)
        return torch.where(size == 0, target, weighted / size), size

    def _of(self, label: Tensor) -> Tensor:
        """Each row's class weight; any for a label that does not count."""
        assert self.weight is not None
        return self.weight[label.clamp(0, len(self.weight) - 1)]


def fitted(name: str, weight: Tensor, rows: Tensor, members: int) -> Tensor:
    """A weight as `(rows or 1, entries)` of the outputs of all members.

    Raises:
        ValueError: it does not broadcast to a member's outputs.
    """
    shape = (len(rows) // members, *rows.shape[1:])
    try:
        whole = weight.detach().expand(shape)
    except RuntimeError as error:
        raise ValueError(
            f"loss: its {name} must fit outputs of shape {shape}, got shape {tuple(weight.shape)}"
        ) from error
    if weight.dim() < len(shape) or len(weight) == 1:
        return whole[:1].reshape(1, -1)  # the same for all rows
    return whole.reshape(shape[0], -1).repeat(members, 1)
