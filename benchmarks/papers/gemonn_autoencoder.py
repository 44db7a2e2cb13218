"""GEMONN's first experiment: the tied auto-encoder 784-500-784 on MNIST, as raw rows.

    python benchmarks/papers/gemonn_autoencoder.py --data-dir DIR [--methods "A;B"] [--seeds 3]

Fronts of density against mean squared error on the test images. Every method sees the same
50,000 training images; 10,000 others are the validation rows of those that have any. Rows go to
docs/results/raw/gemonn-autoencoder.jsonl; a row that is there is not run again.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import RAW, Task, pooled
from torch import Tensor, nn

import gradevo as ge
from gradevo.autoencoder import TiedAutoencoder
from gradevo.datasets.idx import read_idx
from gradevo.denormals import flushed

Point = tuple[float, float]  # density, loss
PAPER = {"population": 50, "generations": 500}
SHORT = {"generations": 150}  # 7,500 passes
METHODS: dict[str, Callable[[], ge.GEMONN]] = {
    "paper": lambda: ge.GEMONN.paper(**PAPER),
    "paper, low side's gradient": lambda: ge.GEMONN.paper(**PAPER, low_side=True),
    "paper, plain SBX": lambda: ge.GEMONN.paper(**PAPER, crossover="sbx"),
    "default": lambda: ge.GEMONN(),
    "default, 7,500 passes": lambda: ge.GEMONN(**SHORT),
}
BARS: dict[str, tuple[int, int, float]] = {
    "pruning": (8320, 1390, 3e-3),
    "pruning, rate 1e-3": (8320, 1390, 1e-3),
    "pruning, 7,500 passes": (2460, 420, 3e-3),
    "pruning, 7,500 passes, rate 1e-3": (2460, 420, 1e-3),
}  # name: dense steps, steps on each of 12 rungs, learning rate
RUNGS, LOWEST = 12, 0.0025
TRAINING = 50_000


def prune(network: TiedAutoencoder, density: float) -> Tensor:
    """The largest weights, and the largest of every pixel: no output is emptied."""
    size = network.weight.detach().abs()
    size.scatter_(1, size.argmax(1, keepdim=True), torch.inf)
    mask = torch.zeros_like(size, dtype=torch.bool)
    keep = max(len(size), round(density * size.numel()))
    mask.view(-1)[size.view(-1).topk(keep).indices] = True
    return mask


def bar(images: Tensor, held: Tensor, name: str, seed: int) -> tuple[list[Point], int]:
    """Adam, then gradual magnitude pruning, every rung kept; masked steps, masked moments."""
    dense, steps, rate = BARS[name]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = TiedAutoencoder()
    optimizer = torch.optim.Adam(network.parameters(), rate, fused=True)
    mask, front = torch.ones_like(network.weight, dtype=torch.bool), []
    for rung in range(RUNGS + 1):
        if rung:
            mask = prune(network, LOWEST ** (rung / RUNGS))
            for tensor in (network.weight.data, *moments(optimizer, network.weight)):
                tensor.mul_(mask)
        for _ in range(steps if rung else dense):
            x = images[torch.randint(len(images), (128,), generator=generator)]
            optimizer.zero_grad()
            nn.functional.mse_loss(network(x), x).backward()
            assert network.weight.grad is not None
            network.weight.grad.mul_(mask)
            optimizer.step()
        front.append((float(mask.double().mean()), score(network, held)))
    return front, dense + RUNGS * steps


def moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> list[Tensor]:
    state = optimizer.state[parameter]
    return [state["exp_avg"], state["exp_avg_sq"]]


@torch.no_grad()
def score(network: nn.Module, images: Tensor) -> float:
    """Mean squared error."""
    parts = [nn.functional.mse_loss(network(x), x) for x in images.split(1000)]
    return float(torch.stack(parts).mean())


def evolve(train: Tensor, valid: Tensor, held: Tensor, task: Task) -> dict[str, Any]:
    """One run of GEMONN; every member on the test images."""
    algorithm = METHODS[task["method"]]()
    agree = algorithm.search == "crossover"
    result = ge.fit(
        algorithm, lambda: TiedAutoencoder(agree=agree), nn.MSELoss(), (train, train),
        valid=(valid, valid), seed=task["seed"], engine="loop",
    )  # fmt: skip
    front = [
        (float((network.weight != 0).double().mean()), score(network, held))
        for network in map(result.members.member, range(len(result.members)))
    ]
    return {"front": front, "passes": result.member_steps}


def images(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test images, `(rows, 784)` in [0, 1]."""
    whole, held = (
        torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3).copy())
        for part in ("train", "t10k")
    )
    whole, held = (pixels.flatten(1).float() / 255 for pixels in (whole, held))
    return whole[:TRAINING], whole[TRAINING:], held


def work(task: Task) -> Task:
    torch.set_num_threads(1)
    train, valid, held = images(Path(task["dir"]) / "mnist")
    start = time.perf_counter()
    if task["method"] in METHODS:
        row = evolve(train, valid, held, task)
    else:
        with flushed():
            front, passes = bar(train, held, task["method"], task["seed"])
        row = {"front": front, "passes": passes}
    row["seconds"] = round(time.perf_counter() - start)
    return {"task": {k: v for k, v in task.items() if k != "dir"}, **row}


def hypervolume(front: list[Point], reference: Point = (1.0, 0.25)) -> float:
    """Share of the box below the reference that the front dominates."""
    import moocore
    import numpy as np

    area = moocore.hypervolume(np.array(front), ref=np.array(reference))
    return float(area) / (reference[0] * reference[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="folder with mnist/")
    parser.add_argument("--methods", help="names separated by semicolons; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RAW / "gemonn-autoencoder.jsonl")
    args = parser.parse_args()
    names = args.methods.split(";") if args.methods else [*BARS, *METHODS]
    tasks = [
        {"method": name, "seed": seed, "dir": args.data_dir}
        for seed in range(args.seeds) for name in names
    ]  # fmt: skip
    for row in pooled(work, tasks, args.out, args.jobs):
        value = hypervolume(row["front"])
        name = f"{row['task']['method']:36} {row['task']['seed']}"
        print(f"{name} {value:.4f} {row['passes']:,} passes, {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
