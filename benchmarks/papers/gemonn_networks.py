"""Sparse classifiers: GEMONN's fronts beside magnitude pruning at equal steps, as raw rows.

    python benchmarks/papers/gemonn_networks.py --data-dir DIR [--networks lenet,lstm] [--seeds 3]

Four networks: perceptrons on LETTER and MNIST, an LSTM that reads MNIST's rows, LeNet-5 on MNIST.
Of every front the validation rows pick, for each sparsity, the member with the lowest loss that is
at least as sparse; its accuracy is on test rows. Pruning: Adam, then 12 rungs of gradual magnitude
pruning; or once to each sparsity, with an equal part of the second half of the steps for each.
Rows go to docs/results/raw/gemonn-networks.jsonl; a row that is there is not run again.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import RAW, Task, pooled
from torch import Tensor, nn

import gradevo as ge
from gradevo import datasets
from gradevo.denormals import flushed
from gradevo.models import LeNet5, mlp

Rows = tuple[Tensor, Tensor]
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
STEPS = {"letter": 10_000, "mlp": 10_000, "lstm": 6_000, "lenet": 6_000}
RUNGS, LOWEST, BATCH = 12, 0.002, 128


class LSTMClassifier(nn.Module):
    """Reads the rows of an image one after another; the last state decides."""

    def __init__(self, inputs: int = 28, hidden: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)
        self.output = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.lstm(x.squeeze(1))[0][:, -1])


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), *mlp(784, 300, 100, 10)().children())


NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "letter": ("tabular/letter.csv", mlp(16, 70, 50, 26)),
    "mlp": ("mnist", perceptron),
    "lstm": ("mnist", LSTMClassifier),
    "lenet": ("mnist", LeNet5),
}
RATES = {"": 3e-3, ", rate 1e-3": 1e-3}
METHODS = ["default", "default, rate 1e-3", "paper", "gradual", "gradual, rate 1e-3",
           "one-shot", "one-shot, rate 1e-3"]  # fmt: skip


@dataclass
class Found:
    """One network of a front: weights that are there, losses and errors."""

    density: float
    valid_loss: float
    loss: float
    error: float


@torch.no_grad()
def measured(network: nn.Module, valid: Rows, test: Rows) -> Found:
    network.eval()
    weights = [p for p in network.parameters() if p.dim() >= 2]
    there = sum(int((p != 0).sum()) for p in weights)
    density = there / sum(p.numel() for p in weights)
    outputs = [torch.cat([network(x) for x in rows[0].split(1000)]) for rows in (valid, test)]
    loss = [float(nn.functional.cross_entropy(o, rows[1]))
            for o, rows in zip(outputs, (valid, test), strict=True)]  # fmt: skip
    error = float((outputs[1].argmax(1) != test[1]).double().mean())
    network.train()
    return Found(density, loss[0], loss[1], error)


# --- pruning by itself ---------------------------------------------------------------------


class Pruned:
    """A network, its masks and its optimiser: masked steps, masked moments, no unit emptied."""

    def __init__(self, build: Callable[[], nn.Module], train: Rows, rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.network, self.train = build().train(), train
        self.optimizer = torch.optim.Adam(self.network.parameters(), rate, fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = {n: p for n, p in self.network.named_parameters() if p.dim() >= 2}
        self.masks = {n: torch.ones_like(p, dtype=torch.bool) for n, p in self.weights.items()}

    def learn(self, steps: int) -> None:
        for _ in range(steps):
            rows = torch.randint(len(self.train[0]), (BATCH,), generator=self.generator)
            self.optimizer.zero_grad()
            output = self.network(self.train[0][rows])
            nn.functional.cross_entropy(output, self.train[1][rows]).backward()
            for name, weight in self.weights.items():
                assert weight.grad is not None
                weight.grad.mul_(self.masks[name])
            self.optimizer.step()

    @torch.no_grad()
    def prune(self, density: float) -> None:
        sizes = {}
        for name, weight in self.weights.items():
            size = weight.abs().flatten(1)
            if "weight_hh" not in name:
                size.scatter_(1, size.argmax(1, keepdim=True), torch.inf)
            sizes[name] = size.flatten()
        flat = torch.cat(list(sizes.values()))
        keep = max(int(flat.isinf().sum()), round(density * len(flat)))
        chosen = torch.zeros(len(flat), dtype=torch.bool)
        chosen[flat.topk(keep).indices] = True
        parts = chosen.split([len(size) for size in sizes.values()])
        for (name, weight), part in zip(self.weights.items(), parts, strict=True):
            self.masks[name] = part.view(weight.shape)
            state = self.optimizer.state[weight]
            for tensor in (weight, state["exp_avg"], state["exp_avg_sq"]):
                tensor.mul_(self.masks[name])

    def state(self) -> Any:
        """A copy of everything, to come back to."""
        module = {k: v.clone() for k, v in self.network.state_dict().items()}
        slots = [{k: v.clone() for k, v in self.optimizer.state[p].items()}
                 for p in self.network.parameters()]  # fmt: skip
        return module, slots

    def restore(self, state: Any) -> None:
        module, slots = state
        self.network.load_state_dict(module)
        for parameter, saved in zip(self.network.parameters(), slots, strict=True):
            self.optimizer.state[parameter] = {k: v.clone() for k, v in saved.items()}
        self.masks = {n: torch.ones_like(p, dtype=torch.bool) for n, p in self.weights.items()}


def gradual(pruned: Pruned, steps: int) -> Iterator[nn.Module]:
    """A third of the steps dense, the rest on 12 rungs; each is one network of the front."""
    rung = steps * 2 // 3 // RUNGS
    pruned.learn(steps - RUNGS * rung)
    yield pruned.network
    for i in range(1, RUNGS + 1):
        pruned.prune(LOWEST ** (i / RUNGS))
        pruned.learn(rung)
        yield pruned.network


def one_shot(pruned: Pruned, steps: int) -> Iterator[nn.Module]:
    """Half of the steps dense; from there to each sparsity at once, an equal part each."""
    pruned.learn(steps // 2)
    yield pruned.network
    dense, sparse = pruned.state(), SPARSITIES[1:]
    for sparsity in sparse:
        pruned.restore(dense)
        pruned.prune(1 - sparsity)
        pruned.learn(steps // 2 // len(sparse))
        yield pruned.network


# --- runs ----------------------------------------------------------------------------------


def front_of(task: Task, data: datasets.Data, build: Callable[[], nn.Module]) -> list[Found]:
    kind, _, rest = task["method"].partition(",")
    rate, seed, steps = RATES["," + rest if rest else ""], task["seed"], task["steps"]
    if kind in ("gradual", "one-shot"):
        walk = gradual if kind == "gradual" else one_shot
        with flushed():
            return [measured(network, data.valid, data.test)
                    for network in walk(Pruned(build, data.train, rate, seed), steps)]  # fmt: skip
    algorithm = ge.GEMONN(generations=steps // 50, lr=rate)
    if kind == "paper":
        algorithm = ge.GEMONN.paper(generations=steps // 50 - 1)
    result = ge.fit(algorithm, build, nn.CrossEntropyLoss(), data.train, valid=data.valid,
                    seed=seed, engine="loop")  # fmt: skip
    members = result.members
    return [measured(members.member(i), data.valid, data.test) for i in range(len(members))]


def work(task: Task) -> Task:
    torch.set_num_threads(1)
    file, build = NETWORKS[task["network"]]
    data = datasets.load(Path(task["dir"]) / file, seed=task["seed"])
    start = time.perf_counter()
    front = front_of(task, data, build)
    seconds = round(time.perf_counter() - start)
    plain = {k: v for k, v in task.items() if k != "dir"}
    return {"task": plain, "seconds": seconds, "front": [vars(found) for found in front]}


def picked(front: list[dict[str, float]], sparsity: float) -> dict[str, float] | None:
    """The member with the lowest validation loss that is at least so sparse."""
    sparse = [one for one in front if one["density"] <= 1 - sparsity + 0.0005]
    return min(sparse, key=lambda one: one["valid_loss"], default=None)


def hypervolume(front: list[dict[str, float]]) -> float:
    """Share of the box density 1, error 1 that the front dominates on test rows."""
    import moocore
    import numpy as np

    points = np.array([[one["density"], one["error"]] for one in front])
    return float(moocore.hypervolume(points, ref=np.array([1.0, 1.0])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="folder with mnist/ and tabular/")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--methods", help="names separated by semicolons; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RAW / "gemonn-networks.jsonl")
    args = parser.parse_args()
    methods = args.methods.split(";") if args.methods else METHODS
    tasks = [
        {"network": network, "method": method, "seed": seed, "steps": STEPS[network],
         "dir": args.data_dir}
        for network in args.networks.split(",") for seed in range(args.seeds) for method in methods
    ]  # fmt: skip
    for row in pooled(work, tasks, args.out, args.jobs):
        task, front = row["task"], row["front"]
        found = [picked(front, s) for s in SPARSITIES]
        cells = " ".join(f"{100 * (1 - f['error']):5.1f}" if f else "    -" for f in found)
        name = f"{task['network']:7} {task['method']:20} {task['seed']}"
        print(f"{name} {hypervolume(front):.4f} | {cells} | {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
