"""Where particles start, and the box they stay in."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from gradevo.swarm.gradient import apart, around
from gradevo.swarm.numbers import Numbers, numbers, own_dtype, size
from gradevo.swarm.search import Box
from gradevo.validation import positive, seed

Bounds = tuple[Numbers, Numbers]


def places(
    bounds: Bounds | None,
    x0: Sequence[float] | np.ndarray | Tensor | None,
    *,
    particles: int,
    swarms: int,
    spread: float,
    seed: int,
) -> tuple[Tensor, Box | None, Generator]:
    """Start positions, the box and the generator that drew them.

    Args:
        bounds: lowest and highest position, each a number or one a dimension. Without `x0`,
            particles start uniformly between them.
        x0: positions `(particles, dims)` or `(swarms, particles, dims)`, taken as they are; or
            one point `(dims,)`, where particle 0 starts, with the others around it.
        particles: of each swarm, where x0 does not say.
        swarms: likewise.
        spread: half the width of the cube around one point.
        seed: of the generator.

    Returns:
        Positions `(swarms, particles, dims)`; their dtype is x0's or else the bounds': NumPy's
        and tensors' own, torch's default for Python's floats. Their device likewise.

    Raises:
        ValueError: arguments that do not fit each other.
    """
    particles, swarms = size("particles", particles, 2), size("swarms", swarms, 1)
    spread = float(positive("spread", spread))
    sides = sides_of(bounds)
    if x0 is None:
        return _anywhere(sides, particles, swarms, seed)
    point = numbers("x0", x0, *(own_dtype("bounds", side) for side in sides or ()))
    if not 1 <= point.dim() <= 3 or point.numel() == 0:
        raise ValueError(
            "x0: must have shape (dims,), (particles, dims) or (swarms, particles, dims), got "
            f"{tuple(point.shape)}"
        )
    box = box_of(sides, point)
    generator = generator_of(seed, point.device)
    if box is not None and not torch.equal(box.clip(point), point):
        raise ValueError("x0: must lie within bounds, got a position outside")
    if point.dim() > 1:
        return _given(point, swarms), box, generator
    x = apart(around(point.expand(swarms, -1), particles, spread, generator), spread)
    x[:, 0] = point
    return x if box is None else box.clip(x), box, generator


def generator_of(start: Any, device: torch.device) -> Generator:
    """A generator started from a seed."""
    return torch.Generator(device).manual_seed(seed("seed", start))


def sides_of(bounds: Any) -> tuple[Any, Any] | None:
    """The lowest and the highest positions, if there are bounds."""
    if bounds is None:
        return None
    known = isinstance(bounds, tuple | list | np.ndarray | Tensor)
    if not known or getattr(bounds, "ndim", 1) == 0 or len(bounds) != 2:
        raise ValueError(f"bounds: must be a pair (low, high), got {bounds!r}")
    return bounds[0], bounds[1]


def box_of(sides: tuple[Any, Any] | None, like: Tensor) -> Box | None:
    """Bounds as a box beside positions `(..., dims)`."""
    if sides is None:
        return None
    dims = like.shape[-1]
    low, high = (numbers("bounds", side, like=like, endless=True) for side in sides)
    for side in (low, high):
        if side.shape not in ((), (dims,)):
            raise ValueError(
                f"bounds: must be numbers or have one entry for each of {dims} dimensions, got "
                f"shape {tuple(side.shape)}"
            )
    if not bool((low < high).all()):
        raise ValueError(f"bounds: low must be below high in every dimension, got {sides!r}")
    return Box(low, high)


def _anywhere(
    sides: tuple[Any, Any] | None, particles: int, swarms: int, seed: int
) -> tuple[Tensor, Box | None, Generator]:
    """Positions uniform in the box, which must say by itself how many dimensions it has."""
    if sides is None:
        raise ValueError("bounds: must be given where x0 is not, got neither")
    dtypes = [own_dtype("bounds", side) for side in sides]
    low, high = (numbers("bounds", side, *dtypes) for side in sides)
    like = low if low.dim() else high
    if like.dim() != 1 or like.numel() == 0:
        raise ValueError(
            f"bounds: must have one entry a dimension where x0 is not given, got {sides!r}"
        )
    tensors = [side for side in sides if isinstance(side, Tensor)]
    like = like.to(tensors[0].device) if tensors else like
    generator, box = generator_of(seed, like.device), box_of(sides, like)
    assert box is not None
    shape, width = (swarms, particles, len(like)), torch.as_tensor(box.high - box.low)
    if not bool(width.isfinite().all()):
        raise ValueError(f"bounds: must be a finite distance apart, got {sides!r}")
    x = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
    return box.clip(x.mul_(width).add_(box.low)), box, generator


def _given(x: Tensor, swarms: int) -> Tensor:
    """Positions as they came, `(swarms, particles, dims)`, once they are seen to fit."""
    x = x.clone() if x.dim() == 3 else x.unsqueeze(0).clone()
    if x.shape[1] < 2:
        raise ValueError(f"x0: must have at least 2 particles, got {x.shape[1]}")
    if swarms not in (1, len(x)):
        raise ValueError(f"swarms: must be left out or what x0 has, {len(x)}, got {swarms}")
    return x
