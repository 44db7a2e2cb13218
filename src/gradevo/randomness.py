"""Random numbers as arguments: generators in, global state untouched.

Torch draws initial weights and dropout masks from its global generator and offers no other
way. `isolated` lends a generator of ours to that global place and puts everything back.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import RLock

import numpy as np
import torch
from torch import Generator, Tensor

from gradevo.share import mixed


@dataclass(frozen=True)
class Draws:
    """Where the members' own random numbers of a step come from.

    Attributes:
        key: of the step.
        ids: numbers of the members that are computed.
    """

    key: int
    ids: Sequence[int]

    def seed(self, row: int) -> int:
        """Of the member in a row."""
        return mixed(self.key, self.ids[row])


_lent = ContextVar("_lent", default=False)
_draws: ContextVar[Draws | None] = ContextVar("_draws", default=None)


def ambient() -> bool:
    """Whether torch's global stream is lent to a run, which restores and resumes it exactly.

    Then a loss or module may draw from it; anywhere else it brings a generator of its own.
    """
    return _lent.get()


def generator_from(seed: int) -> Generator:
    """A CPU generator started from `seed`."""
    return torch.Generator().manual_seed(seed)


def drawn_key(generator: Generator) -> int:
    """A key for streams of their own: `generator_from(mixed(key, i))`."""
    return int(torch.randint(2**62, (), generator=generator))


def spawn(generator: Generator) -> Generator:
    """A new generator, seeded by one draw from `generator`: an independent stream."""
    return generator_from(drawn_key(generator))


TURN = RLock()
"""Global random states are lent to one thread of a process at a time, slice by slice of its run."""


@contextmanager
def preserved(device: torch.device | None = None) -> Iterator[None]:
    """Put the global random states of torch, numpy and Python back where they were.

    Other threads wait before such a block until it is over.

    Args:
        device: a CUDA device whose stream is put back as well.
    """
    with TURN:
        python, legacy = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(devices=_streams(device)):
                yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


@contextmanager
def following(generator: Generator, device: torch.device | None = None) -> Iterator[None]:
    """Like `isolated`, but global states are left where the block left them.

    Inside one `preserved` block, this is the cheap way to run many short blocks.
    """
    other = int(torch.randint(2**31, (), generator=generator))
    random.seed(other)
    np.random.seed(other)
    for place in _streams(device):
        with torch.cuda.device(place):
            torch.cuda.manual_seed(other)
    torch.set_rng_state(generator.get_state())
    token = _lent.set(True)
    try:
        yield
    finally:
        _lent.reset(token)
        generator.set_state(torch.get_rng_state())


@contextmanager
def drawing(
    noise: Generator, ids: Sequence[int], device: torch.device | None = None
) -> Iterator[None]:
    """A step in which every member draws from a stream of its own, by its number.

    Global states are left where the block left them, see `following`. numpy's and Python's follow
    the first member: what modules draw from those depends on who computes them.

    Args:
        noise: of the run; moves on by one draw.
        ids: numbers of the members that are computed.
        device: a CUDA device whose stream follows the first member as well.
    """
    found = Draws(drawn_key(noise), ids)
    first = found.seed(0)
    random.seed(first)
    np.random.seed(first % 2**32)
    for place in _streams(device):
        with torch.cuda.device(place):
            torch.cuda.manual_seed(first)
    torch.default_generator.manual_seed(first)
    tokens = _lent.set(True), _draws.set(found)
    try:
        yield
    finally:
        _lent.reset(tokens[0])
        _draws.reset(tokens[1])


def draws() -> Draws | None:
    """The streams of the step under way; None outside of a run."""
    return _draws.get()


@contextmanager
def narrowed(start: int, count: int) -> Iterator[None]:
    """A block in which some of the members are computed; `own(0)` is the first of them."""
    found = _draws.get()
    token = (
        None if found is None else _draws.set(Draws(found.key, found.ids[start : start + count]))
    )
    try:
        yield
    finally:
        if token is not None:
            _draws.reset(token)


def own(row: int) -> None:
    """From here on torch's global stream is that of the member in a row, within a run's step."""
    if (found := _draws.get()) is not None:
        torch.default_generator.manual_seed(found.seed(row))


def drew(before: Tensor) -> bool:
    """Whether torch's global stream has moved since it was `before`, or since a member's `own`."""
    now, found = torch.get_rng_state(), _draws.get()
    rows = range(len(found.ids)) if found else ()
    starts = (generator_from(found.seed(row)).get_state() for row in rows if found)
    return not any(torch.equal(now, known) for known in (before, *starts))


def _streams(device: torch.device | None) -> list[torch.device]:
    return [device] if device is not None and device.type == "cuda" else []


@contextmanager
def isolated(generator: Generator, device: torch.device | None = None) -> Iterator[None]:
    """Run a block whose global random draws come from `generator`, then restore everything.

    Module initialisation, dropout and data loaders draw from torch's global generator, and
    user code may draw from numpy's or Python's. Inside the block all three follow
    `generator`; afterwards the global states are bit for bit what they were, and `generator`
    has advanced by what torch's CPU stream used.

    Args:
        generator: a CPU generator; its state is the block's starting point.
        device: a CUDA device whose stream is seeded from `generator` and restored as well.

    Example:
        >>> before = torch.get_rng_state()
        >>> with isolated(generator_from(1)):
        ...     draw = torch.rand(())
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    with preserved(device), following(generator, device):
        yield
