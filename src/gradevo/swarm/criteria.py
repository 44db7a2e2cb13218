"""Losses row by row: what an ordinary criterion says about each row of a batch alone.

A criterion of `torch.nn`, or a function of `torch.nn.functional`, is called with
reduction="none". Any other loss must say by itself what each row (or each entry) costs.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

Loss = Callable[[Any, Any], Tensor]
CLASSWISE = (nn.CrossEntropyLoss, nn.NLLLoss, functional.cross_entropy, functional.nll_loss)


@dataclass(frozen=True)
class Criterion:
    """A loss that can be asked about single rows.

    Attributes:
        each: returns `(rows,)` or `(rows, ...)` for outputs and targets of as many rows.
        reduction: "mean", "sum", "batchmean" or "none": how the criterion makes one number of a
            batch; "none" leaves it to us, who take the mean over rows.
        reduces: whether the loss itself returns one number for the batch.
        classwise: outputs are `(rows, classes, ...)`, and every further place is a row.
        weight: of the classes, where the criterion has one.
        ignore_index: the label whose rows do not count.
    """

    each: Loss
    reduction: str = "mean"
    reduces: bool = False
    classwise: bool = False
    weight: Tensor | None = None
    ignore_index: int | None = None

    @classmethod
    def of(cls, loss: Loss) -> "Criterion":
        """Take a loss apart; reads its settings as they are now."""
        options = _options(loss)
        if "reduction" not in options:
            return cls(loss)
        plain = loss.func if isinstance(loss, partial) else loss
        classwise = isinstance(plain, CLASSWISE[:2]) or plain in CLASSWISE[2:]
        return cls(
            _unreduced(loss),
            options["reduction"],
            options["reduction"] != "none",
            classwise,
            options.get("weight") if classwise else None,
            options.get("ignore_index") if classwise else None,
        )

    def rows(self, output: Tensor, target: Any) -> tuple[Tensor, Any]:
        """Output and target with one row a swarm: pixels of a classwise loss are rows."""
        if not self.classwise or output.dim() <= 2:
            return output, target
        probabilities = target.is_floating_point()
        target = target.movedim(1, -1).flatten(0, -2) if probabilities else target.flatten()
        return output.movedim(1, -1).flatten(0, -2), target

    def shares(self, rows: int, entries: int, target: Any) -> tuple[Tensor | float, Tensor | float]:
        """How the rows' losses make the batch's loss.

        Args:
            rows: how many.
            entries: numbers that the criterion returns a row, of which a row's loss is the mean.
            target: of the rows.

        Returns:
            The factor of each row's loss in the batch's, and the class weight that the row's
            loss already contains; numbers where all rows have the same.
        """
        if self.classwise and not target.is_floating_point():
            weights = self._weights(target)
            if self.reduction == "mean":
                total = weights.sum()
                return torch.where(total > 0, 1 / total, 0.0), weights  # 0: no label counts
            return 1 / rows if self.reduction == "none" else 1.0, weights
        counted = entries if self.reduction in ("sum", "batchmean") else 1
        return counted / (1 if self.reduction == "sum" else rows), 1.0

    def _weights(self, label: Tensor) -> Tensor:
        """Class weight of each row, 0 for labels that do not count."""
        weights = torch.ones_like(label, dtype=torch.float32)
        if self.weight is not None:
            weights = self.weight[label.clamp(0, len(self.weight) - 1)]  # an ignored label: any
        return torch.where(label == self.ignore_index, 0.0, weights)


def of_probabilities(loss: Loss) -> bool:
    """Whether a loss is the binary cross-entropy of probabilities, which it must be given."""
    plain = loss.func if isinstance(loss, partial) else loss
    return isinstance(plain, nn.BCELoss) or plain is functional.binary_cross_entropy


def _options(loss: Loss) -> dict[str, Any]:
    """Settings of a criterion: a module's attributes, a function's defaults, a partial's words."""
    if isinstance(loss, nn.Module):
        return {name: getattr(loss, name, None) for name in ("reduction", "weight", "ignore_index")
                if isinstance(getattr(loss, "reduction", None), str)}  # fmt: skip
    try:
        parameters = inspect.signature(loss).parameters
    except (TypeError, ValueError):
        return {}
    if "reduction" not in parameters:
        return {}
    return {name: parameter.default for name, parameter in parameters.items()}


def _unreduced(loss: Loss) -> Loss:
    if not isinstance(loss, nn.Module):
        return cast(Loss, partial(cast(Any, loss), reduction="none"))
    copied = copy.copy(loss)
    vars(copied)["reduction"] = "none"
    return copied


def repeated(target: Any, times: int) -> Any:
    """Every row of a target `times` times, one after another."""
    return each_tensor(lambda t: t.repeat_interleave(times, dim=0), target)


def each_tensor(function: Callable[[Tensor], Tensor], target: Any) -> Any:
    """A function applied to a tensor, or to all tensors of a tree."""
    if isinstance(target, Tensor):
        return function(target)
    return pytree.tree_map_only(Tensor, function, target)


def check_target(target: Any, rows: int) -> None:
    """Refuse a target of which some tensor has not a row for each row of the output.

    Raises:
        ValueError: says the shape that it has.
    """
    for leaf in [target] if isinstance(target, Tensor) else pytree.tree_leaves(target):
        if isinstance(leaf, Tensor) and (leaf.dim() == 0 or len(leaf) != rows):
            raise ValueError(
                f"target: must have a row for each of the {rows} rows of the output, got shape "
                f"{tuple(leaf.shape)}"
            )
