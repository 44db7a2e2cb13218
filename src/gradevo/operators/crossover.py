"""How two parents make a child: pure functions of one stacked tensor of each."""

import torch
from torch import Generator, Tensor

from gradevo.operators.coins import pick
from gradevo.operators.selection import normalise


def share_of_first(losses: Tensor, parents: Tensor) -> Tensor:
    """Share of a child that comes from the first parent (eq. 10).

    p_ij = exp(-L^_i) / (exp(-L^_i) + exp(-L^_j)), from min-max normalised losses.

    Args:
        losses: `(g,)`.
        parents: `(n, 2)` indices of members.

    Returns:
        `(n,)` in (0, 1).
    """
    scaled = normalise(losses)[parents]  # (n, 2)
    return torch.softmax(-scaled, dim=1)[:, 0]


def uniform(first: Tensor, second: Tensor, share: Tensor, generator: Generator) -> Tensor:
    """Each entry from the first parent with probability `share`, else from the second (eq. 9).

    Args:
        first: `(n, ...)`. second: `(n, ...)`.
        share: `(n,)`.
        generator: CPU generator.

    Returns:
        `(n, ...)`, a new tensor.

    Source: GADAM, equations 9 and 10.
    """
    return pick(first, second, share, generator)


def layerwise(first: Tensor, second: Tensor, share: Tensor, generator: Generator) -> Tensor:
    """A child takes the whole tensor of one parent: of the first with probability `share`."""
    coins = torch.rand(len(first), generator=generator) < share.cpu()
    return torch.where(per_row(coins.to(first.device), first), first, second)


def blend(first: Tensor, second: Tensor, share: Tensor, generator: Generator) -> Tensor:
    """The weighted mean of both parents; meaningful once the second is aligned to the first."""
    del generator  # nothing is drawn
    return torch.lerp(second, first, per_row(share, first))


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """`(n,)` shaped to broadcast over `(n, ...)`."""
    if values.dtype != torch.bool:
        values = values.to(like.dtype)
    return values.to(like.device).view(-1, *([1] * (like.dim() - 1)))
