"""How two parents make a child: pure functions of one stacked tensor of each."""

import math

import torch
from torch import Generator, Tensor

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
    coins = toss(first, share, generator)
    return torch.where(coins.to(first.device), first, second)


def layerwise(first: Tensor, second: Tensor, share: Tensor, generator: Generator) -> Tensor:
    """A child takes the whole tensor of one parent: of the first with probability `share`."""
    coins = torch.rand(len(first), generator=generator) < share.cpu()
    return torch.where(per_row(coins.to(first.device), first), first, second)


def blend(first: Tensor, second: Tensor, share: Tensor, generator: Generator) -> Tensor:
    """The weighted mean of both parents; meaningful once the second is aligned to the first."""
    del generator  # nothing is drawn
    return torch.lerp(second, first, per_row(share, first))


def toss(like: Tensor, probability: Tensor, generator: Generator) -> Tensor:
    """A coin for every entry of `(n, ...)`, true with its row's probability `(n,)`; on the CPU.

    From 16 random bits an entry, which are drawn six times faster than a float. A row's threshold
    among the 65,536 levels is rounded up or down by chance, so the probability is exact. Where it
    is too small for that, a float is drawn.
    """
    shape = (-1, *([1] * (like.dim() - 1)))
    rows = probability.cpu().view(shape)
    if bool(((rows > 0) & (rows < _SMALL)).any()):
        return torch.rand(like.shape, generator=generator) < rows
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)
    bits = bits[: like.numel()].view(like.shape)
    chance = torch.rand(rows.shape, generator=generator, dtype=torch.float64)
    level = (rows.double() * _LEVELS + chance).floor() - _LEVELS // 2
    coins = bits < level.clamp(max=_LEVELS // 2 - 1).to(torch.int16)
    return coins.logical_or_(level == _LEVELS // 2)


_LEVELS, _SMALL = 2**16, 2**-8


def rare(like: Tensor, probability: float, generator: Generator) -> Tensor:
    """Flat positions of the entries whose coin shows, where that is seldom; some may come twice.

    As many draws as hits instead of one an entry. An entry is hit by a Poisson number of them, of
    rate -log(1 - p), so it is hit at all with probability p, independently of the others.
    """
    expected = torch.tensor(-like.numel() * math.log1p(-probability), dtype=torch.float64)
    hits = int(torch.poisson(expected, generator=generator))
    return torch.randint(like.numel(), (hits,), generator=generator)


def rare_of_rows(like: Tensor, probability: Tensor, generator: Generator) -> Tensor:
    """Flat positions in `(n, ...)` of entries whose coin shows, each row with its own chance.

    As `rare`, every position once and in order.
    """
    entries = like[0].numel()
    hits = torch.poisson(-entries * torch.log1p(-probability.double().cpu()), generator=generator)
    rows = torch.repeat_interleave(torch.arange(len(like)), hits.long())
    places = torch.randint(entries, (len(rows),), generator=generator)
    return (rows * entries + places).unique()


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """`(n,)` shaped to broadcast over `(n, ...)`."""
    if values.dtype != torch.bool:
        values = values.to(like.dtype)
    return values.to(like.device).view(-1, *([1] * (like.dim() - 1)))
