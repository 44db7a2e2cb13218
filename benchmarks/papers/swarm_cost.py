"""What a training step with SwarmLoss costs beside the same step with the plain loss, as raw rows.

    python benchmarks/papers/swarm_cost.py [--adaswarm FOLDER]

A step is forward, loss, backward and Adam. All criteria of a case take turns in one process of
one thread. Times are medians of the processor's time, which is the wall's on an idle machine;
on a busy one the wall's, which is in the rows too, counts other programs as well. FOLDER holds the
`adaswarm` package (`pip install --no-deps --target FOLDER adaswarm`); without it that row is
left out. Rows go to docs/results/raw/swarm-cost.jsonl; `section` makes their part of the page.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from common import RAW
from gadam_page import table
from torch import Tensor, nn
from torch.nn import functional

from gradevo import SwarmLoss
from gradevo.models import LeNet5, mlp

Row = dict[str, Any]
Step = Callable[[], Any]
INPUTS, HIDDEN = 20, 10
NETWORK_GOAL, LENET_GOAL, PACKAGE_GOAL = 2.0, 1.2, 50.0


@dataclass(frozen=True)
class Case:
    """One network and loss.

    Attributes:
        name: of the network.
        build: returns it.
        inputs: shape of a batch.
        classes: outputs.
        loss: the plain criterion.
        repeats: timed steps of each criterion.
        goal: most times the plain step, for the default; None: none was set.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    classes: int
    loss: nn.Module
    repeats: int
    goal: float | None

    @property
    def probabilities(self) -> bool:
        return not isinstance(self.loss, nn.CrossEntropyLoss)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Random inputs; labels, one-hot where the loss compares entry by entry."""
        x, y = torch.randn(self.inputs), torch.randint(self.classes, (self.inputs[0],))
        return x, functional.one_hot(y, self.classes).float() if self.probabilities else y


def small(classes: int, sigmoid: bool) -> Callable[[], nn.Module]:
    """The paper's network: one hidden layer of 10."""
    build = mlp(INPUTS, HIDDEN, classes)
    return (lambda: nn.Sequential(build(), nn.Sigmoid())) if sigmoid else build


CASES = [
    *[Case("10 neurons", small(3, True), (40, INPUTS), 3, loss, 1000, NETWORK_GOAL)
      for loss in (nn.BCELoss(), nn.MSELoss(), nn.L1Loss())],
    Case("LeNet-5", LeNet5, (128, 1, 28, 28), 10, nn.CrossEntropyLoss(), 100, LENET_GOAL),
    Case("10 neurons", small(1000, False), (128, INPUTS), 1000, nn.CrossEntropyLoss(), 20, None),
]  # fmt: skip
DEFAULT = "default"


def criteria(case: Case) -> dict[str, nn.Module]:
    """The plain loss and swarms around it."""
    bounds = (0.0, 1.0) if case.probabilities else None
    return {
        "plain": case.loss,
        DEFAULT: SwarmLoss(case.loss, bounds=bounds),
        "rank, a row": SwarmLoss(case.loss, bounds=bounds, scope="row"),
        "regression": SwarmLoss(case.loss, bounds=bounds, estimator="regression"),
        "paper": SwarmLoss.paper(case.loss, bounds=bounds),
    }


def training_step(case: Case, criterion: nn.Module, x: Tensor, y: Tensor) -> Step:
    """One step of a network of its own."""
    torch.manual_seed(0)
    network = case.build()
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        criterion(network(x), y).backward()
        optimizer.step()

    return step


