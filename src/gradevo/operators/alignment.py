"""Matching of the hidden units of two parents, before they are crossed entry by entry.

Hidden units of independently trained networks are permuted against each other, so that
entrywise crossover of two good parents gives a bad child. Here the second parent's units are
brought into the order of the first's. `gradevo.operators.symmetry` finds which axes may move.

Source: Ainsworth, Hayase, Srinivasa 2022, "Git Re-Basin: Merging Models modulo Permutation
Symmetries", arXiv:2209.04836, algorithm 1 (weight matching).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

GAIN = 1e-9
"""Smallest gain that counts, as a fraction of the largest similarity of two units."""


class Unaligned(Exception):
    """The hidden units of a module cannot be aligned; the message is one line that says why."""


@dataclass(frozen=True)
class Axis:
    """One use of a permutation: a dimension of a tensor that runs over hidden units.

    Args:
        name: State-dict name of the parameter or buffer.
        dim: Dimension of one member's tensor that is permuted (no member axis counted).
        block: Entries that a unit owns along that dimension; default 1. After a flatten of
            C x H x W it is H*W.
        counted: Whether the entries weigh in the similarity of units; default True. Running
            statistics move with their unit but are no weights, so theirs is False.
    """

    name: str
    dim: int
    block: int = 1
    counted: bool = True


@dataclass(frozen=True)
class Symmetry:
    """Hidden units of a module that may be permuted without changing its function.

    Args:
        groups: One tuple of axes per hidden layer, all permuted together; layers in order from
            input to output.
        units: Number of hidden units of each group.

    Raises:
        ValueError: If the lengths differ, or a tensor occurs twice in one group.
    """

    groups: tuple[tuple[Axis, ...], ...]
    units: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.groups) != len(self.units):
            raise ValueError(f"{len(self.groups)} groups but {len(self.units)} numbers of units")
        for group in self.groups:
            if len({axis.name for axis in group}) < len(group):
                raise ValueError("a tensor occurs twice in one group of a symmetry")


def permute(
    symmetry: Symmetry, tensors: Mapping[str, Tensor], permutations: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the members with their hidden units in another order, and the same function.

    Args:
        symmetry: The axes that move together.
        tensors: Name to stacked tensor `[pairs, *shape]`; must hold every name of the symmetry.
        permutations: Per group a LongTensor `[pairs, units]`; unit i of the result is unit
            `permutations[group][pair, i]` of the input.

    Returns:
        A new dict; permuted entries are new tensors, all others are the input's own.

    Raises:
        KeyError: If a tensor of the symmetry is missing.

    Example:
        >>> symmetry = Symmetry(((Axis("bias", 0),),), (3,))
        >>> bias = torch.tensor([[10.0, 20.0, 30.0]])
        >>> permute(symmetry, {"bias": bias}, [torch.tensor([[2, 0, 1]])])["bias"]
        tensor([[30., 10., 20.]])

    Source: Hecht-Nielsen 1990, "On the algebraic structure of feedforward network weight
    spaces".
    """
    result = dict(tensors)
    for axes, permutation in zip(symmetry.groups, permutations, strict=True):
        for axis in axes:
            result[axis.name] = _moved(result[axis.name], axis, permutation)
    return result


def align(
    symmetry: Symmetry,
    reference: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    *,
    sweeps: int = 20,
) -> dict[str, Tensor]:
    """Return `other` with each pair's hidden units in the order that fits `reference` best.

    Parents whose units stand in the same order can be crossed entry by entry. The result is
    never less similar (inner product of the weights) to the reference than `other` was.

    Args:
        symmetry: The permutable axes, from `gradevo.operators.symmetry.find_symmetry`.
        reference: Name to stacked tensor `[pairs, *shape]`; pair k's first parent is row k.
        other: The second parents, likewise; must hold every name of the symmetry.
        sweeps: Upper bound on the passes over all hidden layers; default 20, mostly 2 to 6 do.

    Returns:
        A new dict of `other`'s entries; permuted ones are new tensors of the same device and
        dtype, the rest are passed through as they are. The inputs are never changed.

    Raises:
        KeyError: If a tensor of the symmetry is missing.

    Example:
        >>> symmetry = Symmetry(((Axis("a", 0), Axis("b", 1)),), (2,))
        >>> first = {"a": torch.tensor([[[1.0], [5.0]]]), "b": torch.tensor([[[2.0, 3.0]]])}
        >>> second = {"a": torch.tensor([[[5.1], [1.1]]]), "b": torch.tensor([[[3.1, 2.1]]])}
        >>> align(symmetry, first, second)["b"]
        tensor([[[2.1000, 3.1000]]])

    Source: Ainsworth et al. 2022, algorithm 1, in a fixed order of layers and with the start of
    `match_units`.
    """
    with torch.no_grad():
        return permute(symmetry, other, match_units(symmetry, reference, other, sweeps=sweeps))


