"""Members as the user's function makes them, each from a stream of random numbers of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, nn

from gradevo.randomness import generator_from, isolated
from gradevo.share import mixed

Build = Callable[[], nn.Module]


def check_build(build: Any) -> None:
    """Refuse a module where a function that makes them is wanted.

    Raises:
        TypeError: says what it is.
    """
    if isinstance(build, nn.Module) or not callable(build):
        raise TypeError(
            "build: must be a function that returns a new module at every call, "
            f"got a {type(build).__name__}; write `lambda: Net(...)`"
        )


def built(build: Build, ids: Sequence[int], generator: Generator) -> list[nn.Module]:
    """Members by their numbers, each from a stream of its own."""
    key, modules = int(torch.randint(2**62, (), generator=generator)), []
    for i in ids:
        with isolated(generator_from(mixed(key, i))):
            modules.append(build())
    return modules
