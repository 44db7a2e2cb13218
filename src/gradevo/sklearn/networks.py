"""Networks of an estimator: a perceptron or the user's own, and what they say about rows."""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from gradevo import validation
from gradevo.engines import Choice
from gradevo.models import mlp
from gradevo.randomness import TURN, generator_from, isolated
from gradevo.result import Ensemble

Module = Callable[[int, int], nn.Module]
RULE = "must be a function (inputs, outputs) that returns a new network"
CHUNK = 1024  # rows a forward pass


def builder(
    hidden: int | Sequence[int], module: Module | None, inputs: int, outputs: int
) -> Callable[[], nn.Module]:
    """A builder of networks for tables of so many columns.

    Args:
        hidden: sizes of a perceptron's hidden layers; none: a linear model.
        module: builds the user's own network from inputs and outputs; it comes before `hidden`.
        inputs: columns.
        outputs: classes or targets.

    Raises:
        TypeError: `module` is no function of two numbers, or returns no module.
        ValueError: `hidden` holds something else than positive whole numbers.
    """
    if module is None:
        return mlp(inputs, *_sizes(hidden), outputs)
    if isinstance(module, nn.Module) or not callable(module):
        raise TypeError(f"module: {RULE}, got a {type(module).__name__}")
    if not _takes_two(module):
        raise TypeError(f"module: {RULE}, got one with other arguments")
    return lambda: _own(cast(Module, module), inputs, outputs)


def _sizes(hidden: Any) -> list[int]:
    """Sizes of hidden layers, one or several.

    Raises:
        ValueError: they are something else.
    """
    given = [hidden] if validation.is_whole(validation.plain(hidden)) else hidden
    if isinstance(given, str) or not hasattr(given, "__iter__"):
        raise ValueError(f"hidden: must be sizes of layers, (64,) for example, got {hidden!r}")
    return [validation.at_least("hidden", size, 1) for size in given]


def _takes_two(module: Module) -> bool:
    try:
        inspect.signature(module).bind(1, 1)
    except TypeError:
        return False
    except ValueError:  # it does not say what it takes
        return True
    return True


def _own(module: Module, inputs: int, outputs: int) -> nn.Module:
    network = module(inputs, outputs)
    if not isinstance(network, nn.Module):
        raise TypeError(f"module: must return a torch.nn.Module, got a {type(network).__name__}")
    return network


def check_outputs(build: Callable[[], nn.Module], x: Tensor, outputs: int) -> None:
    """Refuse a network of the user's that gives something else than `(rows, outputs)`.

    Raises:
        ValueError: says the shape.
    """
    with torch.no_grad(), isolated(generator_from(0)):
        found = build().eval()(x[:2])
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if shape != (len(x[:2]), outputs):
        raise ValueError(
            f"module: must give outputs of shape ({len(x[:2])}, {outputs}) for "
            f"{len(x[:2])} rows, got {shape}"
        )


@torch.no_grad()
def outputs_of(network: nn.Module, rows: np.ndarray, exact: bool) -> np.ndarray:
    """A network's outputs `(n, outputs)`, float64.

    Args:
        network: in eval mode; not changed.
        rows: `(n, columns)`, float32.
        exact: compute in double precision.
    """
    dtype = torch.float64 if exact else torch.float32
    network = copy.deepcopy(network)
    if isinstance(network, Ensemble):  # whatever trained it, this computes it
        network.members.choice = Choice.of("loop")
    network = network.double() if exact else network
    chunks = torch.tensor(rows, dtype=dtype).split(CHUNK)
    with TURN:
        return torch.cat([network(chunk) for chunk in chunks]).double().numpy()
