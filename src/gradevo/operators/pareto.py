"""Selection and survival by several objectives at once, all minimised: the operators of NSGA-II.

Row a dominates row b if it is nowhere worse and somewhere better. Points that no other dominates
are front 0; without them, those that no other dominates are front 1; and so on. Within a front,
the less crowded point is preferred.

Everywhere, a row with NaN counts as infinitely bad in all objectives: it is never better than
another. Single objectives may be infinite.

Sources: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002; Jensen,
"Reducing the run-time complexity of multiobjective EAs: the NSGA-II and other algorithms", 2003.

Deviations: the paper has no infinite objectives, and it marks two ends also in an objective in
which a whole front is equal, where they would be any two points.
"""

from bisect import bisect_right

import torch
from torch import Generator, Tensor

from gradevo.validation import at_least


def fronts(objectives: Tensor) -> Tensor:
    """The front of each point; equal points share one.

    A point's front is the length of the longest chain of points of which each dominates the next
    and the last dominates it. One or two objectives take O(n log n) time, more O(m n^2); memory
    is O(m n).

    Args:
        objectives: `(n, m)`, floating point.

    Returns:
        `(n,)` indices of fronts, 0 the best.

    Raises:
        ValueError: `objectives` are of another shape, m is 0, or they are not floating point.

    Example:
        >>> fronts(torch.tensor([[2.0, 2.0], [0.0, 1.0], [1.0, 0.0], [float("nan"), 0.0]]))
        tensor([1, 0, 0, 2])

    Source: Deb et al. 2002, section III A; Jensen 2003 for two objectives in O(n log n).
    """
    rows = _comparable(objectives)
    order = torch.arange(len(rows), device=rows.device)
    for column in reversed(rows.unbind(dim=1)):
        order = order[column[order].argsort(stable=True)]
    rows = rows[order]  # lexicographic: a row can be dominated by earlier ones only
    new = torch.ones_like(order, dtype=torch.bool)
    new[1:] = (rows[1:] != rows[:-1]).any(dim=1)
    distinct = rows[new]
    depth = _sweep(distinct[:, -1]) if rows.shape[1] <= 2 else _longest_chains(distinct)
    found = torch.empty_like(order)
    found[order] = depth[new.cumsum(dim=0) - 1]
    return found


def _sweep(last_objective: Tensor) -> Tensor:
    """Fronts of distinct rows in lexicographic order, of which only the last objective matters.

    An earlier row dominates a later one if it is not larger here. So a front is told by its
    smallest entry, which is its newest, and these grow from front to front.
    """
    newest, depth = [], []
    for y in last_objective.tolist():
        front = bisect_right(newest, y)  # the first front that does not dominate the row
        newest[front : front + 1] = [y]  # a new front at the end, or a new end of this one
        depth.append(front)
    return torch.tensor(depth, dtype=torch.int64, device=last_objective.device)


def _longest_chains(rows: Tensor) -> Tensor:
    """Fronts of distinct rows in lexicographic order, each one compared with all before it."""
    columns = rows[:, 1:].T.contiguous()  # (m - 1, n): the order has decided the first
    length = torch.ones(len(rows), dtype=torch.int64, device=rows.device)
    for i in range(1, len(rows)):
        dominate = (columns[:, :i] <= columns[:, i : i + 1]).all(dim=0)  # (i,)
        length[i] += (dominate * length[:i]).max()
    return length - 1


def crowding(objectives: Tensor, fronts: Tensor) -> Tensor:
    """How far apart the neighbours of each point are within its front, summed over objectives.

    The two ends of a front in any objective are infinitely far out. Elsewhere the gap between
    the two neighbours counts as a share of the range from end to end. Of points that are equal
    in an objective, the earlier stands first. An objective in which a whole front is equal says
    nothing about it; a front equal in all of them, as one of a single point, is all ends.

    Args:
        objectives: `(n, m)`, floating point. The range is that of the front's finite numbers,
            and a gap to an infinite one reaches to the end of that range.
        fronts: `(n,)`, as `fronts` gives them.

    Returns:
        `(n,)` float64, positive or 0, never NaN.

    Raises:
        ValueError: `objectives` are not as for `fronts`, or `fronts` are not one a point.

    Example:
        >>> points = torch.tensor([[0.0, 4.0], [1.0, 2.0], [2.0, 1.0], [4.0, 0.0]])
        >>> crowding(points, fronts(points))
        tensor([   inf, 1.2500, 1.2500,    inf], dtype=torch.float64)

    Source: Deb et al. 2002, section III B.
    """
    rows = _comparable(objectives)
    _one_each("fronts", fronts, len(rows))
    labels, front, size = fronts.unique(return_inverse=True, return_counts=True)
    order = rows.argsort(dim=0, stable=True)
    order = order.gather(0, front[order].argsort(dim=0, stable=True))  # (n, m), front by front
    x = rows.gather(0, order)
    place = front.sort()[0]  # (n,), the front at each row of x
    last = size.cumsum(dim=0) - 1  # (k,), where it ends
    first = last + 1 - size
    varies = x[first] != x[last]  # (k, m)

    x = x.double() / 2  # halves: no difference of two overflows
    low, high = _finite_range(x, place, len(labels))  # (k, m)
    x = x.clamp(low[place], high[place])
    span = torch.where(high > low, high - low, 1.0)
    share = torch.zeros_like(x)
    share[1:-1] = (x[2:] - x[:-2]) / span[place[1:-1]]
    share[first] = share[last] = torch.zeros_like(low).masked_fill(varies, torch.inf)
    distance = torch.zeros_like(x).scatter(0, order, share).sum(dim=1)
    return torch.where(varies.any(dim=1)[front], distance, torch.inf)


