"""Tables IV and V of the AdaSwarm paper, and losses without a gradient, as raw rows.

    python benchmarks/papers/swarm_tables.py tables --data-dir DIR [--jobs 2]
    python benchmarks/papers/swarm_tables.py values --data-dir DIR [--jobs 2]
    python benchmarks/papers/swarm_tables.py choices --data-dir DIR [--jobs 2]

Ten splits train side by side, each with its own network, stacked in one: the paper's, with one
hidden layer of 10 and sigmoid outputs. Every method sees the same splits, start weights and
batches. `choices` compares settings of the swarm on tuning rows: why the default is what it is.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import RAW, Task, pooled
from sklearn.metrics import f1_score
from swarm_data import NAMES, Splits, load
from torch import Generator, Tensor, nn
from torch.nn import functional

from gradevo import SwarmLoss
from gradevo.losses import f1, zero_one
from gradevo.swarm import EMPSO, ESTIMATORS
from gradevo.swarm.gradient import around, visit
from gradevo.swarm.search import Box

SEEDS = range(10)
STEPS = 2000
BATCH = 32
HIDDEN = 10
CHECKS = 50  # times at which the running accuracies are noted
CRITERIA: dict[str, Callable[..., Tensor]] = {
    "bce": functional.binary_cross_entropy,
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
}
MemberLosses = Callable[[Tensor, Tensor], Tensor]  # outputs and targets of all splits: a loss each
OPTIMISERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "SGD": ("SGD", {}, "plain"),
    "Emulated SGD": ("SGD", {"momentum": 0.9}, "joint"),
    "AdaGrad": ("Adagrad", {}, "plain"),
    "AdaDelta": ("Adadelta", {}, "plain"),
    "RMSProp": ("RMSprop", {}, "plain"),
    "AMSGrad": ("Adam", {"amsgrad": True}, "plain"),
    "Adam": ("Adam", {}, "plain"),
    "AdaSwarm (paper)": ("Adam", {}, "joint"),
    "AdaSwarm": ("Adam", {}, "default"),
}  # name: class of torch.optim at its default rate, options, whose gradient


class Stacked(nn.Module):
    """One network a split: `(splits, rows, inputs)` to probabilities `(splits, rows, classes)`."""

    def __init__(self, splits: int, inputs: int, classes: int, generator: Generator) -> None:
        super().__init__()

        def uniform(*shape: int, fan: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(*shape, generator=generator) * 2 - 1) / fan**0.5)

        self.w1 = uniform(splits, inputs, HIDDEN, fan=inputs)
        self.b1 = uniform(splits, 1, HIDDEN, fan=inputs)
        self.w2 = uniform(splits, HIDDEN, classes, fan=HIDDEN)
        self.b2 = uniform(splits, 1, classes, fan=HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.baddbmm(self.b1, x, self.w1).relu()
        return torch.baddbmm(self.b2, hidden, self.w2).sigmoid()


def batches(data: Splits, steps: int, generator: Generator) -> Any:
    """Mini-batches without replacement, each split in its own order."""
    x, y = data.train
    splits, rows, inputs = x.shape
    size = min(BATCH, rows)
    order = torch.empty(splits, 0, dtype=torch.long)
    for _ in range(steps):
        if order.shape[1] < size:
            order = torch.stack([torch.randperm(rows, generator=generator) for _ in range(splits)])
        index, order = order[:, :size], order[:, size:]
        yield x.gather(1, index[:, :, None].expand(-1, -1, inputs)), y.gather(1, index)


def train(
    data: Splits,
    optimiser: tuple[str, dict[str, Any]],
    losses: MemberLosses,
    one_hot: bool,
) -> dict[str, Any]:
    """Train all splits at once; what the networks are worth in the end and on the way."""
    generator = torch.Generator().manual_seed(0)
    network = Stacked(len(data.train[0]), data.train[0].shape[2], data.classes, generator)
    name, options = optimiser
    optimizer = getattr(torch.optim, name)(network.parameters(), **options)
    held, running, window = [], [], []
    start = time.perf_counter()
    for step, (x, y) in enumerate(batches(data, STEPS, generator), 1):
        output = network(x)
        target = functional.one_hot(y, data.classes).float() if one_hot else y
        optimizer.zero_grad()
        losses(output, target).sum().backward()
        optimizer.step()
        window.append((output.detach().argmax(-1) == y).float().mean(1))
        if step % (STEPS // CHECKS) == 0:
            running.append(torch.stack(window).mean(0))
            held.append(_accuracy(network, data.test))
            window = []
    return {
        "accuracy": _per_cent(held[-1]),
        "f1": _macro_f1(network, data),
        "path": _per_cent(torch.stack(held).mean(1)),
        "running": _per_cent(running[-1]),
        "seconds": round(time.perf_counter() - start, 1),
    }


def plain(criterion: Callable[..., Tensor]) -> MemberLosses:
    """The criterion itself, a loss a split."""
    return lambda output, target: criterion(output, target, reduction="none").mean((1, 2))


def joint(criterion: Callable[..., Tensor]) -> MemberLosses:
    """The paper's gradient: one EMPSO swarm a batch, eq. (15); all splits' swarms side by side.

    The same as `SwarmLoss.paper`, which takes members one after another.
    """
    dynamics = EMPSO(c1=0.8, c2=0.9, beta=0.9, per_entry=False)
    generator = torch.Generator().manual_seed(0)

    def losses(output: Tensor, target: Tensor) -> Tensor:
        splits, shape = len(output), output.shape[1:]

        def evaluate(x: Tensor) -> Tensor:
            points = x.view(splits, -1, *shape)
            wanted = target.unsqueeze(1).expand_as(points)
            return criterion(points, wanted, reduction="none").mean((2, 3))

        w = output.detach().flatten(1)
        x = around(w, 10, 0.5, generator).clamp_(0, 1)
        cloud = visit(evaluate, w, x, dynamics, 10, generator, box=Box(0.0, 1.0))
        gradient = ESTIMATORS["near"](cloud).view_as(output)
        return (output * gradient).sum((1, 2))  # whose gradient is what it says

    return losses


def swarm(criterion: Callable[..., Tensor], **setting: Any) -> MemberLosses:
    """One shot of points around outputs; all else the default."""
    return SwarmLoss(criterion, bounds=(0.0, 1.0), **setting).of_members


GRADIENTS = {"plain": plain, "joint": joint, "default": swarm}
CHOICES: dict[str, dict[str, Any] | None] = {
    "Adam, the loss's own gradient": None,
    "a swarm an entry, tie, spread 1 (default)": {},
    "the same, rank": {"estimator": "rank"},
    "the same, spread 0.5": {"spread": 0.5},
    "the same, not divided by the slope": {"saturating": False},
    "a swarm a row, tie, spread 1": {"scope": "row", "estimator": "tie", "spread": 1.0},
    "a swarm a row, rank, spread 1": {"scope": "row", "spread": 1.0},
    "a swarm a row, rank, spread 0.5": {"scope": "row"},
    "the same, not divided": {"scope": "row", "saturating": False},
}
CHOSEN_ON = ("iris", "wisconsin_breast_cancer", "wheat_seeds", "heart_disease")


@torch.no_grad()
def _accuracy(network: nn.Module, rows: tuple[Tensor, Tensor]) -> Tensor:
    return (network(rows[0]).argmax(-1) == rows[1]).float().mean(1)


@torch.no_grad()
def _macro_f1(network: nn.Module, data: Splits) -> list[float]:
    x, y = data.test
    found = network(x).argmax(-1)
    scores = [
        f1_score(t, p, average="macro", zero_division=0) for t, p in zip(y, found, strict=True)
    ]
    return [round(100 * float(score), 2) for score in scores]


def _per_cent(values: Tensor) -> list[float]:
    return [round(100 * value, 2) for value in values.tolist()]


def work(task: Task) -> Task:
    torch.set_num_threads(1)
    folder = Path(task["dir"])
    data = load(task["data"], folder, task["scale"], SEEDS, task["part"])
    result = TABLES[task["table"]](task, data)
    return {"task": {k: v for k, v in task.items() if k != "dir"}, **result}


def _tables(task: Task, data: Splits) -> dict[str, Any]:
    name, options, gradient = OPTIMISERS[task["optimiser"]]
    losses = GRADIENTS[gradient](CRITERIA[task["loss"]])
    return train(data, (name, options), losses, one_hot=True)


def _choices(task: Task, data: Splits) -> dict[str, Any]:
    setting, criterion = CHOICES[task["method"]], CRITERIA[task["loss"]]
    losses = plain(criterion) if setting is None else swarm(criterion, **setting)
    return train(data, ("Adam", {}), losses, one_hot=True)


def quantised(output: Tensor, label: Tensor) -> Tensor:
    """Squared error of outputs that are rounded to quarters before anyone sees them."""
    target = functional.one_hot(label, output.shape[-1]).to(output.dtype)
    return ((output * 4).round() / 4 - target).square().mean(dim=-1)


def _probability_loss(output: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of the probabilities, normalised over the classes."""
    return functional.nll_loss((output / output.sum(-1, keepdim=True)).log(), label)


