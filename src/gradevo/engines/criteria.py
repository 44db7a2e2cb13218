"""Losses of torch that engines have forms of their own for, told apart in one place."""

from typing import Any

from torch import nn
from torch.nn import functional

MODULES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "CROSS_ENTROPY", nn.MSELoss: "MSE", nn.L1Loss: "MAE",
    nn.BCEWithLogitsLoss: "BCE_LOGITS", nn.BCELoss: "BCE",
}  # fmt: skip
FUNCTIONS: dict[str, Any] = {
    "CROSS_ENTROPY": functional.cross_entropy, "MSE": functional.mse_loss,
    "MAE": functional.l1_loss, "BCE": functional.binary_cross_entropy,
    "BCE_LOGITS": functional.binary_cross_entropy_with_logits,
}  # fmt: skip


def kind_of(loss: Any) -> str | None:
    """The name of a loss that is a plain mean without weights; None: it is something else.

    Cross-entropy may smooth labels or ignore one: `smoothing` and `ignored` say so.

    Example:
        >>> kind_of(nn.L1Loss()), kind_of(functional.mse_loss), kind_of(nn.MSELoss(reduction="sum"))
        ('MAE', 'MSE', None)
    """
    if not isinstance(loss, nn.Module):
        return next((name for name, function in FUNCTIONS.items() if loss is function), None)
    weighted = any(getattr(loss, name, None) is not None for name in ("weight", "pos_weight"))
    if weighted or getattr(loss, "reduction", None) != "mean":
        return None
    return MODULES.get(type(loss))


def smoothing(loss: Any) -> float:
    """Of labels, in cross-entropy."""
    return getattr(loss, "label_smoothing", 0.0)


def ignored(loss: Any) -> int:
    """The label whose rows do not count, in cross-entropy."""
    return getattr(loss, "ignore_index", -100)
