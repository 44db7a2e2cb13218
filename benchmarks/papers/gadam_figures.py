"""Figures 2 to 5 of the GADAM paper, from runs, as PNG files and raw rows.

    python benchmarks/papers/gadam_figures.py surface
    python benchmarks/papers/gadam_figures.py settings --data-dir DIR [--jobs 2]

`surface` is figure 2: a function of two variables where one Adam run is caught. `settings` is
figures 3 to 5: generations, population size, adoption of children, on LETTER with its
perceptron (the paper used LeNet-5 on MNIST, which would take days here).
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib
import torch
from common import RAW, Task, load, network, pooled, run
from torch import Tensor, nn

import gradevo as ge

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIGURES = RAW.parent / "figures"
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
GOAL = torch.tensor([1.3, -0.7])  # the global minimum, value 0
SEEDS = 30


def surface(w: Tensor) -> Tensor:
    """A bowl with ripples: one global minimum at `GOAL`, local ones about 1 apart."""
    d = w - GOAL
    return (0.5 * d**2 + 2 * (1 - torch.cos(2 * math.pi * d))).sum(dim=-1)


class Point(nn.Module):
    """Two weights, started anywhere in the square from -4 to 4."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.rand(2) * 8 - 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x), 2)


def minimise(algorithm: Any, seed: int) -> tuple[float, float]:
    rows = torch.zeros(2, 1)
    result = ge.fit(
        algorithm, Point, lambda w, _: surface(w).mean(), (rows, rows), valid=(rows, rows),
        seed=seed, engine="vmap",
    )  # fmt: skip
    w = result.best.w.detach()
    return float(surface(w)), float((w - GOAL).norm())


def draw_surface() -> None:
    """How often each method reaches the global minimum, at equal cost; picture beside."""
    common: dict[str, Any] = {"batch_size": 2, "lr": 2e-2, "weight_decay": 0.0}
    crossed = ge.GADAM(steps=50, generations=9, crossover="uniform", crossover_rate=1.0, **common)
    total = crossed.phases * crossed.steps
    methods = {
        "one Adam run": ge.Independent(population=1, steps=10 * total, **common),
        "best of 10 Adam runs": ge.Independent(population=10, steps=total, **common),
        "GADAM, uniform crossover": crossed,
    }
    rows = []
    for name, algorithm in methods.items():
        ends = [minimise(algorithm, seed) for seed in range(SEEDS)]
        reached = sum(distance < 0.1 for _, distance in ends)
        mean = statistics.mean(value for value, _ in ends)
        rows.append({"method": name, "reached": reached, "of": SEEDS, "mean_value": mean,
                     "member_steps": 10 * total})  # fmt: skip
        print(rows[-1], flush=True)
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "gadam-surface.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _picture(rows)


def _picture(rows: list[dict[str, Any]]) -> None:
    side = torch.linspace(-4, 4, 200)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.contourf(side, side, surface(grid), levels=20, cmap="cividis")
    left.plot(*GOAL.tolist(), "*", color="white", markersize=14)
    left.set(xlabel="$w_1$", ylabel="$w_2$", title="Loss; the star is the global minimum")
    names = [row["method"].replace(", ", "\n").replace("10 ", "10\n") for row in rows]
    bars = right.bar(names, [row["reached"] for row in rows], color=[GREY, ORANGE, BLUE])
    right.bar_label(bars)
    right.set(ylim=(0, SEEDS * 1.1), title=f"Runs of {SEEDS} that reach it, equal cost")
    _save(figure, "gadam-surface.png")


def work(task: Task) -> Task:
    data = load(task["data"], Path(task["dir"]), task["seed"])
    make = ge.GADAM.paper if task["setting"] == "paper" else ge.GADAM
    algorithm = make(
        population=task["population"], generations=task["generations"], steps=task["steps"]
    )
    outcome = run(algorithm, data, network(task["data"], data), task["seed"], data.test)
    return {"task": {k: v for k, v in task.items() if k != "dir"}, **outcome}


def draw_settings(data_dir: str, jobs: int) -> None:
    sizes = (2, 5, 10, 15, 20)
    tasks = [
        {"data": "letter", "seed": s, "setting": m, "population": g, "generations": k,
         "steps": 200, "dir": data_dir}
        for s in range(3) for m in ("default", "paper")
        for g, k in [(10, 10), *[(g, 4) for g in sizes]]
    ]  # fmt: skip
    rows = list(pooled(work, tasks, RAW / "gadam-settings.jsonl", jobs))
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for setting, colour in (("default", BLUE), ("paper", ORANGE)):
        mine = [row for row in rows if row["task"]["setting"] == setting]
        long = [row for row in mine if row["task"]["generations"] == 10]
        _generations(axes[0], long, "best", colour, "-", f"{setting}, best")
        _generations(axes[0], long, "mean", colour, "--", f"{setting}, mean")
        _generations(axes[2], long, "adoption", colour, "-", setting)
        short = [row for row in mine if row["task"]["generations"] == 4]
        points = [
            statistics.mean(r["best"]["loss"] for r in short if r["task"]["population"] == g)
            for g in sizes
        ]
        axes[1].plot(sizes, points, "o-", color=colour, label=setting)
    axes[0].set(xlabel="generation", ylabel="validation loss", title="Generations", yscale="log")
    axes[1].set(xlabel="population", ylabel="test loss of the best", title="Population size")
    axes[2].set(xlabel="generation", ylabel="share of survivors that are children", ylim=(0, 1),
                title="Adoption of children")  # fmt: skip
    for axis in axes:
        axis.legend(frameon=False)
    _save(figure, "gadam-settings.png")


def _generations(axis: Any, rows: Any, name: str, colour: str, style: str, label: str) -> None:
    curves = [[info[name] for info in row["history"]] for row in rows]
    mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
    axis.plot(range(1, len(mean) + 1), mean, style, color=colour, label=label)


def _save(figure: Any, name: str) -> None:
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / name, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("surface", "settings"))
    parser.add_argument("--data-dir")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    if args.part == "surface":
        draw_surface()
    else:
        draw_settings(args.data_dir, args.jobs)


if __name__ == "__main__":
    main()
