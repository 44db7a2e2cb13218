"""Who forms the next generation, and who makes room for it."""

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


def losing(losses: Tensor, share: float) -> Tensor:
    """The worst members, who make room for children: never the best one.

    Args:
        losses: `(g,)`; members whose loss is NaN or infinite always make room.
        share: of the members, in [0, 1]; above 0 at least one.

    Returns:
        `(n,)` indices, the worst last.

    Example:
        >>> import torch
        >>> losing(torch.tensor([0.3, float("nan"), 0.1, 0.2]), 0.5)
        tensor([0, 1])
    """
    members = len(losses)
    lost = members - int(losses.isfinite().sum())
    wanted = max(round(share * members), 1 if share > 0 else 0, lost)
    return top(losses, members)[members - min(wanted, members - 1) :]
