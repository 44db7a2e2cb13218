"""Arguments of `fit`, made what they stand for or refused by name, before any work."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from gradevo.building import check_build
from gradevo.callbacks import Callback
from gradevo.validation import function, is_whole, plain

PARTS = ("init", "step", "finished", "criterion", "population", "generations")  # of an algorithm


def check_arguments(algorithm: Any, build: Any, loss: Any) -> None:
    """Refuse mistakes of kind.

    Raises:
        TypeError: an argument that is something else.
    """
    if isinstance(algorithm, type) or not all(hasattr(algorithm, part) for part in PARTS):
        raise TypeError(f"algorithm: must be a config, GADAM() for example, got {algorithm!r}")
    check_build(build)
    if (missing := _missing(build)) is not None:
        name = getattr(build, "__name__", type(build).__name__)
        raise TypeError(
            f"build: must be a function without arguments, got {name}: {missing}; write "
            f"`lambda: {name}(...)`"
        )
    function("loss", loss)


def _missing(build: Any) -> str | None:
    """What a function must be called with; None: nothing, or nobody knows."""
    try:
        inspect.signature(build).bind()
    except TypeError as error:
        return str(error)
    except ValueError:  # it does not say
        return None
    return None


def callbacks_of(callbacks: Any) -> list[Callback]:
    """Functions of a generation's info: several, or one alone.

    Raises:
        TypeError: something else.
    """
    if callable(callbacks):
        callbacks = [callbacks]
    if isinstance(callbacks, str | Mapping) or not isinstance(callbacks, Iterable):
        raise TypeError(
            f"callbacks: must be functions, or one of them, got a {type(callbacks).__name__}"
        )
    return [function("callbacks", callback) for callback in callbacks]


def device_of(device: Any) -> torch.device | None:
    """A device that is there; None stays None.

    Raises:
        ValueError: no device has such a name, or this machine has none.
    """
    if device is None:
        return None
    given = plain(device)
    if not isinstance(given, str | torch.device) and not is_whole(given):
        raise ValueError(f"device: must be a name like 'cpu' or 'cuda:0', got {device!r}")
    try:
        found = torch.device(given)
    except (RuntimeError, ValueError, OverflowError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"device: must be a name like 'cpu' or 'cuda:0', got {device!r}: {reason}"
        ) from error
    try:
        torch.ones(1, device=found).cpu()
    except Exception as error:  # torch's words differ by device
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"device: must be one that this machine can compute on, got {device!r}: {reason}"
        ) from error
    return found
