"""Who becomes a parent: pure functions of the members' losses."""

import torch
from torch import Generator, Tensor


def finite_or_worst(losses: Tensor) -> Tensor:
    """Losses with NaN and infinities of either sign as +inf, which ranks last."""
    return torch.where(losses.isfinite(), losses, torch.inf)


def normalise(losses: Tensor) -> Tensor:
    """Losses scaled to [0, 1] by min-max over the population; all equal: all 0.

    Args:
        losses: `(g,)`; NaN and infinite ones become 1, the worst.

    Example:
        >>> normalise(torch.tensor([3.0, 1.0, 2.0]))
        tensor([1.0000, 0.0000, 0.5000])
    """
    losses = finite_or_worst(losses)
    finite = losses[losses.isfinite()]
    if len(finite) == 0:
        return torch.ones_like(losses)
    span = finite.max() - finite.min()
    scaled = (losses - finite.min()) / torch.where(span > 0, span, 1.0)
    return scaled.clamp(max=1.0)  # (g,)


def softmax_fitness(losses: Tensor) -> Tensor:
    """Probability of each member to be drawn as a parent, softmax(-L^) (eq. 8).

    A member whose loss is NaN or infinite has probability 0: it never spreads.

    Args:
        losses: `(g,)`, at least one of them finite.

    Returns:
        `(g,)`, sums to 1.

    Source: GADAM, equations 7 and 8.
    """
    p = torch.softmax(-normalise(losses), dim=0)
    p = torch.where(losses.isfinite(), p, 0.0)
    return p / p.sum()


def softmax_parents(losses: Tensor, pairs: int, generator: Generator) -> Tensor:
    """Pairs drawn with replacement with probabilities `softmax_fitness` (eq. 8).

    Args:
        losses: `(g,)`, at least one of them finite.
        pairs: how many.
        generator: CPU generator.

    Returns:
        `(pairs, 2)` indices of members.
    """
    p = softmax_fitness(losses)
    drawn = torch.multinomial(p, 2 * pairs, replacement=True, generator=generator)
    return drawn.view(pairs, 2)


def tournament_parents(
    losses: Tensor, pairs: int, generator: Generator, *, size: int = 2
) -> Tensor:
    """Each parent is the best of `size` members drawn uniformly with replacement.

    Args:
        losses: `(g,)`; NaN and infinite ones lose against every other.
        pairs: how many.
        generator: CPU generator.
        size: members a tournament, at least 1.

    Returns:
        `(pairs, 2)` indices of members.
    """
    if size < 1:
        raise ValueError(f"size: must be at least 1, got {size}")
    able = torch.nonzero(losses.isfinite()).flatten()
    entrants = able[torch.randint(len(able), (pairs, 2, size), generator=generator)]
    best = losses[entrants].argmin(dim=2, keepdim=True)  # (pairs, 2, 1)
    return entrants.gather(2, best).squeeze(2)


def truncation_parents(
    losses: Tensor, pairs: int, generator: Generator, *, share: float = 0.5
) -> Tensor:
    """Parents drawn uniformly from the best `share` of the members.

    Args:
        losses: `(g,)`, at least one of them finite.
        pairs: how many.
        generator: CPU generator.
        share: in (0, 1]; at least one member is kept.

    Returns:
        `(pairs, 2)` indices of members.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: must lie in (0, 1], got {share}")
    able = int(losses.isfinite().sum())
    kept = min(able, max(1, round(share * len(losses))))
    best = finite_or_worst(losses).argsort(stable=True)[:kept]
    return best[torch.randint(kept, (pairs, 2), generator=generator)]


def fitter_first(parents: Tensor, losses: Tensor) -> Tensor:
    """Each pair reordered so that the fitter parent stands first, `(pairs, 2)`."""
    worst_last = finite_or_worst(losses)[parents].argsort(dim=1, stable=True)
    return parents.gather(1, worst_last)
