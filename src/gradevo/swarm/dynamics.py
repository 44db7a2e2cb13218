"""How particles move: PSO, momentum PSO, EMPSO and REMPSO, one update rule each.

Mohapatra et al., "AdaSwarm: Augmenting Gradient-Based optimizers in Deep Learning with Swarm
Intelligence", equations (1) to (6), Algorithm 1 and section 5 of its supplement. Everything
acts on `(swarms, particles, dims)`: independent swarms side by side.

    pull   c1 r1 (pbest - x) + c2 r2 (gbest - x), the exploitation terms
    v      velocity; x <- x + v
    m      exponentially averaged velocity (momentum PSO: the velocity of the step before)

Deviations:
    - r1 and r2 are drawn for every entry, not for every particle: drawn per particle, a swarm
      never leaves the span of its first positions. `per_entry=False` is the paper's.
    - Algorithm 1 of the paper averages the new velocity into m, equation (5) the old one; this
      is equation (5).
    - Plain PSO is bounded by its own stability region, which allows the usual setting
      (w 0.7298, c 1.496); the bound c1 + c2 <= 2 is the supplement's, for momentum.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from gradevo.checkpoint import storable
from gradevo.swarm.rotation import givens, principal_axes
from gradevo.validation import flag, not_negative, number, one_of, positive, share


@storable
@dataclass
class Swarm:
    """Swarms under way.

    Attributes:
        x: positions, `(swarms, particles, dims)`.
        v: velocities.
        m: momenta.
        pbest: best position of each particle.
        pbest_loss: its loss, `(swarms, particles)`; infinity where none was finite yet.
        leader: the particle that last set gbest, `(swarms,)`.
        cr1: c1 r1 averaged over the particles at the last move, `(swarms, 1, dims or 1)`.
        cr2: c2 r2 likewise.
        moves: moves made.
    """

    x: Tensor
    v: Tensor
    m: Tensor
    pbest: Tensor
    pbest_loss: Tensor
    leader: Tensor
    cr1: Tensor
    cr2: Tensor
    moves: int = 0

    def of_leader(self, values: Tensor) -> Tensor:
        """The leader's part of `(swarms, particles, ...)`, as `(swarms, ...)`."""
        return values[torch.arange(len(values), device=values.device), self.leader]

    @property
    def gbest(self) -> Tensor:
        """Best position of each swarm, `(swarms, dims)`."""
        return self.of_leader(self.pbest)

    @property
    def gbest_loss(self) -> Tensor:
        """Its loss, `(swarms,)`."""
        return self.of_leader(self.pbest_loss)

    @property
    def found(self) -> Tensor:
        """The best place, which constraints may tell from the leader's, `(swarms, dims)`."""
        return self.gbest

    @property
    def found_loss(self) -> Tensor:
        """f there, `(swarms,)`."""
        return self.gbest_loss

    @property
    def feasible(self) -> Tensor:
        """Whether that place keeps all constraints, `(swarms,)`."""
        return torch.ones_like(self.leader, dtype=torch.bool)

    @property
    def settled(self) -> Tensor:
        """Whether no constraint has an allowance any more, `(swarms,)`."""
        return torch.ones_like(self.leader, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class Dynamics(ABC):
    """What all update rules share.

    Attributes:
        c1: cognitive pull, to the particle's own best.
        c2: social pull, to the swarm's best.
        per_entry: r1, r2 for every entry; False: one number a particle (the paper).
        clamp: largest speed per entry; None: none.
        bounce: share of its speed that a particle keeps at a wall of its box, where it stops and
            turns round; 0: it stays there until it is pulled away. Measured: docs/results/walls.md.
        allow_unstable: accept parameters outside the stability region.

    Raises:
        ValueError: a field out of range, or outside the stability region.
    """

    c1: float = 0.8
    c2: float = 0.9
    per_entry: bool = True
    clamp: float | None = None
    bounce: float = 0.5
    allow_unstable: bool = False

    def __post_init__(self) -> None:
        rules = {"c1": not_negative, "c2": not_negative, "bounce": share, "rotated": share}
        for field in fields(self):
            name, value, default = field.name, getattr(self, field.name), field.default
            if isinstance(default, float):
                object.__setattr__(self, name, float(rules.get(name, number)(name, value)))
            elif isinstance(default, bool):
                object.__setattr__(self, name, flag(name, value))
        if self.clamp is not None:
            object.__setattr__(self, "clamp", float(positive("clamp", self.clamp)))
        if not self.allow_unstable and (broken := self.unstable()):
            raise ValueError(f"{broken}; allow_unstable=True accepts it all the same")

    def unstable(self) -> str | None:
        """Which stability bound does not hold, and the value that breaks it."""
        total = self.c1 + self.c2
        return None if total <= 2 else f"c1 + c2: must be at most 2 to be stable, got {total:g}"

    def draw(self, swarm: Swarm, generator: Generator | None) -> Tensor:
        """r, uniform on [0, 1): one a particle, or one an entry."""
        swarms, particles, dims = swarm.x.shape
        shape = (swarms, particles, dims if self.per_entry else 1)
        return torch.rand(shape, generator=generator, dtype=swarm.x.dtype, device=swarm.x.device)

    def pull(self, swarm: Swarm, cr1: Tensor, cr2: Tensor, generator: Generator | None) -> Tensor:
        """c1 r1 (pbest - x) + c2 r2 (gbest - x)."""
        own = (swarm.pbest - swarm.x).mul_(cr1)
        return own.add_((swarm.gbest.unsqueeze(1) - swarm.x).mul_(cr2))

    @abstractmethod
    def velocity(self, swarm: Swarm, pull: Tensor) -> tuple[Tensor, Tensor]:
        """The next v and m."""


@dataclass(frozen=True, kw_only=True)
class PSO(Dynamics):
    """Particle swarm with inertia (eq. 1).

    Attributes:
        w: inertia.

    Example:
        >>> PSO(w=0.5).w
        0.5

    Source: Kennedy and Eberhart 1995. Stability: Poli, "Mean and variance of the sampling
    distribution of particle swarm optimizers during stagnation", 2009.
    """

    c1: float = 1.49618
    c2: float = 1.49618
    w: float = 0.7298

    def unstable(self) -> str | None:
        """The positions' variance must not grow: c1 + c2 < 24 (1 - w^2) / (7 - 5 w)."""
        if not 0 <= self.w < 1:
            return f"w: must lie in [0, 1) to be stable, got {self.w!r}"
        total, most = self.c1 + self.c2, 24 * (1 - self.w**2) / (7 - 5 * self.w)
        if total < most:
            return None
        return f"c1 + c2: must be below {most:.3f} to be stable with w {self.w:g}, got {total:g}"

    def velocity(self, swarm: Swarm, pull: Tensor) -> tuple[Tensor, Tensor]:
        return pull.add_(swarm.v, alpha=self.w), swarm.m  # eq. (1)


@dataclass(frozen=True, kw_only=True)
class MomentumPSO(Dynamics):
    """Particle swarm with momentum (eq. 3): the velocity before last has weight lambda.

    Attributes:
        lam: lambda, in [0, 1).

    Source: Xiang, Wang and Liao, "An improved particle swarm optimizer with momentum", 2007.
    """

    lam: float = 0.2

    def unstable(self) -> str | None:
        if not 0 <= self.lam < 1:
            return f"lam: must lie in [0, 1) to be stable, got {self.lam!r}"
        return super().unstable()

    def velocity(self, swarm: Swarm, pull: Tensor) -> tuple[Tensor, Tensor]:
        v = (swarm.v + pull).mul_(1 - self.lam).add_(swarm.m, alpha=self.lam)  # eq. (3)
        return v, swarm.v


@dataclass(frozen=True, kw_only=True)
class EMPSO(Dynamics):
    """Particle swarm with exponentially averaged momentum (eqs. 4 to 6).

    Attributes:
        beta: momentum factor, in (0, 1).
        bias_correction: divide m by 1 - beta^t, as Adam does.

    Example:
        >>> EMPSO(beta=1.0)
        Traceback (most recent call last):
        ...
        ValueError: beta: must lie in (0, 1) to be stable, got 1.0; allow_unstable=True ...
    """

    beta: float = 0.9
    bias_correction: bool = False

    def unstable(self) -> str | None:
        """0 < beta < 1 and 0 <= c1 + c2 <= 2 (supplement, section 6)."""
        if not 0 < self.beta < 1:
            return f"beta: must lie in (0, 1) to be stable, got {self.beta!r}"
        return super().unstable()

    def velocity(self, swarm: Swarm, pull: Tensor) -> tuple[Tensor, Tensor]:
        m = (self.beta * swarm.m).add_(swarm.v, alpha=1 - self.beta)  # eq. (5)
        correction = 1 - self.beta ** (swarm.moves + 1) if self.bias_correction else 1.0
        return pull.add_(m, alpha=1 / correction), m  # eq. (4)


@dataclass(frozen=True, kw_only=True)
class REMPSO(EMPSO):
    """EMPSO whose pulls act along rotated axes: A^T diag(c r) A (best - x).

    Attributes:
        axes: "pairs" rotates a random share of the axes, two by two, in O(dims);
            "covariance" takes the principal axes of the swarm, a dims x dims matrix a swarm.
        angle: theta, radians; for "pairs".
        rotated: share of the axes that are rotated; for "pairs".

    Raises:
        ValueError: also with per_entry=False, where one r for all axes would cancel A.

    Source: supplement, section 5; Hatanaka et al., "Search performance improvement for PSO in
    high dimensional space", 2009.
    """

    axes: Literal["pairs", "covariance"] = "pairs"
    angle: float = math.pi / 5
    rotated: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("axes", self.axes, ("pairs", "covariance"))
        if not self.per_entry:
            raise ValueError(
                "per_entry: must be True for REMPSO, got False; one r for all axes of a particle "
                "would make the rotation cancel itself"
            )

    def pull(self, swarm: Swarm, cr1: Tensor, cr2: Tensor, generator: Generator | None) -> Tensor:
        """A^T [c1 r1 A (pbest - x) + c2 r2 A (gbest - x)]."""
        if self.axes == "pairs":
            turn = givens(swarm.x.shape[-1], self.rotated, self.angle, generator, swarm.x)
        else:
            turn = principal_axes(swarm.x)
        own = turn.forward(swarm.pbest - swarm.x).mul_(cr1)
        social = turn.forward(swarm.gbest.unsqueeze(1) - swarm.x).mul_(cr2)
        return turn.back(own.add_(social))


def dynamics_of(given: Any, default: Dynamics) -> Dynamics:
    """The dynamics that were given, or else the default.

    Raises:
        TypeError: something else was given.
    """
    if given is None:
        return default
    if not isinstance(given, Dynamics):
        raise TypeError(f"dynamics: must be a config, EMPSO() for example, got {given!r}")
    return given
