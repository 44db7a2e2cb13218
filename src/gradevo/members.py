"""Networks of a population as data: weights, masks, and what they are worth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradevo.checkpoint import storable
from gradevo.operators import masks as masking
from gradevo.operators import pareto
from gradevo.operators.masks import Masks
from gradevo.structure import Tensors


@storable
@dataclass
class Members:
    """Sparse networks of one architecture.

    Attributes:
        tensors: stacked, `(g, ...)` each; zero where the masks say so.
        masks: which weights are there.
        objectives: `(g, m)`, float64 on the CPU; NaN where the loss is not finite.
        losses: `(g,)`, float64 on the CPU.
        gradients: of the losses, where a search needs them.
    """

    tensors: Tensors
    masks: Masks
    objectives: Tensor
    losses: Tensor
    gradients: Tensors | None = None

    def __len__(self) -> int:
        return len(self.losses)

    def take(self, indices: Tensor) -> "Members":
        """Some of them, copied."""
        gradients = None if self.gradients is None else rows(self.gradients, indices)
        return Members(
            rows(self.tensors, indices),
            rows(self.masks, indices),
            self.objectives[indices],
            self.losses[indices],
            gradients,
        )

    def compete(self, other: "Members") -> Tensor:
        """Keep the best of these and others by NSGA-II, as many as these; newcomers fill gaps.

        In place, and what stays does not move: a population can be large, and newcomers few.

        Args:
            other: newcomers.

        Returns:
            Where each member is from: an index into these and the others, one after another.
        """
        size = len(self)
        chosen = pareto.survivors(torch.cat([self.objectives, other.objectives]), size)
        new = chosen[chosen >= size]
        stays = torch.zeros(size, dtype=torch.bool).index_fill_(0, chosen[chosen < size], True)
        gaps = (~stays).nonzero().flatten()
        for mine, theirs in zip(self._parts(), other._parts(), strict=True):
            mine[gaps.to(mine.device)] = theirs[(new - size).to(theirs.device)]
        return torch.arange(size).index_copy_(0, gaps, new)

    def _parts(self) -> list[Tensor]:
        gradients = self.gradients or {}
        dicts = (*self.tensors.values(), *self.masks.values(), *gradients.values())
        return [*dicts, self.objectives, self.losses]

    def densities(self) -> Tensor:
        """Share of each member's weights that are there, `(g,)`."""
        return masking.density(self.masks)


def rows(tensors: Tensors, indices: Tensor) -> Tensors:
    """Rows of every stacked tensor, copied."""
    return {name: t[indices.to(t.device)] for name, t in tensors.items()}
