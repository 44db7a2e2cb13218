"""Which rank computes which member: pure functions, the same on every rank.

Every rank holds as many members, and computes as many children, as its quota says. Members stay
where they are as long as that allows, and children go where their parents are: nothing that is
computed depends on it, but the traffic does.
"""

import torch
from torch import Tensor

NOBODY = torch.empty(0, dtype=torch.int64)


def quotas(members: int, ranks: int) -> list[int]:
    """Members of each rank, as even as can be.

    Example:
        >>> quotas(7, 2)
        [4, 3]
    """
    return [members // ranks + (rank < members % ranks) for rank in range(ranks)]


def blocks(members: int, ranks: int) -> Tensor:
    """The rank of each member at the start, `(g,)`: neighbours together."""
    return torch.arange(ranks).repeat_interleave(torch.tensor(quotas(members, ranks)))


def near_parents(parents: Tensor, homes: Tensor, ranks: int) -> Tensor:
    """Ranks for children, `(n,)`: where the first parent is, else the second, else anywhere.

    Args:
        parents: `(n, 2)` indices of members, the first of which gives the buffers too.
        homes: the members' ranks, `(g,)`.
        ranks: how many.

    Example:
        >>> near_parents(torch.tensor([[0, 0], [0, 1], [0, 0], [1, 0]]), torch.tensor([0, 1]), 2)
        tensor([0, 0, 1, 1])
    """
    room, found = quotas(len(parents), ranks), [-1] * len(parents)
    wishes = homes[parents].tolist()
    for side in (0, 1):
        for child, wish in enumerate(wishes):
            if found[child] < 0 and room[wish[side]]:
                found[child] = wish[side]
                room[wish[side]] -= 1
    return _filled(found, room)


def balanced(homes: Tensor, ranks: int) -> Tensor:
    """Ranks for members that are where they are, `(g,)`: as few move as quotas ask for.

    One that is at none of the ranks, -1, moves.

    Example:
        >>> balanced(torch.tensor([1, 1, 1, 0]), 2)
        tensor([1, 1, 0, 0])
    """
    room, found = quotas(len(homes), ranks), []
    for home in homes.tolist():
        stays = home >= 0 and room[home] > 0
        room[home] -= stays
        found.append(home if stays else -1)
    return _filled(found, room)


def _filled(found: list[int], room: list[int]) -> Tensor:
    """Whoever has no place yet takes the first that is free."""
    free = [rank for rank, count in enumerate(room) for _ in range(count)]
    return torch.tensor([free.pop(0) if rank < 0 else rank for rank in found], dtype=torch.int64)


def rows_at(homes: Tensor, rank: int) -> Tensor:
    """Which members are at a rank, ascending: row i of its tensors is the i-th of them."""
    return torch.nonzero(homes == rank).flatten()
