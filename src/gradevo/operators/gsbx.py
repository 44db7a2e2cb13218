"""Simulated binary crossover guided by gradients (gSBX): pure functions on the pair axis.

Both parents are put in order entry by entry, x1 <= x2, with m their middle and d = x2 - x1; the
children are c1 = m - beta1 d / 2 and c2 = m + beta2 d / 2. With beta < 1 a child lies between its
parents (it contracts), with beta > 1 outside (it expands). Plain SBX tosses a coin which of the
two happens; gSBX takes the one that moves each child downhill. At distribution index 20 a mean
step is 2.4 % of the parents' gap: sign descent, scaled by the population's own spread.

Source: GEMONN (gradient-guided evolutionary multi-objective neural networks); plain SBX: Deb and
Agrawal, "Simulated binary crossover for continuous search space", 1995.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from gradevo.operators.coins import uniform
from gradevo.operators.crossover import per_row

SMALLEST = 2.0**-25  # of a draw: an expansion stays finite
BLOCK = 2**14  # entries that one thread computes


def sbx(
    first: Tensor,
    second: Tensor,
    generator: Generator | Sequence[Generator],
    *,
    index: float = 20.0,
) -> tuple[Tensor, Tensor]:
    """Plain simulated binary crossover: near the parents, on no side in particular.

    Args:
        first: `(n, ...)`. second: `(n, ...)`.
        generator: CPU generator, or one for each of the n pairs.
        index: distribution index; the larger, the nearer.

    Returns:
        Two children a pair, `(n, ...)` each, symmetric about the parents' middle.

    Example:
        >>> a, b = sbx(torch.zeros(1, 2), torch.ones(1, 2), torch.Generator().manual_seed(0))
        >>> bool(torch.allclose(a + b, torch.ones(1, 2)))
        True
    """
    flat = torch.zeros((), dtype=first.dtype, device=first.device).expand_as(first)
    return gsbx(first, second, (flat, flat), generator, index=index, keep=0.0, exchange=0.0)


def gsbx(
    first: Tensor,
    second: Tensor,
    gradients: tuple[Tensor, Tensor],
    generator: Generator | Sequence[Generator],
    *,
    index: float = 20.0,
    keep: float = 0.5,
    exchange: float = 0.5,
    low_side: bool = False,
) -> tuple[Tensor, Tensor]:
    """Children that lie further down the gradient than those of plain SBX.

    Where a gradient is zero or NaN, and only there, its child's side is left to chance.

    Args:
        first: `(n, ...)`. second: `(n, ...)`.
        gradients: of the loss at both parents, `(n, ...)` each; only signs count.
        generator: CPU generator, or one for each of the n pairs.
        index: distribution index; the larger, the nearer.
        keep: probability that a pair keeps zeros: an entry that is 0 in a parent stays it.
        exchange: probability that an entry is open to the directed exchange: the low child takes
            the high one's value where its gradient is negative, the high child the low one's
            where its gradient is positive.
        low_side: both children follow the low side's gradient, as in the published code.

    Returns:
        Two children a pair, `(n, ...)` each, the first in the first parent's order.

    Example:
        >>> up = torch.ones(1, 2)  # the loss rises with every entry
        >>> pair = torch.zeros(1, 2), torch.ones(1, 2)
        >>> a, b = gsbx(*pair, (up, up), torch.Generator().manual_seed(0), keep=0.0, exchange=0.0)
        >>> bool((a < 0).all() and (b < 1).all())
        True

    Source: GEMONN's crossover.
    """
    swapped = first > second
    x1, x2 = torch.minimum(first, second), torch.maximum(first, second)
    slope1 = torch.where(swapped, gradients[1], gradients[0])
    slope2 = slope1 if low_side else torch.where(swapped, gradients[0], gradients[1])
    u = uniform(first.shape, generator, torch.float32).to(first.device)
    outwards = u > 0.5  # plain SBX
    v = torch.where(outwards, 2 - 2 * u, 2 * u).clamp_(min=SMALLEST).to(first.dtype)
    power = _pow(v, 1 / (index + 1))
    middle, half = (x1 + x2) / 2, (x2 - x1) / 2
    low = middle - half * _beta(power, slope1 > 0, slope1 < 0, outwards)
    high = middle + half * _beta(power, slope2 < 0, slope2 > 0, outwards)
    low, high = _keep_zeros((x1, x2), (low, high), keep, generator)
    if exchange:
        odd = (u * 2**24).int() & 1  # the draw's last bit is a coin of its own
        open_to = odd.bool() if exchange == 0.5 else _coins(low, exchange, generator)
        low, high = _exchange((low, high), (slope1, slope2), open_to)
    return torch.where(swapped, high, low), torch.where(swapped, low, high)


def _pow(v: Tensor, exponent: float) -> Tensor:
    """Powers whose bits depend on no other pair, and on no number of threads.

    torch rounds the last entries of a tensor, and of a thread's part of it, otherwise than the
    others; so each pair is alone, in parts too short for a second thread.
    """
    blocks = [part for pair in v.reshape(len(v), -1) for part in pair.split(BLOCK)]
    return torch.cat([block.pow(exponent) for block in blocks]).view(v.shape)


def _beta(power: Tensor, outwards: Tensor, inwards: Tensor, chance: Tensor) -> Tensor:
    """power = v^(1 / (index + 1)) <= 1 inwards, its inverse outwards; by chance where neither."""
    expand = outwards | (chance & ~inwards)
    return torch.where(expand, 1 / power, power)


def _keep_zeros(
    parents: tuple[Tensor, Tensor],
    children: tuple[Tensor, Tensor],
    probability: float,
    generator: Generator | Sequence[Generator],
) -> tuple[Tensor, Tensor]:
    """In some of the pairs, an entry that is exactly 0 in a side's parent stays 0 (beta = 1)."""
    if probability == 0:
        return children
    coins = uniform(parents[0].shape[:1], generator) < probability
    kept = per_row(coins.to(parents[0].device), parents[0])
    low, high = (
        child.masked_fill(kept & (parent == 0), 0)
        for parent, child in zip(parents, children, strict=True)
    )
    return low, high


def _exchange(
    children: tuple[Tensor, Tensor],
    slopes: tuple[Tensor, Tensor],
    open_to: Tensor,
) -> tuple[Tensor, Tensor]:
    """The directed exchange; both children are read before either is written."""
    low, high = children
    return (
        torch.where(open_to & (slopes[0] < 0), high, low),
        torch.where(open_to & (slopes[1] > 0), low, high),
    )


def _coins(like: Tensor, probability: float, generator: Generator | Sequence[Generator]) -> Tensor:
    return (uniform(like.shape, generator) < probability).to(like.device)