VALUES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str, dict[str, Any] | None]] = {
    "cross-entropy, Adam": (_probability_loss, "row", None),
    "zero-one, rank": (zero_one, "row", {"estimator": "rank"}),
    "zero-one, tie": (zero_one, "row", {"estimator": "tie"}),
    "zero-one, Adam": (lambda o, y: zero_one(o, y).mean() + 0 * o.sum(), "row", None),
    "macro-F1, rank": (f1, "batch", {"estimator": "rank"}),
    "quantised, rank": (quantised, "row", {"estimator": "rank"}),
    "quantised, Adam": (lambda o, y: quantised(o, y).mean(), "row", None),
}  # name: loss, scope, the swarm's setting (None: plain Adam)


def _values(task: Task, data: Splits) -> dict[str, Any]:
    loss, scope, swarm = VALUES[task["method"]]
    if swarm is not None:
        losses = SwarmLoss(loss, scope=scope, bounds=(0.0, 1.0), **swarm).of_members
        return train(data, ("Adam", {}), losses, one_hot=False)

    def each(output: Tensor, label: Tensor) -> Tensor:
        return torch.stack([loss(o, y) for o, y in zip(output, label, strict=True)])

    return train(data, ("Adam", {}), each, one_hot=False)


TABLES = {"tables": _tables, "values": _values, "choices": _choices}


