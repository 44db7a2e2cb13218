"""How far apart the members of a population are."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gradevo.operators.alignment import Symmetry, align


def mean_distance(
    members: Mapping[str, Tensor], names: Sequence[str], symmetry: Symmetry | None
) -> float:
    """Mean Euclidean distance between two members, after alignment to the first.

    Networks that differ only in the order of their hidden units are one network: without
    alignment they would count as far apart.

    Args:
        members: stacked tensors, `(g, ...)` each, the best member first.
        names: which of them count.
        symmetry: hidden units that may be permuted; None: distances as they are.

    Returns:
        The mean over pairs of members that are finite; 0 where there is no pair.
    """
    if symmetry is not None:
        first = {name: t[:1].expand_as(t) for name, t in members.items()}
        members = align(symmetry, first, members)
    leaves = [members[name].reshape(len(members[name]), -1) for name in names]  # (g, n) each
    finite = torch.stack([leaf.isfinite().all(dim=1) for leaf in leaves]).all(dim=0)  # (g,)
    if int(finite.sum()) < 2:
        return 0.0
    squares = [torch.pdist(leaf[finite].double()).square() for leaf in leaves]
    return float(torch.stack(squares).sum(dim=0).sqrt().mean())