def medians(steps: dict[str, Step], repeats: int) -> dict[str, tuple[float, ...]]:
    """Median milliseconds of each step, the processor's and the wall's; they take turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for repeat in range(-max(1, repeats // 20), repeats):  # the first are for warming up
        for name, step in steps.items():
            wall, own = time.perf_counter(), time.process_time()
            step()
            if repeat >= 0:
                times[name].append((time.process_time() - own, time.perf_counter() - wall))
    return {
        name: tuple(round(1000 * statistics.median(kind), 4) for kind in zip(*found, strict=True))
        for name, found in times.items()
    }


def measure(case: Case) -> list[Row]:
    """One row a criterion."""
    x, y = case.batch()
    chosen = criteria(case)
    steps = {name: training_step(case, c, x, y) for name, c in chosen.items()}
    times = medians(steps, case.repeats)
    return [{
        "case": f"{case.name}, {case.inputs[0]} x {case.classes}",
        "loss": type(case.loss).__name__, "criterion": name,
        "milliseconds": times[name][0], "wall_milliseconds": times[name][1],
        "ratio": round(times[name][0] / times["plain"][0], 3),
        "wall_ratio": round(times[name][1] / times["plain"][1], 3),
        "evaluations": chosen[name].evaluations if name != "plain" else 0,
        "repeats": case.repeats, "load": load(),
        "goal": case.goal if name == DEFAULT else None,
    } for name in chosen]  # fmt: skip


def load() -> float:
    """Processes that wanted a core, on average over the last minute."""
    return round(os.getloadavg()[0], 1)


# --- the package from PyPI -----------------------------------------------------------------


def beside_package(folder: Path) -> list[Row]:
    """`adaswarm.nn.BCELoss`, forward and backward alone, and ours on the same outputs."""
    sys.path.insert(0, str(folder))
    package = import_module("adaswarm.nn")
    target = functional.one_hot(torch.randint(3, (40,)), 3).float()
    output = torch.rand(40, 3).requires_grad_()
    chosen = {
        DEFAULT: SwarmLoss(nn.BCELoss()),
        "paper": SwarmLoss.paper(nn.BCELoss(), bounds=(0.0, 1.0)),
        "adaswarm package": package.BCELoss(),
    }
    steps = {name: lambda c=c: c(output, target).backward() for name, c in chosen.items()}
    times = medians(steps, 20)
    slow = times["adaswarm package"]
    return [{
        "case": "loss alone, 40 x 3", "loss": "BCELoss", "criterion": name,
        "milliseconds": times[name][0], "wall_milliseconds": times[name][1],
        "ratio": round(slow[0] / times[name][0], 2),
        "wall_ratio": round(slow[1] / times[name][1], 2),
        "evaluations": getattr(chosen[name], "evaluations", 400),
        "repeats": 20, "load": load(), "goal": PACKAGE_GOAL if name == DEFAULT else None,
    } for name in chosen]  # fmt: skip


# --- the page ------------------------------------------------------------------------------


def section(rows: list[Row]) -> str:
    """Steps over plain steps; the package beside; the goals."""
    alone = [row for row in rows if row["case"].startswith("loss alone")]
    steps = [row for row in rows if row not in alone]
    names = list(dict.fromkeys(row["criterion"] for row in steps))
    body = []
    for case, loss in dict.fromkeys((row["case"], row["loss"]) for row in steps):
        mine = {r["criterion"]: r for r in steps if (r["case"], r["loss"]) == (case, loss)}
        body.append([case, loss, *[_cell(mine[name]) for name in names]])
    costs = {row["criterion"]: row["evaluations"] for row in steps}
    head = [f"{name}, {costs[name]} evaluations" if costs[name] else name for name in names]
    parts = [table(["network, batch x outputs", "loss", *head], body)]
    parts += [_package(alone)] if alone else ["The adaswarm package was not measured."]
    loads = [row["load"] for row in rows]
    parts.append(f"Processes that wanted the 2 cores meanwhile: {min(loads)} to {max(loads)}.")
    return "\n\n".join([*parts, *goals(rows)])


def _cell(row: Row) -> str:
    time = f"{row['milliseconds']:.3g} ms"
    return time if row["criterion"] == "plain" else f"{row['ratio']:.2f} ({time})"


def _package(rows: list[Row]) -> str:
    body = [[r["criterion"], str(r["evaluations"]), f"{r['milliseconds']:.3g}",
             f"{r['ratio']:,.0f}"] for r in rows]  # fmt: skip
    head = ["BCELoss alone, 40 x 3, forward and backward", "evaluations", "ms",
            "times faster than the package"]  # fmt: skip
    return table(head, body)


def goals(rows: list[Row]) -> list[str]:
    """Each goal, met or not."""
    lines = []
    for row in (row for row in rows if row["goal"]):
        package = row["case"].startswith("loss alone")
        met = row["ratio"] >= row["goal"] if package else row["ratio"] <= row["goal"]
        what = (f"at least {row['goal']:g} times faster than the package" if package
                else f"at most {row['goal']:g} times the plain step")  # fmt: skip
        lines.append(f"- {row['case']}, {row['loss']}, {row['criterion']}: {what}: "
                     f"{'yes' if met else 'no'} ({row['ratio']:.4g}; by the wall "
                     f"{row['wall_ratio']:.4g}).")  # fmt: skip
    return ["Goals:\n\n" + "\n".join(lines)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adaswarm", type=Path, help="folder that holds the adaswarm package")
    parser.add_argument("--out", type=Path, default=RAW)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for case in CASES for row in measure(case)]
    if args.adaswarm is None:
        print("adaswarm: skipped, no --adaswarm FOLDER")
    else:
        rows += beside_package(args.adaswarm)
    args.out.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (args.out / "swarm-cost.jsonl").write_text(text)
    print(section(rows))


if __name__ == "__main__":
    main()