@torch.no_grad()
def match_units(
    symmetry: Symmetry,
    reference: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    *,
    sweeps: int = 20,
) -> list[Tensor]:
    """Return the permutations that bring the units of `other` into the order of `reference`.

    Coordinate descent over the hidden layers, each step an exact linear assignment. It starts
    from one pass that matches units by what feeds them, input to output, where that beats the
    order as it is; this start recovers a permuted copy exactly, the plain one not always.

    Args:
        symmetry: The permutable axes.
        reference: Name to stacked tensor `[pairs, *shape]`.
        other: Likewise; NaN and infinite entries count as no similarity.
        sweeps: Upper bound on the passes over all hidden layers; default 20.

    Returns:
        Per group a LongTensor `[pairs, units]`, as `permute` takes it.

    Raises:
        KeyError: If a counted tensor of the symmetry is missing.

    Example:
        >>> symmetry = Symmetry(((Axis("bias", 0),),), (2,))
        >>> one, two = torch.tensor([[1.0, 5.0]]), torch.tensor([[6.0, 2.0]])
        >>> match_units(symmetry, {"bias": one}, {"bias": two})
        [tensor([[1, 0]])]

    Source: Ainsworth et al. 2022, algorithm 1.
    """
    if not symmetry.groups:
        return []
    weights = _counted(symmetry)
    target, source = _working(weights, reference), _working(weights, other)
    start = _better_start(weights, target, source, _fed_start(weights, target, source))
    return _descend(weights, target, source, start, sweeps)


def _counted(symmetry: Symmetry) -> Symmetry:
    groups = tuple(tuple(axis for axis in group if axis.counted) for group in symmetry.groups)
    return Symmetry(groups, symmetry.units)


