"""Members dealt out to Python threads with one torch thread each.

Better than two OpenMP threads in every operation: nothing waits for the other thread between
layers, and a contended core slows down its own members only. What members share must not change
under way, so the first step in each mode is taken in order and watched: a module that draws
random numbers (but for the batched engine's dropout, which has generators of its own), or changes
buffers that backward may need, stays in order.
"""

import contextvars
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gradevo.denormals import flushed, flushes
from gradevo.engines.check import mark_partial
from gradevo.randomness import drew

if TYPE_CHECKING:
    from gradevo.engines.batched import Batched
    from gradevo.engines.loop import Loop
    from gradevo.population import Loss

log = logging.getLogger(__name__)
Job = Callable[[], Tensor]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # backward needs none of their buffers
HOOKS = ("forward", "forward_pre", "backward", "backward_pre")


class Threads:
    """Another engine whose members, or chunks of them, are computed side by side.

    Args:
        inner: does the work; its `jobs` are pieces that do not touch each other.
        count: threads.
        name: of both together.
    """

    def __init__(self, inner: "Loop | Batched", count: int, name: str) -> None:
        self.inner, self.count, self.name = inner, count, name
        self.known: dict[Any, str | None] = {}  # by mode and loss: why in order, or None

    def forward(self, x: Any, per_member: bool) -> Any:
        return self.inner.forward(x, per_member)

    def losses(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        return self.inner.losses(loss, x, y, per_member)

    def accumulate(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        stacked = self.inner.population.stacked
        key = tuple(part.training for part in stacked.modules()), getattr(loss, "__code__", loss)
        jobs = self.inner.jobs(loss, x, y, per_member)
        if key not in self.known:
            return torch.cat(self._watched(key, loss, jobs))
        return torch.cat(side_by_side(jobs, 1 if self.known[key] else self.count))

    def _watched(self, key: Any, loss: "Loss", jobs: Sequence[Job]) -> list[Tensor]:
        """The jobs in order, and whether the next ones may be side by side."""
        parts = list(self.inner.population.stacked.modules())
        buffers = [b for p in parts if type(p) not in NORMS for b in p.buffers(recurse=False)]
        stream, before = torch.get_rng_state(), (_draws(), [b._version for b in buffers])
        found = in_order(jobs)
        after = _draws(), [buffer._version for buffer in buffers]
        moved = drew(stream) or before[0] != after[0]
        reason = None
        if any(getattr(part, f"_{kind}_hooks") for part in parts for kind in HOOKS):
            reason = "the module has hooks"
        elif hasattr(loss, "of_members") or moved:
            reason = "random numbers are drawn"
        elif before[1] != after[1]:
            reason = "a buffer changes that backward may need"
        if reason:
            log.info("engine: %s computes members in order, as %s", self.name, reason)
        self.known[key] = reason
        return found


def _draws() -> tuple[Any, ...]:
    """Where numpy's and Python's generators stand."""
    return random.getstate(), repr(np.random.get_state(legacy=False))


def in_order(jobs: Sequence[Job]) -> list[Tensor]:
    """Results of jobs; an error after the first says that gradients have been added to."""
    found: list[Tensor] = []
    for job in jobs:
        try:
            found.append(job())
        except Exception as error:
            if found:
                mark_partial(error)
            raise
    return found


def side_by_side(jobs: Sequence[Job], count: int) -> list[Tensor]:
    """Results of jobs in their order, the first of them by the first thread, and so on.

    Threads compute in the caller's modes of autograd, autocast and denormals, and with its
    context variables. The first error is raised once all are done. A job's own jobs are in order.
    """
    if count == 1 or getattr(_place, "inside", False):
        return in_order(jobs)
    share = -(-len(jobs) // count)
    modes = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), flushes()
    halves, threads = torch.get_autocast_dtype("cpu"), torch.get_num_threads()

    def work(part: Sequence[Job]) -> list[Tensor]:
        if not getattr(_place, "inside", False):
            _place.inside = True
            torch.set_num_threads(1)
        cast = torch.autocast("cpu", dtype=halves, enabled=modes[1])
        with torch.set_grad_enabled(modes[0]), flushed(modes[2]), cast:
            return in_order(part)

    waiting: list[Future[list[Tensor]]] = []
    try:
        for start in range(0, len(jobs), share):
            context, part = contextvars.copy_context(), jobs[start : start + share]
            waiting.append(_pool(count).submit(context.run, work, part))
        wait(waiting)
    finally:  # an interrupt too must not leave threads that go on writing
        for future in waiting:
            future.cancel()
        wait(waiting)
        torch.set_num_threads(threads)  # a thread's own number is the next new thread's default
    return _results(waiting)


@contextmanager
def alone(engine: str) -> Iterator[None]:
    """What goes between two steps of an engine with threads of its own, in one thread too.

    After an operation in several OpenMP threads, those wait for the next one by spinning, for some
    15 ms, and take a core from the engine's.
    """
    before = torch.get_num_threads()
    if "@" not in engine or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _results(done: list[Future[list[Tensor]]]) -> list[Tensor]:
    errors = [future.exception() for future in done]
    for error in errors:
        if error is not None:
            raise mark_partial(error) if None in errors else error
    return [value for future in done for value in future.result()]


_place = threading.local()


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    """Threads that stay: to start one takes as long as a small step."""
    return ThreadPoolExecutor(count, thread_name_prefix="gradevo")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
