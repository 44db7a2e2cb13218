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
    """
    count = len(members[names[0]])
    if symmetry is not None:
        first = {name: t[:1].expand_as(t) for name, t in members.items()}
        members = align(symmetry, first, members)
    flat = torch.cat([members[name].flatten(1) for name in names], dim=1)  # (g, P)
    finite = flat[flat.isfinite().all(dim=1)]
    if count < 2 or len(finite) < 2:
        return 0.0
    return float(torch.pdist(finite.double()).mean())
