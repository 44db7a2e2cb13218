"""Coins for the entries of stacked tensors, from as few random bits as will do."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

BLOCK = 2**16  # entries at a time, so that what lies between draw and result stays in cache
WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes: as many bits, no arithmetic


def uniform(
    shape: Sequence[int],
    generator: Generator | Sequence[Generator],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draws from [0, 1), on the CPU.

    Args:
        shape: `(n, ...)`.
        generator: for all, or one for each of the n rows.
        dtype: of the draws.
    """
    if isinstance(generator, Generator):
        return torch.rand(shape, generator=generator, dtype=dtype)
    drawn = torch.empty(shape, dtype=dtype)
    for i, own in enumerate(generator):
        torch.rand(shape[1:], generator=own, dtype=dtype, out=drawn[i])
    return drawn


def pick(first: Tensor, second: Tensor, share: Tensor, generator: Generator) -> Tensor:
    """Each entry of the first tensor with its row's probability, else of the second.

    By masks of bits, block by block: torch's `where` branches for every entry, and takes six times
    as long on coins.

    Args:
        first: `(n, ...)`. second: `(n, ...)`.
        share: `(n,)`, probability of the first.
        generator: CPU generator.

    Returns:
        `(n, ...)`, a new tensor.
    """
    kind = WHOLE.get(first.element_size())
    plain = first.device.type == "cpu" and first.is_contiguous() and second.is_contiguous()
    if kind is None or not plain or first.is_complex() or _seldom(share):
        coins = toss(first, share, generator)
        return torch.where(coins.to(first.device), first, second)
    result = torch.empty_like(first)
    views = [t.view(len(t), -1).view(kind) for t in (first, second, result)]
    levels = _levels(share.cpu(), generator).view(-1, 1).to(torch.int32)
    entries = views[0].shape[1]
    rows, columns = max(1, BLOCK // max(1, entries)), min(entries, BLOCK)
    for i in range(0, len(first), rows):
        for j in range(0, entries, max(1, columns)):
            one, other, out = (view[i : i + rows, j : j + columns] for view in views)
            bits = _bits(one.numel(), generator).view(one.shape)
            mask = (bits.to(torch.int32) - levels[i : i + rows]).bitwise_right_shift_(31)
            chosen = torch.bitwise_xor(one, other).bitwise_and_(mask.to(kind))
            torch.bitwise_xor(chosen, other, out=out)
    return result


def _bits(count: int, generator: Generator) -> Tensor:
    """So many random int16; four come from one draw."""
    words = torch.empty(-(-count // 4), dtype=torch.int64)
    return words.random_(-(2**63), None, generator=generator).view(torch.int16)[:count]


def _levels(probability: Tensor, generator: Generator) -> Tensor:
    """An int16 below its row's level shows its coin; float64, from -32,768 to 32,768.

    A level among the 65,536 is rounded up or down by chance, so the probability is exact.
    """
    chance = torch.rand(probability.shape, generator=generator, dtype=torch.float64)
    return (probability.double() * _LEVELS + chance).floor().clamp(max=_LEVELS) - _LEVELS // 2


def _seldom(probability: Tensor) -> bool:
    """Whether some row's coin shows too seldom for levels."""
    return bool(((probability > 0) & (probability < _SMALL)).any())


def toss(like: Tensor, probability: Tensor, generator: Generator) -> Tensor:
    """A coin for every entry of `(n, ...)`, true with its row's probability `(n,)`; on the CPU.

    From 16 random bits an entry, which are drawn six times faster than a float; where the
    probability is too small for that, a float is drawn.
    """
    rows = probability.cpu().view(-1, *([1] * (like.dim() - 1)))
    if _seldom(rows):
        return torch.rand(like.shape, generator=generator) < rows
    bits = _bits(like.numel(), generator).view(like.shape)
    level = _levels(rows, generator)
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
