"""Networks of a population as data: weights, masks, and what they are worth."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradevo.checkpoint import storable
from gradevo.distributed.placing import balanced, rows_at
from gradevo.distributed.team import ALONE, Team
from gradevo.operators import masks as masking
from gradevo.operators import pareto
from gradevo.operators.masks import Masks
from gradevo.structure import Tensors


@storable
@dataclass
class Members:
    """Sparse networks of one architecture.

    They may be spread over processes: all of those know everybody's numbers.

    Attributes:
        tensors: stacked, `(n, ...)` each; zero where the masks say so. Of those members that are
            in this process, which are all unless there are several.
        masks: which weights are there, of the same members.
        objectives: `(g, m)`, float64 on the CPU; NaN where the loss is not finite.
        losses: `(g,)`, float64 on the CPU.
        homes: the members' ranks, `(g,)`.
        gradients: of the losses, where a search needs them; of the members that are here.
    """

    tensors: Tensors
    masks: Masks
    objectives: Tensor
    losses: Tensor
    homes: Tensor
    gradients: Tensors | None = None

    def __len__(self) -> int:
        return len(self.losses)

    def take(self, indices: Tensor) -> "Members":
        """Some of them, copied; in one process."""
        gradients = None if self.gradients is None else rows(self.gradients, indices)
        return Members(
            rows(self.tensors, indices),
            rows(self.masks, indices),
            self.objectives[indices],
            self.losses[indices],
            self.homes[indices],
            gradients,
        )

    def compete(self, other: "Members", team: Team) -> Tensor:
        """Keep the best of these and others by NSGA-II, as many as these; newcomers fill gaps.

        In place, and what stays does not move: a population can be large, and newcomers few.

        Args:
            other: newcomers.
            team: the processes that the members are spread over.

        Returns:
            Where each member is from: an index into these and the others, one after another.
        """
        size = len(self)
        chosen = pareto.survivors(torch.cat([self.objectives, other.objectives]), size)
        new = chosen[chosen >= size]
        stays = torch.zeros(size, dtype=torch.bool).index_fill_(0, chosen[chosen < size], True)
        gaps = (~stays).nonzero().flatten()
        origins = torch.arange(size).index_copy_(0, gaps, new)
        known = [(self.objectives, other.objectives), (self.losses, other.losses)]
        if team.size > 1:
            self._move(other, origins, team)
        else:
            known += zip(self._parts(), other._parts(), strict=True)
        for mine, theirs in known:
            mine[gaps.to(mine.device)] = theirs[(new - size).to(theirs.device)]
        return origins

    def _move(self, other: "Members", origins: Tensor, team: Team) -> None:
        """Bring the members that these are from now on to where they are to be."""
        now = torch.cat([self.homes, other.homes])
        self.homes = balanced(now[origins], team.size)
        wanted = [origins[rows_at(self.homes, rank)] for rank in range(team.size)]
        theirs = other.travelling()
        union = {name: torch.cat([t, theirs[name]]) for name, t in self.travelling().items()}
        self.tensors, self.gradients = self.arrived(team.fetch(union, now, wanted))
        self.masks = masking.of_values(self.tensors, self.masks)

    def travelling(self) -> Tensors:
        """What processes hand each other of a member, in one dict; masks follow from it."""
        gradients = {f"gradient {name}": t for name, t in (self.gradients or {}).items()}
        return {**{f"tensor {name}": t for name, t in self.tensors.items()}, **gradients}

    def arrived(self, packed: Tensors) -> tuple[Tensors, Tensors]:
        """Tensors and gradients from what `travelling` gives."""
        tensors = {name: packed[f"tensor {name}"] for name in self.tensors}
        return tensors, {name: packed[f"gradient {name}"] for name in self.gradients or {}}

    def moved(self, packed: Tensors, homes: Tensor) -> "Members":
        """The same members where `homes` say, with what `travelling` gives of those here."""
        tensors, gradients = self.arrived(packed)
        masks = masking.of_values(tensors, self.masks)
        return replace(self, tensors=tensors, masks=masks, gradients=gradients or None, homes=homes)

    def _parts(self) -> list[Tensor]:
        gradients = self.gradients or {}
        return [*self.tensors.values(), *self.masks.values(), *gradients.values()]

    def densities(self, team: Team = ALONE) -> Tensor:
        """Share of each member's weights that are there, `(g,)`."""
        return team.gathered(masking.density(self.masks), self.homes)


def told(team: Team, worth: tuple[Tensor, Tensor], homes: Tensor) -> tuple[Tensor, Tensor]:
    """Objectives and losses of all members, from those of this process's."""
    return team.gathered(worth[0], homes), team.gathered(worth[1], homes)


def rows(tensors: Tensors, indices: Tensor) -> Tensors:
    """Rows of every stacked tensor, copied."""
    return {name: t[indices.to(t.device)] for name, t in tensors.items()}
