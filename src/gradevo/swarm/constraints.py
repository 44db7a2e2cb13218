"""Constraints of a minimisation: what is feasible comes first, whatever f is.

Deb's rules: a feasible place beats any that is not; of two feasible ones the lower f wins, of two
others the smaller violation. The violation is the sum over the constraints of how far each is
above its tolerance, in units of its mean size at the swarm's start, so that none counts for
nothing beside another.

A constraint that no start position of a swarm keeps is probably an equality, |h|: nearly no place
keeps it, and a swarm that heeds nothing else would stop at the first such place. It has an
allowance at first, the violation of the best fifth of the start positions, which shrinks to 0.85
of itself with every move until it is gone (the epsilon level of Takahama and Sakai). What is
*found* is always compared without any allowance.

Sources: Deb, "An efficient constraint handling method for genetic algorithms", 2000; Takahama and
Sakai, "Constrained optimization by the epsilon constrained differential evolution", 2006.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradevo.checkpoint import storable
from gradevo.operators.selection import finite_or_worst
from gradevo.swarm.dynamics import Dynamics, Swarm
from gradevo.swarm.evaluating import Batched, evaluated
from gradevo.swarm.search import start

SHRINKING, LEAST = 0.85, 1e-8  # of the allowance a move; the share below which it is gone
FIRST = 5  # the allowance is the violation of the best 1 / FIRST of the start positions


@storable
@dataclass(kw_only=True)
class Constrained(Swarm):
    """Swarms under constraints.

    The leader is the best under Deb's rules and the allowance.

    Attributes:
        excess: how far each particle's best place is above each tolerance, in the constraints'
            units, `(swarms, particles, constraints)`; 0 where a constraint holds.
        unit: of each constraint, `(swarms, constraints)`: its mean size at the start.
        allowance: of each constraint, likewise.
        best: the best place without any allowance, `(swarms, dims)`.
        best_loss: f there.
        best_excess: how far it is from being feasible, `(swarms,)`.
    """

    excess: Tensor
    unit: Tensor
    allowance: Tensor
    best: Tensor
    best_loss: Tensor
    best_excess: Tensor

    @property
    def found(self) -> Tensor:
        return self.best

    @property
    def found_loss(self) -> Tensor:
        return self.best_loss

    @property
    def feasible(self) -> Tensor:
        return self.best_excess == 0

    @property
    def settled(self) -> Tensor:
        return (self.allowance == 0).all(dim=1)


@dataclass(frozen=True)
class Limits:
    """Constraints, each kept where it is at most its tolerance."""

    functions: Sequence[Batched]
    tolerance: tuple[float, ...]

    def start(self, f: Batched, x: Tensor, dynamics: Dynamics) -> Constrained:
        """Swarms at rest, under constraints."""
        losses, sizes = evaluated(f, x), self._sizes(x)
        swarm = start(x, losses, dynamics)
        unit = _mean(sizes.abs())
        excess = self._excess(sizes, unit)
        first = max(1, x.shape[1] // FIRST) - 1
        lowest = excess.sort(dim=1).values
        none = (lowest[:, 0] > 0) & lowest[:, first].isfinite()
        constrained = Constrained(
            **vars(swarm),
            excess=excess,
            unit=unit,
            allowance=torch.where(none, lowest[:, first], 0.0),
            best=x[:, 0],
            best_loss=torch.full_like(swarm.pbest_loss[:, 0], torch.inf),
            best_excess=torch.full_like(excess[:, 0, 0], torch.inf),
        )
        return _led(constrained, x, swarm.pbest_loss, excess)

    def scored(self, f: Batched, swarm: Constrained) -> Constrained:
        """Bests after the positions' losses and constraints are known."""
        losses = finite_or_worst(evaluated(f, swarm.x)).to(swarm.pbest_loss.dtype)
        excess = self._excess(self._sizes(swarm.x), swarm.unit).to(swarm.excess.dtype)
        allowance = self._shrunk(swarm)
        before = distance(swarm.excess, swarm.pbest_loss, allowance)
        after = distance(excess, losses, allowance)
        better = (after < before) | ((after == before) & (losses < swarm.pbest_loss))
        there = better.unsqueeze(-1)
        swarm = replace(
            swarm,
            pbest=torch.where(there, swarm.x, swarm.pbest),
            pbest_loss=torch.where(better, losses, swarm.pbest_loss),
            excess=torch.where(there, excess, swarm.excess),
            allowance=allowance,
        )
        return _led(swarm, swarm.x, losses, excess)

    def distance(self, swarm: Constrained, losses: Tensor) -> Tensor:
        """How far the best places are from being feasible, computed anew, `(swarms,)`."""
        sizes = self._sizes(swarm.best.unsqueeze(1))
        excess = self._excess(sizes, swarm.unit)
        return distance(excess, finite_or_worst(losses).unsqueeze(1))[:, 0]

    def _sizes(self, x: Tensor) -> Tensor:
        """The constraints at `(swarms, particles, dims)`, `(swarms, particles, constraints)`."""
        found = [evaluated(g, x, f"constraints[{i}]") for i, g in enumerate(self.functions)]
        return torch.stack(found, dim=-1)

    def _shrunk(self, swarm: Constrained) -> Tensor:
        """The allowance after one more move; gone where it is no larger than the tolerance."""
        share = SHRINKING if SHRINKING**swarm.moves > LEAST else 0.0
        left = swarm.allowance * share
        return torch.where(left * swarm.unit > self._tolerances(swarm.unit), left, 0.0)

    def _tolerances(self, like: Tensor) -> Tensor:
        return torch.tensor(self.tolerance, dtype=like.dtype, device=like.device)

    def _excess(self, sizes: Tensor, unit: Tensor) -> Tensor:
        above = (sizes - self._tolerances(sizes)).clamp(min=0) / unit.unsqueeze(1)
        return torch.where(sizes.isnan(), torch.inf, above)


