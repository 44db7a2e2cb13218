"""The gradient of any function you can evaluate, at a point."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gradevo.swarm.dynamics import EMPSO, Dynamics, dynamics_of
from gradevo.swarm.estimators import ESTIMATORS, Cloud, rate
from gradevo.swarm.evaluating import Batched, Points, evaluated
from gradevo.swarm.numbers import Numbers, fitting, numbers, size
from gradevo.swarm.search import Box, move, score, start
from gradevo.validation import at_least, one_of, positive


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
    w: Numbers,
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
        f: takes `(n, dims)`, returns `(n,)`, a tensor or NumPy's array; only evaluated. If it
            writes into what it is given, that is a copy.
        w: where, `(dims,)`, or `(swarms, dims)` for many points at once; of float32 or float64.
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
        TypeError: an argument of another kind.

    Example:
        >>> w = torch.tensor([1.0, -2.0], dtype=torch.float64)
        >>> gradient(lambda x: x.square().sum(dim=1), w).direction.round(decimals=1)
        tensor([ 2., -4.], dtype=torch.float64)
    """
    estimator = one_of("estimator", estimator, ESTIMATORS)
    spread, eta = float(positive("spread", spread)), rate("eta", eta)
    iterations, rule = at_least("iterations", iterations, 0), dynamics_of(dynamics, EMPSO())
    points, place = Points("f", f), numbers("w", w)
    if place.dim() == 0 or place.numel() == 0:
        raise ValueError(f"w: must have shape (dims,) or (swarms, dims), got {tuple(place.shape)}")
    flat = place.reshape(-1, place.shape[-1])
    n = 2 * flat.shape[1] + 1 if particles is None else size("particles", particles, 2)
    generator = fitting(generator, flat.device)
    x = apart(around(flat, n, spread, generator), spread)
    cloud = visit(lambda x: evaluated(points, x), flat, x, rule, iterations, generator, eta=eta)
    if not bool(cloud.losses.isfinite().any(dim=1).all()):
        raise ValueError(
            "f: must be finite for at least one point around each w, got NaN or infinity for all"
        )
    return Estimate(ESTIMATORS[estimator](cloud).view_as(place), n * (iterations + 1))


def around(w: Tensor, particles: int, spread: float, generator: Generator | None) -> Tensor:
    """Positions uniform in a cube around each w, `(swarms, particles, dims)`."""
    if spread > torch.finfo(w.dtype).max / 2:
        raise ValueError(f"spread: must be a number of {w.dtype}, like positions, got {spread}")
    offsets = w.new_empty(len(w), particles, w.shape[1])
    return offsets.uniform_(-spread, spread, generator=generator).add_(w.unsqueeze(1))


def apart(x: Tensor, spread: float) -> Tensor:
    """Positions that were drawn in a cube.

    Raises:
        ValueError: rounding has made them one in a dimension.
    """
    if bool((x == x[:, :1]).all(dim=1).any()):
        raise ValueError(
            f"spread: must be wide enough to tell particles apart in {x.dtype} where they are, "
            f"got {spread}"
        )
    return x


def visit(
    evaluate: Callable[[Tensor], Tensor],
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
    if iterations == 0:
        return Cloud(w, x, losses, swarm, eta)
    points, values = [x], [losses.clone()]  # a function may return the same tensor every time
    for _ in range(iterations):
        swarm = move(swarm, dynamics, generator, box)
        losses = evaluate(swarm.x)
        swarm = score(swarm, losses)
        points.append(swarm.x)
        values.append(losses.clone())
    return Cloud(w, torch.cat(points, dim=1), torch.cat(values, dim=1), swarm, eta)
