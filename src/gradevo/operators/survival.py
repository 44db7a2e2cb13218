"""Who forms the next generation."""

from torch import Tensor

from gradevo.operators.selection import finite_or_worst


def top(losses: Tensor, survivors: int) -> Tensor:
    """The best of the union of parents and children, best first.

    Args:
        losses: `(n,)`, parents before children; NaN and infinite ones rank last, and of two
            equal ones the earlier survives.
        survivors: how many.

    Returns:
        `(survivors,)` indices.

    Example:
        >>> import torch
        >>> top(torch.tensor([0.3, float("nan"), 0.1, 0.2]), 2)
        tensor([2, 3])
    """
    return finite_or_worst(losses).argsort(stable=True)[:survivors]