def distance(excess: Tensor, losses: Tensor, allowance: Tensor | float = 0.0) -> Tensor:
    """How far places are from being feasible, one number each; infinite without a finite f there.

    Args:
        excess: above the tolerances, `(swarms, particles, constraints)`.
        losses: f, `(swarms, particles)`; where a place is not feasible it need not be finite.
        allowance: of the constraints, `(swarms, constraints)`.
    """
    if isinstance(allowance, Tensor):
        allowance = allowance.unsqueeze(1)
    total = (excess - allowance).clamp(min=0).sum(dim=-1)
    return torch.where((total == 0) & losses.isinf(), torch.inf, total)


def _first(distances: Tensor, losses: Tensor) -> Tensor:
    """The best of the particles of each swarm, `(swarms,)`."""
    nearest = distances == distances.amin(dim=1, keepdim=True)
    finite = losses.clamp(max=torch.finfo(losses.dtype).max)
    return torch.where(nearest, finite, torch.inf).argmin(dim=1)


def _led(swarm: Constrained, x: Tensor, losses: Tensor, excess: Tensor) -> Constrained:
    """The leader, and the best place of all, once the newest positions are known."""
    leader = _first(distance(swarm.excess, swarm.pbest_loss, swarm.allowance), swarm.pbest_loss)
    distances = distance(excess, losses)
    rows, one = torch.arange(len(x), device=x.device), _first(distances, losses)
    loss, far = losses[rows, one], distances[rows, one]
    better = (far < swarm.best_excess) | ((far == swarm.best_excess) & (loss < swarm.best_loss))
    return replace(
        swarm,
        leader=leader,
        best=torch.where(better.unsqueeze(1), x[rows, one], swarm.best),
        best_loss=torch.where(better, loss, swarm.best_loss),
        best_excess=torch.where(better, far, swarm.best_excess),
    )


def _mean(sizes: Tensor) -> Tensor:
    """Mean over particles of what is finite; 1 where that is nothing or 0."""
    known = sizes.isfinite()
    total = torch.where(known, sizes, 0.0).sum(dim=1) / known.sum(dim=1)
    return torch.where((total > 0) & total.isfinite(), total, 1.0)
