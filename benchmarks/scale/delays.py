"""One rank of the cost model's measurements: the transport's constants, and runs with delays in it.

torchrun benchmarks/scale/delays.py OUT constants
torchrun benchmarks/scale/delays.py OUT run LATENCY BANDWIDTH MEMBERS EVERY

LATENCY in seconds and BANDWIDTH in bytes a second are put into the transport; EVERY generations
islands of one rank each exchange their best, 0: one population. A member's step is a wait of
`STEP` seconds, so that more ranks than cores can be had.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import gradevo as ge
from gradevo.distributed import joining
from gradevo.distributed.joining import joined
from gradevo.distributed.team import Group, Team
from gradevo.models import mlp
from gradevo.structure import Tensors

STEP, STEPS, GENERATIONS, WIDTH = 0.05, 5, 6, 64  # 8 thousand parameters
SIZES = (10**3, 10**5, 10**6, 10**7, 6 * 10**7)  # bytes of a row


class Delayed(Group):
    """A team whose messages take longer: those of a gathering go round in a ring."""

    latency, bandwidth = 0.0, float("inf")

    def gathered(self, values: Tensor, homes: Tensor) -> Tensor:
        found = super().gathered(values, homes)
        time.sleep(self.latency * (self.size - 1))
        return found

    def fetch(self, tensors: Tensors, homes: Tensor, wanted: Sequence[Tensor]) -> Tensors:
        found = super().fetch(tensors, homes, wanted)
        row = sum(t[:1].nbytes for t in tensors.values())
        inwards = len(self._away(homes, wanted[self.rank]).unique())
        outwards = sum(
            len(w[homes[w] == self.rank].unique())
            for rank, w in enumerate(wanted)
            if rank != self.rank
        )
        time.sleep(self.latency + max(inwards, outwards) * row / self.bandwidth)
        return found

    def _away(self, homes: Tensor, wanted: Tensor) -> Tensor:
        return wanted[homes[wanted] != self.rank]


def timed(work: Callable[[], Any], times: int) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def constants(team: Team) -> dict[str, Any]:
    """Seconds of a gathering of one number a rank, and of a row that two ranks exchange."""
    ranks = torch.arange(team.size)
    number = torch.tensor([1.0])
    gather = timed(lambda: team.gathered(number, ranks), 300)
    other = ranks.roll(1).split(1)  # everybody wants the row of the rank before
    rows = {}
    for size in SIZES:
        row = {"row": torch.zeros(1, size, dtype=torch.uint8)}
        times = 100 if size < 10**6 else 9
        rows[size] = timed(lambda row=row: team.fetch(row, ranks, other), times)
    return {"ranks": team.size, "gather": gather, "rows": rows}


def waiting(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy whose every evaluation with a gradient takes a step's time."""
    if torch.is_grad_enabled():
        time.sleep(STEP)
    return F.cross_entropy(output, target)


def run(team: Team, members: str, every: str) -> dict[str, Any]:
    """Seconds of a generation, as rank 0 sees them, start and end of the run left out."""
    each, period = int(members), int(every)
    setting: dict[str, Any] = {"generations": GENERATIONS, "steps": STEPS, "batch_size": 16}
    setting |= {"checks": 1, "average": 0.0, "align": False}
    algorithm: Any = ge.GADAM(population=each * team.size, **setting)
    if period and team.size > 1:
        one = ge.GADAM(population=each, **setting)
        algorithm = ge.Islands(one, islands=team.size, every=period)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, WIDTH, generator=generator)
    rows = x, x[:, :WIDTH].argmax(dim=1)
    ends: list[tuple[int, float]] = []
    ge.fit(
        algorithm, mlp(WIDTH, WIDTH, WIDTH), waiting, rows, valid=rows, engine="loop",
        callbacks=[lambda info: ends.append((info["generation"], time.perf_counter()))],
    )  # fmt: skip
    (first, start), (last, end) = ends[0], ends[-1]
    row = sum(p.nbytes for p in mlp(WIDTH, WIDTH, WIDTH)().parameters())
    return {"ranks": team.size, "row": row, "generation": (end - start) / (last - first)}


def main() -> None:
    out, job, *numbers = sys.argv[1:]
    torch.set_num_threads(1)
    if job == "run":
        Delayed.latency, Delayed.bandwidth = map(float, numbers[:2])
        joining.Group = Delayed
    with joined() as team:
        found = constants(team) if job == "constants" else run(team, *numbers[2:])
        if team.rank == 0:
            Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
