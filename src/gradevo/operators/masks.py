"""Which weights a member has: boolean masks, and how they lose and regain entries.

A mask is carried beside the weights, so that zero means gone. Masks are dicts of boolean tensors
`(g, ...)`, one for every tensor that may be pruned; everything else is always there. A unit is a
row of a weight: what one neuron, gate or filter sees.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from gradevo.operators.coins import toss
from gradevo.structure import Tensors

Masks = dict[str, Tensor]


def prunable(tensors: Mapping[str, Tensor], trainable: Iterable[str]) -> tuple[str, ...]:
    """Names of the weights: trainable tensors with at least two axes in a member.

    Biases and scales of norms are few and always stay.

    Example:
        >>> prunable({"w": torch.ones(5, 3, 2), "b": torch.ones(5, 3)}, ("w", "b"))
        ('w',)
    """
    return tuple(name for name in trainable if tensors[name].dim() >= 3)


def full(tensors: Mapping[str, Tensor], names: Iterable[str]) -> Masks:
    """Every weight is there."""
    return {name: torch.ones_like(tensors[name], dtype=torch.bool) for name in names}


def drawn(
    tensors: Mapping[str, Tensor],
    names: Iterable[str],
    densities: Tensor,
    generator: Generator | Sequence[Generator],
) -> Masks:
    """Each entry is kept with its member's probability.

    Args:
        tensors: `(g, ...)` each.
        names: of the weights.
        densities: `(g,)` in [0, 1].
        generator: CPU generator, or one for each member.
    """
    each = [generator] * len(densities) if isinstance(generator, Generator) else generator
    found: Masks = {}
    for name in names:
        members = zip(tensors[name].split(1), densities.split(1), each, strict=True)
        found[name] = torch.cat([toss(*own) for own in members]).to(tensors[name].device)
    return found


def of_values(tensors: Mapping[str, Tensor], names: Iterable[str]) -> Masks:
    """What is not zero is there."""
    return {name: tensors[name] != 0 for name in names}


def count(masks: Masks) -> Tensor:
    """Weights of each member that are there, `(g,)`, int64 on the CPU."""
    return sum((_there(mask) for mask in masks.values()), torch.zeros(1).long())


def _there(mask: Tensor) -> Tensor:
    """Entries of each member that are true; numpy counts them 50 times faster than torch."""
    if mask.device.type != "cpu":
        return mask.flatten(1).sum(dim=1).cpu()
    return torch.tensor([np.count_nonzero(member) for member in mask.numpy()])


def total(masks: Masks) -> int:
    """Weights of one member, there or not."""
    return sum(mask[0].numel() for mask in masks.values())


def units(masks: Masks, free: Collection[str] = ()) -> int:
    """Rows of one member's weights, without those of the weights named in `free`."""
    return sum(mask.shape[1] for name, mask in masks.items() if name not in free)


def density(masks: Masks) -> Tensor:
    """Share of each member's weights that are there, `(g,)`, float64 on the CPU."""
    return count(masks).double() / total(masks)


def masked(tensors: Mapping[str, Tensor], masks: Masks) -> Tensors:
    """The members with what is gone set to zero; a new dict."""
    gone = {name: tensors[name].masked_fill(~mask, 0) for name, mask in masks.items()}
    return {**tensors, **gone}


def thin(tensors: Mapping[str, Tensor], masks: Masks, keep: Tensor, free: Collection[str]) -> Masks:
    """Keep each member's largest weights, and the largest of every unit that has any.

    A unit without weights cannot learn any more and is a floor under the loss, so none is
    emptied: with more units than `keep`, one weight a unit is left.

    Args:
        tensors: `(g, ...)` each.
        masks: what is there; nothing comes back.
        keep: how many weights each member keeps, `(g,)`.
        free: names of weights whose units may become empty.

    Returns:
        New masks.

    Example:
        >>> w = {"w": torch.tensor([[[3.0, -4.0], [0.5, 0.1]]])}
        >>> thin(w, full(w, ["w"]), torch.tensor([2]), free=())["w"].int().tolist()
        [[[0, 1], [1, 0]]]
    """
    worth = {n: tensors[n].abs().masked_fill(~mask, -1) for n, mask in masks.items()}
    for name in worth.keys() - set(free):
        worth[name] = _safe(worth[name], masks[name])
    return _largest(worth, masks, keep)


def _safe(worth: Tensor, mask: Tensor) -> Tensor:
    """The best entry of every unit that has one becomes infinitely worth."""
    units = worth.flatten(2)  # (g, units, rest)
    best = units.argmax(dim=2, keepdim=True)
    held = mask.flatten(2).any(dim=2, keepdim=True)
    worth = units.gather(2, best).masked_fill(held, torch.inf)
    return units.scatter(2, best, worth).view(mask.shape)


def _largest(worth: Mapping[str, Tensor], masks: Masks, keep: Tensor) -> Masks:
    """Masks of the entries that are worth most over all of a member's tensors."""
    flat = torch.cat([worth[name].flatten(1) for name in masks], dim=1)  # (g, weights)
    least = torch.isinf(flat).sum(dim=1)
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    for i, (wanted, floor) in enumerate(zip(keep.tolist(), least.tolist(), strict=True)):
        n = min(max(int(wanted), floor), flat.shape[1])
        chosen[i, flat[i].topk(n, sorted=False).indices] = True
    chosen &= flat >= 0
    parts = chosen.split([mask[0].numel() for mask in masks.values()], dim=1)
    return {n: part.view(masks[n].shape) for n, part in zip(masks, parts, strict=True)}


def grow(masks: Masks, gradients: Mapping[str, Tensor], keep: Tensor) -> Masks:
    """Bring entries back where the gradient is largest, up to `keep` weights a member.

    They come back as zeros, so the network's function does not change until it learns.

    Args:
        masks: what is there; all of it stays.
        gradients: of the loss with respect to all entries, those that are gone too.
        keep: how many weights each member is to have, `(g,)`.

    Returns:
        New masks.

    Source: Evci et al., "Rigging the Lottery: Making All Tickets Winners", 2020.
    """
    worth = {
        name: gradients[name].abs().nan_to_num().masked_fill(mask, torch.inf)
        for name, mask in masks.items()
    }
    return _largest(worth, masks, keep)


def zero(masks: Masks, rate: float, generator: Generator, free: Collection[str] | None) -> Masks:
    """Each entry goes with a probability; the paper's mutation with rate 1 / entries.

    Args:
        masks: what is there.
        rate: the probability.
        generator: CPU generator.
        free: names of weights whose units may become empty; None: all.

    Returns:
        New masks.
    """
    result = {}
    for name, mask in masks.items():
        lost = toss(mask, torch.full((len(mask),), rate), generator).to(mask.device)
        left = mask & ~lost
        if free is not None and name not in free:
            emptied = ~left.flatten(2).any(dim=2)  # a unit that would lose its last stays whole
            left |= mask & emptied.view(*emptied.shape, *[1] * (mask.dim() - 2))
        result[name] = left
    return result


def gates(names: Iterable[str]) -> tuple[str, ...]:
    """Recurrent weights, whose rows may be empty: a gate still sees its input."""
    return tuple(name for name in names if "weight_hh" in name)
