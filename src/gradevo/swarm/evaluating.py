"""Functions of the user's, evaluated at points that they cannot spoil."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradevo.swarm.untouched import identical, version
from gradevo.validation import function

Batched = Callable[[Tensor], Any]


class Points:
    """A function of points. One that writes into them gets copies of them from then on.

    Args:
        name: of the argument, for errors.
        f: the function.

    Raises:
        TypeError: it cannot be called.
    """

    def __init__(self, name: str, f: Batched) -> None:
        self.name, self.f = name, function(name, f)
        refuse_other_arguments(name, f, "points")
        self.writes: bool | None = None  # known after the first call

    def __call__(self, x: Tensor) -> Any:
        if self.writes is not False:
            given = x.clone()
            values = self.f(given)
            self.writes = self.writes or not identical(given, x)
            return values
        before = version(x)
        values = self.f(x)
        if version(x) != before:
            raise ValueError(
                f"{self.name}: must leave the points as they are, or change them in its first call "
                "too, so that it gets copies; got one that changed them later"
            )
        return values


def refuse_other_arguments(name: str, f: Callable[..., Any], *given: str) -> None:
    """Refuse a function that cannot be called with what it will be given, as far as it tells.

    Raises:
        TypeError: says what it takes.
    """
    try:
        signature = inspect.signature(f.forward if isinstance(f, nn.Module) else f)
    except (TypeError, ValueError):  # a built-in that does not tell
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        takes = f"{name}({', '.join(given)})"
        raise TypeError(f"{name}: must be called as {takes}, got one of {signature}") from error


def evaluated(f: Batched, x: Tensor, name: str = "f") -> Tensor:
    """f at `(swarms, particles, dims)`, as `(swarms, particles)`; see `exact` for the dtype.

    Raises:
        ValueError: f does not return one real number a point; the message calls it `name`.
    """
    n = x.shape[0] * x.shape[1]
    values = f(x.reshape(n, x.shape[2]))
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        values = torch.as_tensor(values, device=x.device)
    if not isinstance(values, Tensor) or values.shape != (n,) or values.is_complex():
        raise ValueError(
            f"{name}: must return one number a point, shape ({n},) for {n} points, got "
            f"{_what(values)}"
        )
    return exact(values.detach(), x).view(x.shape[:2])


def _what(values: Any) -> str:
    if isinstance(values, Tensor) and values.is_complex():
        return str(values.dtype)
    if isinstance(values, Tensor):
        return str(tuple(values.shape))
    return type(values).__name__


def exact(values: Tensor, points: Tensor) -> Tensor:
    """Values in their own precision, where that is finer than the points'."""
    if not values.is_floating_point():
        return values.to(points.dtype)
    return values.to(points.device, torch.promote_types(values.dtype, points.dtype))


def some_finite(values: Tensor) -> Tensor:
    """The values at the start.

    Raises:
        ValueError: none is finite.
    """
    if not bool(values.isfinite().any()):
        raise ValueError(
            "f: must be finite at one start position at least, got NaN or infinity at all "
            f"{values.numel()}"
        )
    return values
