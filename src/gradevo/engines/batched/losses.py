"""Losses of torch.nn for all members at once; any other is called for each."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from gradevo.engines.check import scalar
from gradevo.engines.criteria import FUNCTIONS, ignored, kind_of, smoothing
from gradevo.guards import fresh


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
        kind = kind_of(loss)
        if kind == "CROSS_ENTROPY" and not target.is_floating_point() and output.dim() > 2:
            return _cross_entropy(loss, output, target)
        alike = target.shape == output.shape and output.dim() > 1
        if kind not in (None, "CROSS_ENTROPY") and alike:
            return FUNCTIONS[kind](output, target, reduction="none").flatten(1).mean(dim=1)
    return _each(loss, output, y, g, per_member)


def _cross_entropy(loss: Any, output: Tensor, target: Tensor) -> Tensor:
    left_out = ignored(loss)
    rows = F.cross_entropy(
        output.flatten(0, 1), target.flatten(0, 1), reduction="none", ignore_index=left_out,
        label_smoothing=smoothing(loss),
    )  # fmt: skip
    counted = (target != left_out).flatten(1).sum(dim=1)
    return rows.view(len(output), -1).sum(dim=1) / counted


def _each(loss: Any, output: Any, y: Any, g: int, per_member: bool) -> Tensor:
    def row(tree: Any, i: int) -> Any:
        return pytree.tree_map(lambda t: t[i].contiguous() if torch.is_tensor(t) else t, tree)

    return torch.stack(
        [scalar(loss(row(output, i), row(y, i) if per_member else fresh(y))) for i in range(g)]
    )
