"""Two-wavelength phase unwrapping: heights from phases that say them modulo a wavelength only.

    python benchmarks/papers/swarm_unwrap.py

A network of coordinates predicts the height of every pixel. Data: two noisy wrapped phases a
pixel, phi_k = angle(exp(i 2 pi h / lambda_k)); loss of a pixel: sum over k of
1 - cos(2 pi h / lambda_k - phi_k), which has several minima in h. Rows go to
docs/results/raw/swarm-unwrap.jsonl, a picture to docs/results/figures/swarm-unwrap.png;
`section` makes their part of the page.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from common import RAW
from gadam_figures import FIGURES
from gadam_page import table
from torch import Generator, Tensor, nn

from gradevo import SwarmLoss

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Row = dict[str, Any]
SIDE = 64  # pixels
WAVELENGTHS = torch.tensor([1.0, 1.3])  # both phases come round together at 13, nearly at 4
HIGH = 4.0  # heights are known to lie between 0 and this
NOISE = 0.1  # radians
STEPS = 400
SEEDS = range(5)
PARTICLES = 60
GOAL = 100.0  # times below Adam's mean squared error


@dataclass(frozen=True)
class Method:
    """How the network is trained.

    Attributes:
        kind: "loss" itself, "swarm", both one "after" the other, or the true "heights".
        lr: start rate of Adam; it falls by a cosine.
    """

    kind: str
    lr: float = 1e-2


METHODS = {
    "Adam, rate 1e-3": Method("loss", 1e-3),
    "Adam, rate 1e-2": Method("loss"),
    "Adam, rate 3e-2": Method("loss", 3e-2),
    "Adam + SwarmLoss": Method("swarm"),
    "Adam + SwarmLoss, second half Adam": Method("after"),
    "Adam told the true heights": Method("heights"),
}


def surface() -> tuple[Tensor, Tensor]:
    """Coordinates `(pixels, 2)` and true heights `(pixels,)`: hills on a slope, 0.3 to 3.7."""
    side = torch.linspace(-1, 1, SIDE)
    v, u = torch.meshgrid(side, side, indexing="ij")
    hills = 1.6 * torch.exp(-((u - 0.3) ** 2 + (v - 0.2) ** 2) / 0.15)
    hills = hills - 1.2 * torch.exp(-((u + 0.4) ** 2 + (v + 0.4) ** 2) / 0.1)
    h = hills + 0.8 * u + 0.5 * v**2 + 0.2 * torch.sin(5 * v) * u
    h = 0.3 + 3.4 * (h - h.min()) / (h.max() - h.min())
    return torch.stack([u, v], dim=-1).reshape(-1, 2), h.reshape(-1)


def wrapped(h: Tensor, generator: Generator) -> Tensor:
    """Noisy phases in (-pi, pi], `(pixels, 2)`."""
    phase = 2 * math.pi * h.unsqueeze(-1) / WAVELENGTHS
    phase = phase + NOISE * torch.randn(phase.shape, generator=generator)
    return torch.atan2(phase.sin(), phase.cos())


def mismatch(h: Tensor, phase: Tensor) -> Tensor:
    """Loss of each pixel, `(pixels,)`, for heights `(pixels, 1)`."""
    return (1 - torch.cos(2 * math.pi * h / WAVELENGTHS - phase)).sum(dim=-1)


class Coordinates(nn.Module):
    """A perceptron on waves of the coordinates; it starts in the middle of the range."""

    directions: Tensor

    def __init__(self, waves: int = 32, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(2, waves) * 2 * math.pi)
        self.layers = nn.Sequential(
            nn.Linear(2 * waves, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        z = x @ self.directions
        return HIGH / 2 + self.layers(torch.cat([z.sin(), z.cos()], dim=-1))


# --- training ------------------------------------------------------------------------------


def criterion(method: Method, step: int, h: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """What a step trains on."""
    if method.kind == "heights":
        return lambda output, _: (output[:, 0] - h).square().mean()
    return lambda output, phase: mismatch(output, phase).mean()


def swarm(seed: int) -> SwarmLoss:
    """Points anywhere in the known range of heights, a new draw at every step."""
    return SwarmLoss(mismatch, estimator="tie", particles=PARTICLES, start="range",
                     bounds=(0.0, HIGH), seed=seed)  # fmt: skip


def train(method: Method, seed: int) -> tuple[Row, Tensor]:
    """Errors of the trained network's heights, and the heights."""
    x, h = surface()
    phase = wrapped(h, torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    network = Coordinates()
    optimizer = torch.optim.Adam(network.parameters(), method.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    searching = {"swarm": STEPS, "after": STEPS // 2}.get(method.kind, 0)
    wrapper, evaluations, start = swarm(seed), 0, time.perf_counter()
    for step in range(STEPS):
        loss = wrapper if step < searching else criterion(method, step, h)
        evaluations += wrapper.evaluations if step < searching else 1
        optimizer.zero_grad()
        loss(network(x), phase).backward()
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - start
    found = network(x).detach()[:, 0]
    return {**errors(found, h), "evaluations": evaluations, "seconds": round(seconds, 1)}, found


def searched(seed: int) -> tuple[Row, Tensor]:
    """No network: for every pixel the best of 401 heights."""
    _, h = surface()
    phase = wrapped(h, torch.Generator().manual_seed(seed))
    grid = torch.linspace(0, HIGH, 401)
    start = time.perf_counter()
    values = mismatch(grid.view(1, -1, 1), phase.unsqueeze(1))  # (pixels, 401)
    found = grid[values.argmin(dim=1)]
    seconds = time.perf_counter() - start
    return {**errors(found, h), "evaluations": len(grid), "seconds": round(seconds, 1)}, found


def errors(found: Tensor, h: Tensor) -> Row:
    off = found - h
    return {"mse": float(off.square().mean()), "mae": float(off.abs().mean()),
            "worst": float(off.abs().max())}  # fmt: skip


# --- the page ------------------------------------------------------------------------------


def section(rows: list[Row]) -> str:
    """Errors over the seeds, and the goal."""
    mean = {m: _means(rows, m) for m in dict.fromkeys(row["method"] for row in rows)}
    adam = min((m for n, m in mean.items() if n.startswith("Adam, ")), key=lambda m: m["mse"])
    body = [[name, f"{m['mse']:.2g}", f"{m['mae']:.2g}", f"{m['worst']:.2g}",
             f"{adam['mse'] / m['mse']:,.3g}", f"{adam['mae'] / m['mae']:,.3g}",
             f"{m['evaluations']:,.0f}", f"{m['seconds']:.1f}"]
            for name, m in mean.items()]  # fmt: skip
    head = ["method", "mean squared error", "mean absolute error", "worst pixel",
            "squared: times below Adam's best", "absolute: likewise",
            "evaluations a pixel", "s"]  # fmt: skip
    return table(head, body) + "\n\n" + goal(rows)


def _means(rows: list[Row], method: str) -> dict[str, float]:
    mine = [row for row in rows if row["method"] == method]
    names = ("mse", "mae", "worst", "evaluations", "seconds")
    return {name: statistics.mean(row[name] for row in mine) for name in names}


def goal(rows: list[Row]) -> str:
    """Whether SwarmLoss is far enough below the best of Adam's rates, over all and in each seed."""
    names = [name for name, method in METHODS.items() if method.kind == "loss"]
    adam = min((_means(rows, name)["mse"], name) for name in names)[1]

    def by_seed(method: str) -> dict[int, float]:
        return {row["seed"]: row["mse"] for row in rows if row["method"] == method}

    theirs, ours = by_seed(adam), by_seed("Adam + SwarmLoss")
    factors = [theirs[seed] / ours[seed] for seed in ours]
    total = sum(theirs.values()) / sum(ours.values())
    return (f"Goal: mean squared error at least {GOAL:g} times below Adam's best rate ({adam}): "
            f"{'yes' if total >= GOAL else 'no'} ({total:,.0f} times; least of {len(ours)} seeds "
            f"{min(factors):,.0f}).")  # fmt: skip


def draw(heights: dict[str, Tensor]) -> None:
    """One phase, the true surface, and two networks' surfaces."""
    _, h = surface()
    phase = wrapped(h, torch.Generator().manual_seed(SEEDS[0]))
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
    axes[0].imshow(phase[:, 0].view(SIDE, SIDE), cmap="twilight", origin="lower")
    axes[0].set_title("One of the two phases")
    for axis, (name, found) in zip(axes[1:], {"True heights": h, **heights}.items(), strict=True):
        axis.imshow(found.view(SIDE, SIDE), vmin=0, vmax=HIGH, cmap="cividis", origin="lower")
        axis.set_title(name)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    figure.colorbar(axes[1].images[0], ax=axes, shrink=0.8)
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / "swarm-unwrap.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RAW)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, pictures = [], {}
    for seed in SEEDS:
        runs = {name: train(method, seed) for name, method in METHODS.items()}
        runs["best of 401 heights a pixel, no network"] = searched(seed)
        rows += [{"method": name, "seed": seed, "steps": STEPS, **row}
                 for name, (row, _) in runs.items()]  # fmt: skip
        if seed == SEEDS[0]:
            pictures = {name: runs[name][1] for name in ("Adam, rate 1e-2", "Adam + SwarmLoss")}
        print(*rows[-len(runs) :], sep="\n", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (args.out / "swarm-unwrap.jsonl").write_text(text)
    draw(pictures)
    print(section(rows))


if __name__ == "__main__":
    main()
