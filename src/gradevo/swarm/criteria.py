"""Losses row by row: what an ordinary criterion says about each row of a batch alone.

A criterion of `torch.nn`, or a function of `torch.nn.functional`, is called with
reduction="none" and without its weights. Any other loss must say by itself what each row (or each
entry) costs.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import is_
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from gradevo.losses import OneHot
from gradevo.swarm.weights import (
    CLASSWISE,
    Weigh,
    Weighed,
    fitted,
    function_of,
    inherited,
    weighing,
)

Loss = Callable[[Any, Any], Any]
SETTINGS = ("reduction", "weight", "pos_weight", "ignore_index", "label_smoothing")


@dataclass(frozen=True)
class Criterion:
    """A loss that can be asked about single rows.

    Attributes:
        each: returns `(rows,)` or `(rows, ...)` for outputs and targets of as many rows.
        reduction: "mean", "sum", "batchmean" or "none": how the criterion makes one number of a
            batch; "none" leaves it to us, who take the mean over rows.
        reduces: whether the loss itself returns one number for the batch.
        classwise: outputs are `(rows, classes, ...)`, and every further place is a row.
        weigh: what rows and entries count; None: all the same.
        contained: what `each` says contains the weights: it cannot be asked without.
        labels: the target is of labels, and `each` wants one-hot rows.
    """

    each: Loss
    reduction: str = "mean"
    reduces: bool = False
    classwise: bool = False
    weigh: Weigh | None = None
    contained: bool = False
    labels: bool = False

    @classmethod
    def of(cls, loss: Loss) -> "Criterion":
        """Take a loss apart; reads its settings as they are now."""
        if isinstance(loss, OneHot) and "reduction" in _options(loss.criterion):
            inside = partial(loss.criterion, reduction=loss.reduction)
            return replace(cls.of(cast(Loss, inside)), labels=True)
        options = _options(loss)
        if "reduction" not in options:
            return cls(loss)
        function = function_of(loss)
        parent = inherited(loss) if function is None else None
        weigh, without = weighing(parent or function, options)
        without = {} if parent else without
        return cls(
            _changed(loss, reduction="none", **without),
            options["reduction"],
            options["reduction"] != "none",
            (parent or function) in CLASSWISE,
            weigh,
            parent is not None,
        )

    def rows(self, output: Tensor, target: Any) -> tuple[Tensor, Any]:
        """Output and target with one row a swarm: pixels of a classwise loss are rows."""
        if self.labels:
            target = functional.one_hot(target, output.shape[-1]).to(output.dtype)
        if self.classwise and output.dim() > 2:
            target = self.places(target) if target.is_floating_point() else target.flatten()
        return self.places(output), target

    def places(self, output: Tensor) -> Tensor:
        """Rows of outputs, `(rows, ...)`, or `(rows * places, classes)` of a classwise loss."""
        if not self.classwise or output.dim() <= 2:
            return output
        return output.movedim(1, -1).flatten(0, -2)

    def weighed(self, rows: Tensor, target: Any, members: int) -> Weighed:
        """The target to ask about, and what the rows of all members count."""
        found = Weighed(target) if self.weigh is None else self.weigh(rows, target, members)
        return replace(found, target=target) if self.contained else found

    def refuse_misfit(self, output: Tensor) -> None:
        """Say so where weights of entries do not fit an output, if that is why a loss failed."""
        for name, weight in getattr(self.weigh, "given", {}).items():
            fitted(name, weight, output, 1)

    def share(self, rows: int, entries: int, weighed: Weighed) -> Tensor | float:
        """The factor of a row's unweighted loss in its member's.

        Args:
            rows: of a member.
            entries: numbers that the criterion returns a row, of which a row's loss is the mean.
            weighed: what the rows count.

        Returns:
            One number, or one a member, `(g,)`.
        """
        counted = entries if self.reduction in ("sum", "batchmean") else 1
        if self.reduction == "sum":
            return counted
        total = rows if weighed.count is None else weighed.count
        total = total if weighed.average is None else total * weighed.average
        return inverse(total) * counted if isinstance(total, Tensor) else counted / total


def inverse(total: Tensor) -> Tensor:
    """1 / total, or 0 where there is nothing that counts."""
    return torch.where(total == 0, 0.0, 1 / total)


def of_probabilities(loss: Loss) -> bool:
    """Whether a loss is the binary cross-entropy of probabilities, which it must be given."""
    plain = loss.func if isinstance(loss, partial) else loss
    return isinstance(plain, nn.BCELoss) or plain is functional.binary_cross_entropy


def settings_of(loss: Loss) -> list[Any]:
    """What may change in a loss: a module's attributes and buffers, to be compared by identity."""
    if not isinstance(loss, nn.Module):
        return []
    return [*vars(loss).values(), *loss._buffers.values()]


def same(settings: list[Any], others: list[Any]) -> bool:
    return len(settings) == len(others) and all(map(is_, settings, others))


def _options(loss: Loss) -> dict[str, Any]:
    """Settings of a criterion: a module's attributes, a function's defaults, a partial's words."""
    if isinstance(loss, nn.Module):
        known = isinstance(getattr(loss, "reduction", None), str)
        return {n: getattr(loss, n) for n in SETTINGS if hasattr(loss, n)} if known else {}
    try:
        parameters = inspect.signature(loss).parameters
    except (TypeError, ValueError):
        return {}
    if "reduction" not in parameters:
        return {}
    return {name: parameter.default for name, parameter in parameters.items()}


def _changed(loss: Loss, **settings: Any) -> Loss:
    """The same criterion with other settings."""
    if not isinstance(loss, nn.Module):
        return cast(Loss, partial(cast(Any, loss), **settings))
    copied = copy.copy(loss)
    vars(copied).update(settings)  # found before the buffers, which the copy shares
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
