"""Members dealt out to Python threads with one torch thread each.

Better than two OpenMP threads in every operation: nothing waits for the other thread between
layers, and a contended core slows down its own members only. The batched engine's dropout draws
from generators of its own; what else draws would take turns at torch's, in no order, and is
declined.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradevo.denormals import flushed, flushes
from gradevo.errors import EngineError

if TYPE_CHECKING:
    from gradevo.engines.batched import Batched
    from gradevo.engines.loop import Loop
    from gradevo.population import Loss

Job = Callable[[], Tensor]


class Threads:
    """Another engine whose members, or chunks of them, are computed side by side.

    Args:
        inner: does the work; its `jobs` are pieces that do not touch each other.
        count: threads.
        name: of both together.
    """

    def __init__(self, inner: "Loop | Batched", count: int, name: str) -> None:
        self.inner, self.count, self.name = inner, count, name
        self.unordered = False  # whether something drew from torch's global generator

    def forward(self, x: Any, per_member: bool) -> Any:
        return self.inner.forward(x, per_member)

    def losses(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        return self.inner.losses(loss, x, y, per_member)

    def accumulate(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        done: list[int] = []

        def noted(job: Job) -> Tensor:
            losses = job()
            done.append(1)
            return losses

        jobs = self.inner.jobs(loss, x, y, per_member)
        before = torch.get_rng_state()
        try:
            return torch.cat(side_by_side([partial(noted, job) for job in jobs], self.count))
        except Exception as error:
            if not done:
                raise
            raise EngineError(
                f"engine: must be able to compute all members, got {type(error).__name__} from "
                f"{self.name!r} after {len(done)} of {len(jobs)} parts had their gradients"
            ) from error
        finally:
            self.unordered |= not torch.equal(before, torch.get_rng_state())


def side_by_side(jobs: Sequence[Job], count: int) -> list[Tensor]:
    """Results of jobs in their order, the first of them by the first thread, and so on.

    Threads compute in the caller's modes of autograd, autocast and denormals. The first error
    is raised once all are done.
    """
    share = -(-len(jobs) // count)
    parts = [jobs[start : start + share] for start in range(0, len(jobs), share)]
    modes = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), flushes()
    halves = torch.get_autocast_dtype("cpu")

    def work(part: Sequence[Job]) -> list[Tensor]:
        torch.set_num_threads(1)
        cast = torch.autocast("cpu", dtype=halves, enabled=modes[1])
        with torch.set_grad_enabled(modes[0]), flushed(modes[2]), cast:
            return [job() for job in part]

    waiting = [_pool(count).submit(work, part) for part in parts]
    done = [future.exception() for future in waiting]
    for error in done:
        if error is not None:
            raise error
    return [value for future in waiting for value in future.result()]


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    """Threads that stay: to start one takes as long as a small step."""
    return ThreadPoolExecutor(count, thread_name_prefix="gradevo")
