"""Outputs against targets: what would be spread over all pairs of rows without a word."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from gradevo import trees
from gradevo.criteria import ENTRYWISE, LABELS, of_torch, one_of_kinds, sees_prediction, unwrapped
from gradevo.swarm.loss import SwarmLoss


def check_shapes(name: str, loss: Any, output: Any, y: Any) -> None:
    """Refuse targets that a loss would compare with the wrong outputs.

    Torch's own losses want the outputs' shape, or labels. Any other one may want what it likes, but
    `(n,)` beside `(n, 1)` must not become `(n, n)` where the outputs' shape would not.

    Args:
        name: of the data.
        loss: of them.
        output: of a module for some rows, more than one.
        y: their targets.

    Raises:
        ValueError: says which shapes there are, and what to do.
    """
    if not isinstance(y, Tensor) or not sees_prediction(loss, output):
        return
    prediction = trees.prediction(output)
    if of_torch(loss) and one_of_kinds(loss, LABELS):
        _check_labels(name, loss, prediction, y)
    elif of_torch(loss) and one_of_kinds(loss, ENTRYWISE):
        if y.shape != prediction.shape:
            raise ValueError(_rule(name, loss, prediction, y))
    elif y.numel() == prediction.numel() and y.shape != prediction.shape and len(y) > 1:
        inner = loss.loss if isinstance(loss, SwarmLoss) else loss
        pairs = [_pairs(inner, output, target) for target in (y, y.reshape(prediction.shape))]
        if pairs == [True, False]:
            raise ValueError(_rule(name, loss, prediction, y))


def _check_labels(name: str, loss: Any, prediction: Tensor, y: Tensor) -> None:
    if prediction.dim() < 2:
        raise ValueError(
            f"build: modules must return an output a class, (n, C), under {_called(loss)}, got "
            f"{shown(prediction.shape)}"
        )
    labels = (*prediction.shape[:1], *prediction.shape[2:])
    if y.shape in (labels, prediction.shape):
        return
    raise ValueError(
        f"{name}: y must be labels of shape {shown(labels)} or probabilities of shape "
        f"{shown(prediction.shape)} under {_called(loss)}, got {shown(y.shape)}"
        f"{_remedy(y.shape, labels)}"
    )


def _rule(name: str, loss: Any, prediction: Tensor, y: Tensor) -> str:
    return (
        f"{name}: y must have the shape of the outputs under {_called(loss)}, "
        f"{shown(prediction.shape)}, got {shown(y.shape)}{_remedy(y.shape, prediction.shape)}"
    )


def _remedy(given: Sequence[int], wanted: Sequence[int]) -> str:
    """How to come from one shape to another, where that is one word."""
    given, wanted = tuple(given), tuple(wanted)
    if (*given, 1) == wanted:
        return "; use y[..., None]"
    if given == (*wanted, 1):
        return "; use y[..., 0]"
    rest = wanted[1:]
    same = np.prod(given[1:], dtype=int) == np.prod(rest, dtype=int)
    return f"; use y.reshape{('len(y)', *rest)!r}".replace("'", "") if same else ""


def shown(shape: Sequence[int]) -> str:
    """A shape whose first axis is the rows.

    Example:
        >>> shown((8, 3)), shown((8,))
        ('(n, 3)', '(n,)')
    """
    rest = ", ".join(map(str, shape[1:]))
    return f"(n, {rest})" if rest else "(n,)"


def _called(loss: Any) -> str:
    plain = unwrapped(loss)
    return getattr(plain, "__name__", None) or type(plain).__name__


# --- pairs of rows -------------------------------------------------------------------------


def _pairs(loss: Any, output: Any, y: Tensor) -> bool | None:
    """Whether a loss computes something for every pair of rows; None: it does not take these."""
    spy = _Spy(len(y))
    try:
        with torch.no_grad(), spy:
            value = loss(output, y.clone())
    except Exception:  # whatever a loss raises on what it cannot handle
        return None
    return spy.found or _square(value, len(y))


class _Spy(TorchDispatchMode):
    """Sees whether anything has two axes of a length."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.found = rows, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.found = self.found or any(_square(t, self.rows) for t in pytree.tree_leaves(result))
        return result


def _square(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor | np.ndarray) and tuple(value.shape).count(rows) > 1
