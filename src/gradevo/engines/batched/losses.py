"""Losses of torch.nn for all members at once; any other is called for each."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gradevo.engines.check import scalar

MEANS = {
    nn.MSELoss: F.mse_loss, nn.L1Loss: F.l1_loss, nn.BCELoss: F.binary_cross_entropy,
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
}  # fmt: skip


def of_members(loss: Any, output: Any, y: Any, g: int, per_member: bool) -> Tensor:
    """Every member's loss, `(g,)`.

    Args:
        loss: of one member's batch.
        output: `(g, ...)`, a tensor or a tree of them.
        y: targets, with a member axis or shared.
        g: how many members.
        per_member: whether `y` has a member axis.
    """
    if (stacked := getattr(loss, "of_members", None)) is not None:
        wide = y if per_member else pytree.tree_map(lambda t: t.expand(g, *t.shape), y)
        return stacked(output, wide)
    if torch.is_tensor(output) and torch.is_tensor(y):
        target = y if per_member else y.expand(g, *y.shape)
        if _is_cross_entropy(loss) and not target.is_floating_point() and output.dim() > 2:
            return _cross_entropy(loss, output, target)
        function = _mean_of(loss)
        if function is not None and target.shape == output.shape and output.dim() > 1:
            return function(output, target, reduction="none").flatten(1).mean(dim=1)
    return _each(loss, output, y, g, per_member)


def _is_cross_entropy(loss: Any) -> bool:
    plain = type(loss) is nn.CrossEntropyLoss and loss.weight is None and loss.reduction == "mean"
    return plain or loss is F.cross_entropy


def _mean_of(loss: Any) -> Callable[..., Tensor] | None:
    """The function whose mean a loss is, if it is nothing else."""
    if any(loss is function for function in MEANS.values()):
        return loss
    function = MEANS.get(type(loss))
    weighted = any(getattr(loss, n, None) is not None for n in ("weight", "pos_weight"))
    return function if function and loss.reduction == "mean" and not weighted else None


def _cross_entropy(loss: Any, output: Tensor, target: Tensor) -> Tensor:
    ignored = getattr(loss, "ignore_index", -100)
    rows = F.cross_entropy(
        output.flatten(0, 1), target.flatten(0, 1), reduction="none", ignore_index=ignored,
        label_smoothing=getattr(loss, "label_smoothing", 0.0),
    )  # fmt: skip
    counted = (target != ignored).flatten(1).sum(dim=1)
    return rows.view(len(output), -1).sum(dim=1) / counted


def _each(loss: Any, output: Any, y: Any, g: int, per_member: bool) -> Tensor:
    def row(tree: Any, i: int) -> Any:
        return pytree.tree_map(lambda t: t[i].contiguous() if torch.is_tensor(t) else t, tree)

    return torch.stack(
        [scalar(loss(row(output, i), row(y, i) if per_member else y)) for i in range(g)]
    )
