"""Where particles start, and the box they stay in."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from gradevo.swarm.gradient import around
from gradevo.swarm.search import Box
from gradevo.validation import at_least, not_negative

Numbers = float | Sequence[float] | Tensor
Bounds = tuple[Numbers, Numbers]


def places(
    bounds: Bounds | None,
    x0: Sequence[float] | Tensor | None,
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
        Positions `(swarms, particles, dims)`, in x0's dtype and on its device, else in those of
        the bounds.

    Raises:
        ValueError: arguments that do not fit each other.
    """
    at_least("particles", particles, 2)
    at_least("swarms", swarms, 1)
    not_negative("spread", spread)
    if bounds is not None and len(bounds) != 2:
        raise ValueError(f"bounds: must be a pair (low, high), got {bounds!r}")
    if x0 is None:
        return _anywhere(bounds, particles, swarms, seed)
    point = _floats("x0", x0)
    if not 1 <= point.dim() <= 3 or point.numel() == 0:
        raise ValueError(
            "x0: must have shape (dims,), (particles, dims) or (swarms, particles, dims), got "
            f"{tuple(point.shape)}"
        )
    box = None if bounds is None else box_of(bounds, point)
    generator = torch.Generator(point.device).manual_seed(seed)
    if box is not None and not torch.equal(box.clip(point), point):
        raise ValueError("x0: must lie within bounds, got a position outside")
    if point.dim() > 1:
        return _given(point, swarms), box, generator
    x = around(point.expand(swarms, -1), particles, spread, generator)
    x[:, 0] = point
    return x if box is None else box.clip(x), box, generator


def box_of(bounds: Bounds, like: Tensor) -> Box:
    """Bounds as a box beside positions `(..., dims)`."""
    dims = like.shape[-1]
    low, high = (torch.as_tensor(side, dtype=like.dtype, device=like.device) for side in bounds)
    for side in (low, high):
        if side.shape not in ((), (dims,)):
            raise ValueError(
                f"bounds: must be numbers or have one entry for each of {dims} dimensions, got "
                f"shape {tuple(side.shape)}"
            )
    if not bool((low < high).all()):
        raise ValueError(f"bounds: low must be below high in every dimension, got {bounds!r}")
    return Box(low, high)


def _anywhere(
    bounds: Bounds | None, particles: int, swarms: int, seed: int
) -> tuple[Tensor, Box, Generator]:
    """Positions uniform in the box, which must say by itself how many dimensions it has."""
    if bounds is None:
        raise ValueError("bounds: must be given where x0 is not, got neither")
    tensors = [side for side in bounds if isinstance(side, Tensor)]
    low, high = (_floats("bounds", side) for side in bounds)
    like = low if low.dim() else high
    if like.dim() != 1 or like.numel() == 0:
        raise ValueError(
            f"bounds: must have one entry a dimension where x0 is not given, got {bounds!r}"
        )
    like = like.to(_floats("bounds", tensors[0])) if tensors else like
    generator = torch.Generator(like.device).manual_seed(seed)
    box = box_of(bounds, like)
    shape = (swarms, particles, len(like))
    x = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
    return box.clip(x.mul_(box.high - box.low).add_(box.low)), box, generator


def _floats(name: str, value: Numbers) -> Tensor:
    """A finite tensor of floats: in a tensor's own dtype, else in torch's default."""
    x = torch.as_tensor(value).detach()
    if not isinstance(value, Tensor) or not x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name}: must be finite, got NaN or infinity")
    return x


def _given(x: Tensor, swarms: int) -> Tensor:
    """Positions as they came, `(swarms, particles, dims)`, once they are seen to fit."""
    x = x.clone() if x.dim() == 3 else x.unsqueeze(0).clone()
    if x.shape[1] < 2:
        raise ValueError(f"x0: must have at least 2 particles, got {x.shape[1]}")
    if swarms not in (1, len(x)):
        raise ValueError(f"swarms: must be left out or what x0 has, {len(x)}, got {swarms}")
    return x
