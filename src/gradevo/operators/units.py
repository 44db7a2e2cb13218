"""Whole units: a neuron or filter that nothing reads goes with all of its weights.

What a hidden unit sees is wasted once its own outgoing weights are gone. So thinning by magnitude
gives the weights of such units to others, and sparse networks become narrow as well.
"""

import torch
from torch import Tensor

from gradevo.operators import masks as masking
from gradevo.operators.alignment import Axis, Symmetry
from gradevo.operators.masks import Masks
from gradevo.structure import Tensors


def thin(tensors: Tensors, masks: Masks, keep: Tensor, symmetry: Symmetry | None) -> Masks:
    """Keep each member's largest weights, but none of a unit that nothing would read.

    Args:
        tensors: `(g, ...)` each.
        masks: what is there; nothing comes back.
        keep: how many weights each member keeps, `(g,)`; more, where the units that are left
            need them.
        symmetry: which axes of which weights are the hidden units'; None: no unit goes.

    Returns:
        New masks, in which every unit has a weight, or is a hidden one that nothing reads.

    Example:
        >>> hidden = (Axis("in", 0), Axis("out", 1))
        >>> w = {"in": torch.tensor([[[3.0], [2.0]]]), "out": torch.tensor([[[0.1, 5.0]]])}
        >>> start = masking.full(w, w)
        >>> left = thin(w, start, torch.tensor([2]), Symmetry((hidden,), (2,)))
        >>> {name: mask.int().tolist() for name, mask in left.items()}
        {'in': [[[0], [1]]], 'out': [[[0, 1]]]}
    """
    gates = masking.gates(masks)
    while True:
        left = masking.thin(tensors, masks, keep, free=gates)
        if symmetry is None:
            return left
        fewer = without_unread(symmetry, masks, left)
        if all(torch.equal(fewer[name], mask) for name, mask in masks.items()):
            return left
        masks = fewer


def without_unread(symmetry: Symmetry, masks: Masks, left: Masks) -> Masks:
    """`masks` without the weights, in and out, of hidden units that nothing reads in `left`.

    From the last layer to the first, as a unit that goes may have been another's only reader.
    """
    masks, left = dict(masks), dict(left)
    for group in reversed(symmetry.groups):
        readers = [axis for axis in group if axis.dim == 1 and axis.name in masks]
        if not readers:
            continue
        read = torch.stack([_any(left[axis.name], axis) for axis in readers]).any(dim=0)
        for axis in (axis for axis in group if axis.name in masks):
            masks[axis.name] = masks[axis.name] & _spread(read, axis, masks[axis.name])
            left[axis.name] = left[axis.name] & masks[axis.name]
    return masks


def _any(mask: Tensor, axis: Axis) -> Tensor:
    """Which units have a weight along an axis, `(g, units)`."""
    along = mask.movedim(axis.dim + 1, 1).flatten(2).any(dim=2)  # (g, units * block)
    return along.unflatten(1, (-1, axis.block)).any(dim=2)


def _spread(units: Tensor, axis: Axis, mask: Tensor) -> Tensor:
    """`(g, units)` in the shape of a weight's mask, to be broadcast over its other axes."""
    shape = [len(units), *[1] * (mask.dim() - 1)]
    shape[axis.dim + 1] = -1
    return units.repeat_interleave(axis.block, dim=1).view(shape)


def lasting(masks: Masks, symmetry: Symmetry | None) -> int:
    """How many units never go: those that no later layer of the module is known to read."""
    hidden = 0
    if symmetry is not None:
        for group, units in zip(symmetry.groups, symmetry.units, strict=True):
            read = any(axis.dim == 1 and axis.name in masks for axis in group)
            hidden += units * (read and any(a.dim == 0 and a.name in masks for a in group))
    return masking.units(masks, free=masking.gates(masks)) - hidden
