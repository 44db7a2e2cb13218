"""Networks of a population as data: weights, masks, and what they are worth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradevo.checkpoint import storable
from gradevo.operators import masks as masking
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

    def join(self, other: "Members") -> "Members":
        """These and others, one after another."""
        mine, theirs = self.gradients, other.gradients
        both = None if mine is None or theirs is None else _both(mine, theirs)
        return Members(
            _both(self.tensors, other.tensors),
            _both(self.masks, other.masks),
            torch.cat([self.objectives, other.objectives]),
            torch.cat([self.losses, other.losses]),
            both,
        )

    def densities(self) -> Tensor:
        """Share of each member's weights that are there, `(g,)`."""
        return masking.density(self.masks)


def rows(tensors: Tensors, indices: Tensor) -> Tensors:
    """Rows of every stacked tensor, copied."""
    return {name: t[indices.to(t.device)] for name, t in tensors.items()}


def _both(mine: Tensors, theirs: Tensors) -> Tensors:
    return {name: torch.cat([t, theirs[name]]) for name, t in mine.items()}
