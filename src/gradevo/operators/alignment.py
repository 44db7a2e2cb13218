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
        ValueError: If the lengths differ, a tensor occurs twice in one group, or a group has no
            counted axis.
    """

    groups: tuple[tuple[Axis, ...], ...]
    units: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.groups) != len(self.units):
            raise ValueError(f"{len(self.groups)} groups but {len(self.units)} numbers of units")
        for group in self.groups:
            if len({axis.name for axis in group}) < len(group):
                raise ValueError("a tensor occurs twice in one group of a symmetry")
            if not any(axis.counted for axis in group):
                raise ValueError("a group of a symmetry has no axis that is counted")


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
    matching = _Matching(weights, _working(weights, reference), _working(weights, other))
    matching.start()
    matching.descend(sweeps)
    return matching.orders


def _counted(symmetry: Symmetry) -> Symmetry:
    groups = tuple(tuple(axis for axis in group if axis.counted) for group in symmetry.groups)
    return Symmetry(groups, symmetry.units)


def _working(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the symmetry in double precision (Apple's GPUs only have single)."""
    names = {axis.name for group in symmetry.groups for axis in group}
    picked = {name: tensors[name].detach() for name in sorted(names)}
    return {n: t.to(torch.float32 if t.is_mps else torch.float64) for n, t in picked.items()}


def _sample(tensors: Mapping[str, Tensor]) -> Tensor:
    return next(iter(tensors.values()))


def _identity(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    pairs, device = len(_sample(tensors)), _sample(tensors).device
    return [torch.arange(n, device=device).repeat(pairs, 1) for n in symmetry.units]


class _Matching:
    """The orders of the units found so far; the parents' weights stay as they are."""

    def __init__(
        self, symmetry: Symmetry, target: dict[str, Tensor], source: dict[str, Tensor]
    ) -> None:
        self.symmetry, self.target, self.source = symmetry, target, source
        self.orders = _identity(symmetry, source)  # each (pairs, n)
        self.uses: dict[str, list[tuple[int, Axis]]] = {}  # tensor -> groups that permute it
        for g, group in enumerate(symmetry.groups):
            for axis in group:
                self.uses.setdefault(axis.name, []).append((g, axis))
        self.fixed = [self._alone(g) for g in range(len(symmetry.groups))]  # each (pairs, n, n)

    def start(self) -> None:
        """Match layer after layer by what feeds it; keep that where it beats the first order."""
        identity, everyone = self.orders, torch.arange(len(self.orders[0]))
        for g in range(len(self.orders)):
            fed = [axis for axis in self._shared(g) if self.uses[axis.name][-1][0] == g]
            similarity = self._similarity(g, fed, everyone.to(self.orders[g].device))
            self.orders = [*self.orders]
            self.orders[g] = _assign(similarity, self.orders[g])  # (pairs, n)
        before, after = self._total(identity), self._total(self.orders)  # (pairs,)
        better = after - before > GAIN * before.abs()  # (pairs,)
        both = zip(self.orders, identity, strict=True)
        self.orders = [torch.where(better.unsqueeze(1), new, old) for new, old in both]

    def descend(self, sweeps: int) -> None:
        """Assign layer by layer until no pair has a layer whose neighbours moved since its turn."""
        count = len(self.orders)
        stale = self.orders[0].new_ones(count, len(self.orders[0]), dtype=torch.bool)
        for turn in range(sweeps * count):
            g = turn % count
            pairs = stale[g].nonzero().squeeze(1)  # (stale pairs,)
            if len(pairs):
                moved = self._improve(g, pairs)  # (moved pairs,)
                stale[g] = False
                for h in self._neighbours(g):
                    stale[h, moved] = True

    def _improve(self, g: int, pairs: Tensor) -> Tensor:
        """Assign one layer of some pairs anew and return the pairs whose order changed."""
        before = self.orders[g][pairs]  # (some, n)
        after = _assign(self._similarity(g, self._shared(g), pairs), before)  # (some, n)
        self.orders[g][pairs] = after
        return pairs[(before != after).any(dim=1)]

    def _shared(self, g: int) -> list[Axis]:
        """Return the group's axes on tensors that other groups permute as well."""
        return [axis for axis in self.symmetry.groups[g] if len(self.uses[axis.name]) > 1]

    def _neighbours(self, g: int) -> set[int]:
        return {h for axis in self._shared(g) for h, _ in self.uses[axis.name]} - {g}

    def _alone(self, g: int) -> Tensor:
        """Return the similarity of units by the tensors that no other group permutes."""
        units = self.symmetry.units[g]
        total = _sample(self.source).new_zeros(len(self.orders[g]), units, units)
        for axis in self.symmetry.groups[g]:
            if len(self.uses[axis.name]) == 1:
                target, source = self.target[axis.name], self.source[axis.name]
                total.baddbmm_(_rows(target, axis, units), _rows(source, axis, units).mT)
        return total  # (pairs, n, n)

    def _similarity(self, g: int, shared: Sequence[Axis], pairs: Tensor) -> Tensor:
        """Return the inner products of units of some pairs, first parent's unit by second's."""
        units, total = self.symmetry.units[g], self.fixed[g][pairs]  # (some, n, n), a copy
        for axis in shared:
            source = self.source[axis.name][pairs]  # (some, *shape)
            for h, other in self.uses[axis.name]:
                source = source if h == g else _moved(source, other, self.orders[h][pairs])
            target = _rows(self.target[axis.name][pairs], axis, units)  # (some, n, entries)
            total.baddbmm_(target, _rows(source, axis, units).mT)
        return total

    def _total(self, orders: Sequence[Tensor]) -> Tensor:
        return _inner(self.target, permute(self.symmetry, self.source, orders))  # (pairs,)


def _assign(similarity: Tensor, orders: Tensor) -> Tensor:
    """Return the best order of each pair's units, or the present one where it gains nothing."""
    clean = similarity.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # (pairs, n, n)
    scale = clean.abs().amax(dim=(1, 2), keepdim=True)  # (pairs, 1, 1)
    scores = (clean / scale.where(scale > 0, 1.0)).cpu().numpy()  # (pairs, n, n)
    result = orders.cpu().numpy().copy()  # (pairs, n)
    for row, score in zip(result, scores, strict=True):
        units, best = linear_sum_assignment(score, maximize=True)
        if score[units, best].sum() - score[units, row].sum() > GAIN:
            row[:] = best
    return torch.from_numpy(result).to(orders.device)


def _inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Return the inner product of all weights of each pair."""
    products = [(first[name] * second[name]).flatten(1).sum(1) for name in first]
    return torch.stack(products).sum(0)  # (pairs,)


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
