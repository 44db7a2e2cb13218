"""The gradient of any function you can evaluate, at a point."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gradevo.swarm.dynamics import EMPSO, Dynamics
from gradevo.swarm.estimators import ESTIMATORS, Cloud
from gradevo.swarm.search import Box, move, score, start
from gradevo.validation import at_least, one_of, positive

Batched = Callable[[Tensor], Tensor]


class Estimate(NamedTuple):
    """A gradient and what it cost.

    Attributes:
        direction: the ascent direction, of w's shape.
        evaluations: of the function, for each w.
    """

    direction: Tensor
    evaluations: int


def gradient(
    f: Batched,
    w: Tensor,
    *,
    estimator: str = "regression",
    particles: int | None = None,
    iterations: int = 0,
    spread: float = 0.01,
    dynamics: Dynamics | None = None,
    eta: float = 0.1,
    generator: Generator | None = None,
) -> Estimate:
    """Estimate the gradient of a function from its values alone.

    Args:
        f: takes `(n, dims)`, returns `(n,)`; only evaluated.
        w: where, `(dims,)`, or `(swarms, dims)` for many points at once.
        estimator: one of `ESTIMATORS`; `regression` has the gradient's size too.
        particles: points around w; default 2 dims + 1.
        iterations: moves of the swarm; 0 is one shot. All points visited are used.
        spread: half the width of the cube around w in which particles start.
        dynamics: how particles move; default `EMPSO()`.
        eta: the papers' learning rate, in `near` and `starred` only.
        generator: of random numbers; default: one started from 0.

    Returns:
        The ascent direction and the number of evaluations of f for each w.

    Raises:
        ValueError: an argument out of range, or f returns another shape.

    Example:
        >>> w = torch.tensor([1.0, -2.0], dtype=torch.float64)
        >>> gradient(lambda x: x.square().sum(dim=1), w).direction.round(decimals=1)
        tensor([ 2., -4.], dtype=torch.float64)
    """
    one_of("estimator", estimator, ESTIMATORS)
    positive("spread", spread)
    positive("eta", eta)
    flat = w.detach().reshape(-1, w.shape[-1])
    n = 2 * flat.shape[1] + 1 if particles is None else particles
    at_least("particles", n, 2)
    at_least("iterations", iterations, 0)
    generator = generator or torch.Generator(flat.device).manual_seed(0)
    x = around(flat, n, spread, generator)
    cloud = visit(
        lambda x: evaluated(f, x), flat, x, dynamics or EMPSO(), iterations, generator, eta=eta
    )
    if not bool(cloud.losses.isfinite().any(dim=1).all()):
        raise ValueError(
            "f: must be finite for at least one point around each w, got NaN or infinity for all"
        )
    return Estimate(ESTIMATORS[estimator](cloud).view_as(w), n * (iterations + 1))


def around(w: Tensor, particles: int, spread: float, generator: Generator | None) -> Tensor:
    """Positions uniform in a cube around each w, `(swarms, particles, dims)`."""
    offsets = w.new_empty(len(w), particles, w.shape[1])
    return offsets.uniform_(-spread, spread, generator=generator).add_(w.unsqueeze(1))


def visit(
    evaluate: Batched,
    w: Tensor,
    x: Tensor,
    dynamics: Dynamics,
    iterations: int,
    generator: Generator | None,
    *,
    box: Box | None = None,
    eta: float = 0.1,
) -> Cloud:
    """Evaluate start positions and the swarm's moves; all of it is in the cloud.

    Args:
        evaluate: takes `(swarms, particles, dims)`, returns `(swarms, particles)`.
        w: where the gradient is wanted.
        x: start positions.
        dynamics: how particles move.
        iterations: how often.
        generator: of random numbers.
        box: bounds of positions.
        eta: see `Cloud`.
    """
    losses = evaluate(x)
    swarm = start(x, losses, dynamics)
    points, values = [x], [losses]
    for _ in range(iterations):
        swarm = move(swarm, dynamics, generator, box)
        losses = evaluate(swarm.x)
        swarm = score(swarm, losses)
        points.append(swarm.x)
        values.append(losses)
    if iterations == 0:
        return Cloud(w, x, losses, swarm, eta)
    return Cloud(w, torch.cat(points, dim=1), torch.cat(values, dim=1), swarm, eta)


def evaluated(f: Batched, x: Tensor, name: str = "f") -> Tensor:
    """f at `(swarms, particles, dims)`, as `(swarms, particles)` in the positions' dtype.

    Raises:
        ValueError: f does not return one number a point; the message calls it `name`.
    """
    n = x.shape[0] * x.shape[1]
    values = f(x.reshape(n, x.shape[2]))
    if not isinstance(values, Tensor) or values.shape != (n,):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"{name}: must return one number a point, shape ({n},) for {n} points, got {got}"
        )
    return values.detach().view(x.shape[:2]).to(x.dtype)
