"""What one rank does in the benchmarks of scale: a fit, measured from inside.

torchrun benchmarks/scale/worker.py OUT NETWORK MEMBERS GENERATIONS STEPS ENGINE [FOLDER]
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

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
    build, shape, classes = NETWORKS[network]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, *shape, generator=generator)
    y = (x.flatten(1) @ torch.randn(x[0].numel(), classes, generator=generator)).argmax(1)
    algorithm = ge.GADAM(
        population=int(members), generations=int(generations), steps=int(steps), batch_size=128,
        checks=1, average=0.0,
    )  # fmt: skip
    sent: list[int] = []
    with joined() as team:
        checkpoint = ge.Checkpoint(folder[0], seconds=0.0) if folder else None
        start = time.perf_counter()
        result = ge.fit(
            algorithm, build, F.cross_entropy, (x[:3584], y[:3584]), valid=(x[3584:], y[3584:]),
            engine=engine, checkpoint=checkpoint,
            callbacks=[lambda info: sent.append(getattr(team, "sent", 0))],
        )  # fmt: skip
        seconds = time.perf_counter() - start
        every = team.gathered(torch.tensor([sent]), torch.arange(team.size))
        whole = result.gather()
        if team.rank == 0:
            prints = fingerprints(whole.members.tensors).tolist()
            content = json.dumps([prints, result.losses.tolist()])
            width = row_bytes(whole.members.tensors, torch.tensor([0])).shape[1]
            found = {
                "seconds": seconds, "ranks": team.size, "row": width,
                "sent": every.sum(dim=0).tolist(), "parameters": _count(result.best),
                "digest": hashlib.sha256(content.encode()).hexdigest(),
            }  # fmt: skip
            Path(out).write_text(json.dumps(found))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


if __name__ == "__main__":
    main()