def _working(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the symmetry in double precision (Apple's GPUs only have single)."""
    names = {axis.name for group in symmetry.groups for axis in group}
    picked = {name: tensors[name].detach() for name in sorted(names)}
    return {n: t.to(torch.float32 if t.is_mps else torch.float64) for n, t in picked.items()}


def _identity(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    sample = next(iter(tensors.values()))
    pairs, device = len(sample), sample.device
    return [torch.arange(n, device=device).repeat(pairs, 1) for n in symmetry.units]


def _fed_start(
    symmetry: Symmetry, target: dict[str, Tensor], source: dict[str, Tensor]
) -> list[Tensor]:
    """Match layer after layer by the tensors that touch no later, still unmatched layer."""
    last = {axis.name: g for g, group in enumerate(symmetry.groups) for axis in group}
    permutations: list[Tensor] = []
    for g, group in enumerate(symmetry.groups):
        axes = tuple(axis for axis in group if last[axis.name] == g)
        step = _assign(_similarity(axes, symmetry.units[g], target, source))  # (pairs, n)
        source = permute(_only(symmetry, g), source, [step])
        permutations.append(step)
    return permutations


def _better_start(
    symmetry: Symmetry,
    target: dict[str, Tensor],
    source: dict[str, Tensor],
    candidate: list[Tensor],
) -> list[Tensor]:
    """Return, for each pair, the candidate where it is more similar and else the identity."""
    before, after = _inner(target, source), _inner(target, permute(symmetry, source, candidate))
    better = (after - before > GAIN * before.abs()).unsqueeze(1)  # (pairs, 1)
    identity = _identity(symmetry, source)
    return [torch.where(better, c, i) for c, i in zip(candidate, identity, strict=True)]


def _descend(
    symmetry: Symmetry,
    target: dict[str, Tensor],
    source: dict[str, Tensor],
    permutations: list[Tensor],
    sweeps: int,
) -> list[Tensor]:
    """Assign layer by layer until no pair has a layer whose neighbours moved since its turn."""
    neighbours = _neighbours(symmetry)
    source = permute(symmetry, source, permutations)
    stale = np.ones((len(symmetry.groups), len(permutations[0])), dtype=bool)  # (groups, pairs)
    for turn in range(sweeps * len(symmetry.groups)):
        g = turn % len(symmetry.groups)
        if not stale[g].any():
            continue
        similarity = _similarity(symmetry.groups[g], symmetry.units[g], target, source)
        step = _assign(similarity, stale[g])  # (pairs, n)
        source = permute(_only(symmetry, g), source, [step])
        permutations[g] = permutations[g].gather(1, step)  # (pairs, n)
        _spread(stale, g, neighbours[g], step)
    return permutations


def _spread(stale: np.ndarray, g: int, neighbours: Sequence[int], step: Tensor) -> None:
    """Mark group g as fresh, and its neighbours as stale in the pairs where g moved."""
    still = torch.arange(step.shape[1], device=step.device)
    moved = (step != still).any(dim=1).cpu().numpy()  # (pairs,)
    stale[g] = False
    for h in neighbours:
        stale[h] |= moved


def _neighbours(symmetry: Symmetry) -> list[list[int]]:
    """Return, for each group, the other groups that share a tensor with it."""
    names = [{axis.name for axis in group} for group in symmetry.groups]
    count = range(len(names))
    return [[h for h in count if h != g and names[g] & names[h]] for g in count]


def _similarity(
    axes: Sequence[Axis], units: int, target: Mapping[str, Tensor], source: Mapping[str, Tensor]
) -> Tensor:
    """Return the inner products of the units' weights, first parent's unit by second's."""
    sample = next(iter(target.values()))
    total = sample.new_zeros(len(sample), units, units)  # (pairs, n, n)
    for axis in axes:
        rows, columns = (_rows(t[axis.name], axis, units) for t in (target, source))
        total += torch.bmm(rows, columns.mT)  # (pairs, n, n)
    return total


def _assign(similarity: Tensor, stale: np.ndarray | None = None) -> Tensor:
    """Return the best assignment of each pair, or the identity where it gains nothing."""
    clean = similarity.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # (pairs, n, n)
    scale = clean.abs().amax(dim=(1, 2), keepdim=True)  # (pairs, 1, 1)
    scores = (clean / scale.where(scale > 0, 1.0)).cpu().numpy()  # (pairs, n, n)
    steps = np.tile(np.arange(scores.shape[1]), (len(scores), 1))  # (pairs, n)
    for pair in range(len(scores)) if stale is None else np.flatnonzero(stale):
        rows, columns = linear_sum_assignment(scores[pair], maximize=True)
        if scores[pair, rows, columns].sum() - scores[pair].trace() > GAIN:
            steps[pair] = columns
    return torch.from_numpy(steps).to(similarity.device)


def _inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Return the inner product of all weights of each pair."""
    products = [(first[name] * second[name]).flatten(1).sum(1) for name in first]
    return torch.stack(products).sum(0)  # (pairs,)


def _only(symmetry: Symmetry, group: int) -> Symmetry:
    return Symmetry((symmetry.groups[group],), (symmetry.units[group],))


def _rows(tensor: Tensor, axis: Axis, units: int) -> Tensor:
    """Return the entries of each unit as one row."""
    front = tensor.movedim(axis.dim + 1, 1)  # (pairs, n * block, *rest)
    return front.reshape(len(tensor), units, front[:1].numel() // max(units, 1))


def _moved(tensor: Tensor, axis: Axis, permutation: Tensor) -> Tensor:
    """Return a copy of the stacked tensor with the units of one axis permuted."""
    within = torch.arange(axis.block, device=permutation.device)  # (block,)
    entries = (permutation.unsqueeze(-1) * axis.block + within).flatten(1)  # (pairs, n * block)
    pair = torch.arange(len(tensor), device=tensor.device).unsqueeze(1)  # (pairs, 1)
    front = tensor.movedim(axis.dim + 1, 1)  # (pairs, n * block, *rest)
    return front[pair, entries].movedim(1, axis.dim + 1).contiguous()  # (pairs, *shape)
