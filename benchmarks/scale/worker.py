"""What one rank does in the benchmarks of scale: a fit, measured from inside.

torchrun benchmarks/scale/worker.py OUT NETWORK MEMBERS GENERATIONS STEPS ENGINE [FOLDER]

ISLANDS=2 in the environment makes so many of it; SLOW=1 lets that rank take three times as long,
SLOW=none nobody.
"""

import hashlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradevo as ge
from gradevo.distributed.joining import joined
from gradevo.distributed.rows import fingerprints, row_bytes
from gradevo.models import LeNet5, mlp

NETWORKS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "LeNet-5": (LeNet5, (1, 28, 28), 10),
    "MLP 16-70-50-26": (mlp(16, 70, 50, 26), (16,), 26),
}


def main() -> None:
    out, network, members, generations, steps, engine, *folder = sys.argv[1:]
    torch.set_num_threads(1)
    build, train, valid = task(network)
    algorithm: ge.GADAM | ge.Islands = setting(members, generations, steps)
    if count := int(os.environ.get("ISLANDS", "0")):
        each = replace(algorithm, population=int(members) // count)
        algorithm = ge.Islands(each, islands=count)
    sent: list[int] = []
    with joined() as team:
        slow = os.environ.get("SLOW")
        loss = Paced(2 * (slow == str(team.rank))) if slow else F.cross_entropy
        checkpoint = ge.Checkpoint(folder[0], seconds=0.0) if folder else None
        start = time.perf_counter()
        result = ge.fit(
            algorithm, build, loss, train, valid=valid, engine=engine, checkpoint=checkpoint,
            callbacks=[lambda info: sent.append(getattr(team, "sent", 0))],
        )  # fmt: skip
        seconds = time.perf_counter() - start
        every = team.gathered(torch.tensor([sent]), torch.arange(team.size))
        whole = result.gather()
        if team.rank == 0:
            width = row_bytes(whole.members.tensors, torch.tensor([0])).shape[1]
            found = {
                "seconds": seconds, "ranks": team.size, "row": width,
                "sent": every.sum(dim=0).tolist(), "parameters": _count(result.best),
                "digest": digest(whole),
            }  # fmt: skip
            Path(out).write_text(json.dumps(found))


def task(network: str) -> tuple[Any, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A network and rows to learn: how to build it, training and validation rows."""
    build, shape, classes = NETWORKS[network]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, *shape, generator=generator)
    y = (x.flatten(1) @ torch.randn(x[0].numel(), classes, generator=generator)).argmax(1)
    return build, (x[:3584], y[:3584]), (x[3584:], y[3584:])


def setting(members: str, generations: str, steps: str) -> ge.GADAM:
    return ge.GADAM(
        population=int(members), generations=int(generations), steps=int(steps), batch_size=128,
        checks=1, average=0.0,
    )  # fmt: skip


def digest(whole: ge.Result) -> str:
    """The bits of all members and losses."""
    content = json.dumps([fingerprints(whole.members.tensors).tolist(), whole.losses.tolist()])
    return hashlib.sha256(content.encode()).hexdigest()


class Paced:
    """Cross-entropy that waits so many times as long as it took to come to it.

    Args:
        times: 2: a rank that takes three times as long.
    """

    def __init__(self, times: int) -> None:
        self.times, self.left = times, time.perf_counter()

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        time.sleep(self.times * min(0.1, time.perf_counter() - self.left))
        self.left = time.perf_counter()
        return F.cross_entropy(output, target)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


if __name__ == "__main__":
    main()
