"""Gradient descent, and SGD with momentum, with a swarm's estimate in place of the gradient.

Mohapatra et al., "AdaSwarm", section III and tables I to III. A swarm minimises the function;
beside it, w descends:

    momentum 0     w <- w - lr grad(w), eq. (11)
    otherwise      V <- momentum V + (1 - momentum) grad(w);  w <- w - lr V, eq. (16)
    grad           (c1 r1 + c2 r2) / lr (w - gbest), eq. (15); "starred" subtracts the leader's
                   velocity, eq. (19)

lr cancels without momentum: w <- w - (c1 r1 + c2 r2) (w - gbest), and with c1 0.8, c2 0.9 the
distance to gbest shrinks to 0.15 of itself an iteration, on average, whatever lr and f are. What
is measured is how fast the swarm's gbest arrives.

Deviations:
    - The paper's gradient has the sign of a descent step; here it ascends, as autograd's.
    - The paper names no inertia for its PSO; its proof sets it equal to lr (section III-A), 0.1
      in the tables. With 0.1, up to a third of 20-particle swarms stall before the minimum
      (docs/results/raw/swarm-functions.jsonl), so the default is PSO's usual 0.7298;
      `dynamics=PSO(c1=0.8, c2=0.9, w=0.1)` is the proof's.
    - With bounds, w stays in the box like the particles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradevo.denormals import flushed
from gradevo.swarm.dynamics import EMPSO, PSO, Dynamics, Swarm, dynamics_of
from gradevo.swarm.estimators import ESTIMATORS, Cloud, rate
from gradevo.swarm.evaluating import Batched, Points, evaluated, some_finite
from gradevo.swarm.numbers import Numbers, numbers
from gradevo.swarm.positions import Bounds, places
from gradevo.swarm.search import move, score, start
from gradevo.validation import at_least, is_number, one_of, plain


@dataclass(frozen=True)
class Emulation:
    """The descent of w beside each swarm.

    Attributes:
        path: w after 0, 1, ... iterations, `(iterations + 1, swarms, dims)`.
        values: f there, `(iterations + 1, swarms)`.
        evaluations: of f by each swarm; those of `values` are not counted.
        swarm: as it was at the end.
    """

    path: Tensor
    values: Tensor
    evaluations: int
    swarm: Swarm

    def hit(self, tolerance: float, minimum: float) -> Tensor:
        """First iteration at which f is within `tolerance` of `minimum`: see `first_hit`."""
        return first_hit(self.values, tolerance, minimum)

    def settled(self, tolerance: float, minimum: float) -> Tensor:
        """First iteration from which on f stays there: see `settling`."""
        return settling(self.values, tolerance, minimum)


def first_hit(values: Tensor, tolerance: float, minimum: float) -> Tensor:
    """First row within `tolerance` of `minimum`, a column; infinity if none is.

    Args:
        values: of a function along paths, `(iterations + 1, paths)`; NaN is never near.
        tolerance: on both sides.
        minimum: of the function.

    Returns:
        `(paths,)`, float64, so that a median and "at most 20" need no special cases.
    """
    return _first((values - minimum).abs() <= tolerance)


def settling(values: Tensor, tolerance: float, minimum: float) -> Tensor:
    """First row from which on all are near, as for `first_hit`; infinity if the last is not."""
    near = (values - minimum).abs() <= tolerance
    return _first(near.long().flip(0).cummin(dim=0).values.flip(0).bool())


def _first(true: Tensor) -> Tensor:
    """First row that is true in each column; infinity where none is."""
    return torch.where(true.any(dim=0), true.long().argmax(dim=0).double(), torch.inf)


@torch.no_grad()
def emulate(
    f: Batched,
    x0: Sequence[float] | np.ndarray | Tensor | None = None,
    *,
    bounds: Bounds | None = None,
    w0: Numbers | None = None,
    lr: float = 0.1,
    momentum: float = 0.0,
    iterations: int = 100,
    particles: int = 20,
    swarms: int = 1,
    spread: float = 1.0,
    dynamics: Dynamics | None = None,
    estimator: str = "near",
    seed: int = 0,
) -> Emulation:
    """Gradient descent with the gradient of a swarm that searches beside it.

    Args:
        f: takes `(n, dims)`, returns `(n,)`, a tensor or NumPy's array; only evaluated.
        x0: where particles start: see `minimize`.
        bounds: box of particles and w; particles start in it where x0 is not given.
        w0: where w starts, `(dims,)` or `(swarms, dims)`; default: at particle 0.
        lr: learning rate, eta.
        momentum: beta, in [0, 1); 0 is gradient descent.
        iterations: moves of the swarm and of w.
        particles: of each swarm.
        swarms: how many, each with its own w.
        spread: half the width of the cube around one point x0.
        dynamics: default: `PSO(c1=0.8, c2=0.9)`, or with momentum `EMPSO(beta=momentum)`.
        estimator: "near" or "starred".
        seed: all random numbers follow from it.

    Returns:
        The path of w and its values.

    Raises:
        ValueError: an argument out of range; f returns another shape, or is finite at none of the
            start positions.
        TypeError: an argument of another kind.

    Example:
        >>> run = emulate(lambda x: x.abs().sum(dim=1), bounds=([-2.0], [2.0]), iterations=50)
        >>> run.path.shape, bool(run.settled(0.01, minimum=0.0) < 50)
        (torch.Size([51, 1, 1]), True)
    """
    lr, momentum = rate("lr", lr), plain(momentum)
    if not is_number(momentum) or not 0 <= momentum < 1:
        raise ValueError(f"momentum: must lie in [0, 1), got {momentum!r}")
    iterations = at_least("iterations", iterations, 0)
    estimator = one_of("estimator", estimator, ("near", "starred"))
    usual = EMPSO(beta=momentum) if momentum else PSO(c1=0.8, c2=0.9)
    points, rule = Points("f", f), dynamics_of(dynamics, usual)
    x, box, generator = places(
        bounds, x0, particles=particles, swarms=swarms, spread=spread, seed=seed
    )
    losses = some_finite(evaluated(points, x))
    swarm, w = start(x, losses, rule), _first_w(w0, x)
    path, velocity = [w], torch.zeros_like(w)
    with flushed():
        for _ in range(iterations):
            swarm = move(swarm, rule, generator, box)
            losses = evaluated(points, swarm.x)
            swarm = score(swarm, losses)
            gradient = ESTIMATORS[estimator](Cloud(w, swarm.x, losses, swarm, eta=lr))
            velocity = momentum * velocity + (1 - momentum) * gradient  # eq. (16)
            w = w - lr * velocity
            w = w if box is None else box.clip(w)
            path.append(w)
    whole = torch.stack(path)  # (iterations + 1, swarms, dims)
    return Emulation(whole, evaluated(points, whole), x.shape[1] * (iterations + 1), swarm)


def _first_w(w0: Numbers | None, x: Tensor) -> Tensor:
    """Where w starts, `(swarms, dims)`."""
    if w0 is None:
        return x[:, 0]
    swarms, _, dims = x.shape
    w = numbers("w0", w0, like=x)
    if w.shape not in ((dims,), (swarms, dims)):
        raise ValueError(
            f"w0: must have shape ({dims},) or ({swarms}, {dims}), got {tuple(w.shape)}"
        )
    return w.expand(swarms, dims)
