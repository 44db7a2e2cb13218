"""A swarm's steps: start, move, score."""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from gradevo.operators.selection import finite_or_worst
from gradevo.swarm.dynamics import Dynamics, Swarm


@dataclass(frozen=True)
class Box:
    """Bounds of positions, each a number or something that broadcasts to `(dims,)`."""

    low: Tensor | float
    high: Tensor | float

    def clip(self, x: Tensor) -> Tensor:
        """The nearest positions inside."""
        return x.clamp(min=self.low).clamp_(max=self.high)


def start(x: Tensor, losses: Tensor, dynamics: Dynamics) -> Swarm:
    """Swarms at rest.

    Args:
        x: positions, `(swarms, particles, dims)`.
        losses: of these positions, `(swarms, particles)`; NaN counts as infinity.
        dynamics: gives the averages of c1 r1 and c2 r2 until the first move: their means.
    """
    worst = finite_or_worst(losses)
    mean = x.new_full((x.shape[0], 1, x.shape[2] if dynamics.per_entry else 1), 0.5)
    return Swarm(
        x=x,
        v=torch.zeros_like(x),
        m=torch.zeros_like(x),
        pbest=x,
        pbest_loss=worst,
        leader=worst.argmin(dim=1),
        cr1=dynamics.c1 * mean,
        cr2=dynamics.c2 * mean,
    )


def move(
    swarm: Swarm, dynamics: Dynamics, generator: Generator | None, box: Box | None = None
) -> Swarm:
    """The swarms one step on; pbest and gbest are those from before, until `score`.

    A particle that would leave the box stops at its wall, and turns round: see `Dynamics.bounce`.
    """
    cr1 = dynamics.draw(swarm, generator).mul_(dynamics.c1)
    cr2 = dynamics.draw(swarm, generator).mul_(dynamics.c2)
    pull = dynamics.pull(swarm, cr1, cr2, generator)
    means = {"cr1": cr1.mean(dim=1, keepdim=True), "cr2": cr2.mean(dim=1, keepdim=True)}
    del cr1, cr2  # as large as the swarm
    v, m = dynamics.velocity(swarm, pull)
    if dynamics.clamp is not None:
        most = min(dynamics.clamp, torch.finfo(v.dtype).max)
        v = v.clamp(-most, most)
    x = swarm.x + v  # eq. (2)
    if box is not None:
        inside = box.clip(x)
        v = torch.where(inside == x, v, -dynamics.bounce * v)
        x = inside
    return replace(swarm, x=x, v=v, m=m, moves=swarm.moves + 1, **means)


def score(swarm: Swarm, losses: Tensor) -> Swarm:
    """pbest and gbest after the losses of the positions, `(swarms, particles)`, are known.

    NaN and infinity never become a best. Equal to the best is not better.
    """
    losses = finite_or_worst(losses).to(swarm.pbest_loss.dtype)
    better = losses < swarm.pbest_loss
    pbest = torch.where(better.unsqueeze(-1), swarm.x, swarm.pbest)
    pbest_loss = torch.where(better, losses, swarm.pbest_loss)
    challenger = pbest_loss.argmin(dim=1)
    won = pbest_loss.gather(1, challenger[:, None])[:, 0] < swarm.gbest_loss
    leader = torch.where(won, challenger, swarm.leader)
    return replace(swarm, pbest=pbest, pbest_loss=pbest_loss, leader=leader)