def tasks(args: argparse.Namespace) -> list[Task]:
    part = "tuning" if args.table == "choices" else "test"
    common = {"table": args.table, "part": part, "steps": STEPS, "dir": args.data_dir}
    names = args.data.split(",") if args.data else list(NAMES)
    scales = args.scales.split(",")
    if args.table == "values":
        names = names if args.data else [*names, "yeast"]
        methods = args.methods.split(";") if args.methods else list(VALUES)
        return [
            {"data": d, "scale": s, "method": m, **common}
            for s in scales for d in names for m in methods
        ]  # fmt: skip
    if args.table == "choices":
        return [
            {"data": d, "scale": s, "loss": c, "method": m, **common}
            for m in CHOICES for s in scales for c in CRITERIA for d in CHOSEN_ON
        ]  # fmt: skip
    methods = args.methods.split(";") if args.methods else list(OPTIMISERS)
    return [
        {"data": d, "scale": s, "loss": c, "optimiser": o, **common}
        for o in methods for s in scales for c in CRITERIA for d in names
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=tuple(TABLES))
    parser.add_argument("--data-dir", required=True, help="folder of the CSV files")
    parser.add_argument("--scales", default="raw,standardised")
    parser.add_argument("--data", help="names separated by commas; default: all")
    parser.add_argument("--methods", help="names separated by semicolons; default: all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or RAW / f"swarm-{args.table}.jsonl"
    for row in pooled(work, tasks(args), out, args.jobs):
        task = row["task"]
        score = sum(row["accuracy"]) / len(row["accuracy"])
        macro = sum(row["f1"]) / len(row["f1"])
        what = f"{task.get('loss', '')} {task.get('method') or task['optimiser']}"
        name = f"{task['data']:24} {task['scale']:12} {what:26}"
        print(f"{name} {score:6.2f} {macro:6.2f} {row['seconds']}", flush=True)


if __name__ == "__main__":
    main()
