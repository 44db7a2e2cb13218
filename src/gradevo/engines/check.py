"""What every engine asks of a loss."""

from typing import Any

from torch import Tensor


def scalar(value: Any) -> Tensor:
    """The loss itself, or a word on what it must be.

    Raises:
        ValueError: it is not a tensor with no axes.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"loss: must return a scalar tensor, got {type(value).__name__}")
    if value.dim() != 0:
        raise ValueError(
            f"loss: must return a scalar for one member's batch, got shape {tuple(value.shape)}; "
            "reduce it, with .mean() for example"
        )
    return value