def _finite_range(x: Tensor, place: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest finite entry by front and objective, `(k, m)`; 0 without any."""
    index = place.unsqueeze(1).expand_as(x)
    worst = x.new_full((k, x.shape[1]), torch.inf)
    low = worst.scatter_reduce(0, index, torch.where(x.isfinite(), x, torch.inf), "amin")
    high = (-worst).scatter_reduce(0, index, torch.where(x.isfinite(), x, -torch.inf), "amax")
    known = low <= high
    return torch.where(known, low, 0.0), torch.where(known, high, 0.0)


def survivors(objectives: Tensor, count: int) -> Tensor:
    """The best of parents and children: by front, then by crowding distance, best first.

    Args:
        objectives: `(n, m)`, floating point, parents before children: of points that are
            equally good, the earlier survives.
        count: how many, from 1 to n.

    Returns:
        `(count,)` indices.

    Raises:
        ValueError: `objectives` are not as for `fronts`, or `count` is out of range.

    Example:
        >>> points = torch.tensor([[2.0, 2.0], [0.0, 3.0], [1.0, 1.0], [3.0, 0.0]])
        >>> survivors(points, 3)
        tensor([1, 3, 2])

    Source: Deb et al. 2002, section III C.
    """
    front = fronts(objectives)
    at_least("count", count, 1)
    if count > len(front):
        raise ValueError(f"count: must be at most the number of points, {len(front)}, got {count}")
    order = crowding(objectives, front).argsort(descending=True, stable=True)
    return order[front[order].argsort(stable=True)][:count]


def tournament(fronts: Tensor, crowding: Tensor, count: int, generator: Generator) -> Tensor:
    """Each winner is the better of two different points: by front, then by crowding distance.

    Of two that are equally good the one drawn first wins, which is as fair as a coin.

    Args:
        fronts: `(n,)`, as `fronts` gives them; a single point wins alone.
        crowding: `(n,)`, as `crowding` gives them.
        count: how many winners, at least 1; a point may win any number of times.
        generator: CPU generator.

    Returns:
        `(count,)` indices.

    Raises:
        ValueError: there are no points, `crowding` is not one a point, or `count` is below 1.

    Example:
        >>> tournament(torch.tensor([0, 1]), torch.ones(2), 3, torch.Generator())
        tensor([0, 0, 0])

    Source: Deb et al. 2002, section III B, the crowded-comparison operator.
    """
    at_least("count", count, 1)
    n = len(fronts)
    at_least("fronts: their number", n, 1)
    _one_each("crowding", crowding, n)
    one = torch.randint(n, (count,), generator=generator)
    other = (one + torch.randint(1, max(n, 2), (count,), generator=generator)) % n
    one, other = one.to(fronts.device), other.to(fronts.device)
    roomier = (fronts[other] == fronts[one]) & (crowding[other] > crowding[one])
    return torch.where((fronts[other] < fronts[one]) | roomier, other, one)


def _comparable(objectives: Tensor) -> Tensor:
    """Checked objectives, with +inf all along a row that has NaN."""
    shape = tuple(objectives.shape)
    if len(shape) != 2 or shape[1] == 0 or not objectives.is_floating_point():
        raise ValueError(
            "objectives: must be floating point of shape (n, m) with m at least 1, "
            f"got {objectives.dtype} of shape {shape}"
        )
    lost = objectives.isnan().any(dim=1, keepdim=True)
    return torch.where(lost, torch.inf, objectives.detach())


def _one_each(name: str, values: Tensor, n: int) -> None:
    if values.shape != (n,):
        raise ValueError(f"{name}: must be of shape ({n},), got {tuple(values.shape)}")
