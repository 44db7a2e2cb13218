"""Phase unwrapping: a loss with many minima, on which Adam stops and SwarmLoss does not.

    python examples/phase.py

Two sensors tell a height only up to a wavelength: phases of 1.0 and 1.3 units, with noise. A
network of coordinates learns the heights of 32 x 32 points, known to lie between 0 and 4; its
loss is how badly its heights explain the phases, and has a minimum at nearly every wavelength.

What to see: the gradient of Adam leads into the nearest minimum, and the heights around half of
the points are wrong by a wavelength, at any rate and with five times the steps. A swarm around
the outputs looks over the hills, if it is as wide as they are: a narrow one fails like Adam. The
best is to search first, anywhere in the range, and to let Adam finish. True heights measure the
error and nothing else.

Limits: the swarm needs a range or a spread that fits the hills; with one wavelength instead of
two the phases themselves do not tell the heights, and no method can.
"""

import argparse
import math
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import gradevo as ge

WAVELENGTHS = torch.tensor([1.0, 1.3])
HIGH = 4.0  # heights are known to lie between 0 and this
NOISE = 0.1  # radians


@dataclass(frozen=True)
class Method:
    """How the network is trained.

    Attributes:
        search: share of the steps on the swarm's gradient; the others follow the loss's own.
        swarm: arguments of `SwarmLoss`.
        lr: start rate of Adam; it falls by a cosine.
        longer: factor on the steps.
    """

    search: float = 0.0
    swarm: dict[str, Any] = field(default_factory=dict)
    lr: float = 1e-2
    longer: int = 1


NARROW = {"spread": 0.05, "bounds": (0.0, HIGH), "estimator": "tie"}  # 0.2 to each side
WIDE = {"spread": 0.25, "bounds": (0.0, HIGH), "estimator": "tie"}  # 1: a wavelength
ANYWHERE = {"start": "range", "bounds": (0.0, HIGH), "estimator": "tie"}
METHODS = {
    "Adam, rate 1e-3": Method(lr=1e-3),
    "Adam, rate 1e-2": Method(),
    "Adam, five times the steps": Method(longer=5),
    "SwarmLoss, a fifth of a wavelength wide": Method(1.0, NARROW),
    "SwarmLoss, a wavelength wide": Method(1.0, WIDE),
    "SwarmLoss anywhere, then Adam": Method(0.5, ANYWHERE),
}


def surface(side: int) -> tuple[Tensor, Tensor]:
    """Coordinates `(points, 2)` and true heights `(points,)`: hills on a slope, 0.3 to 3.7."""
    line = torch.linspace(-1, 1, side)
    v, u = torch.meshgrid(line, line, indexing="ij")
    h = 1.6 * torch.exp(-((u - 0.3) ** 2 + (v - 0.2) ** 2) / 0.15)
    h = h - 1.2 * torch.exp(-((u + 0.4) ** 2 + (v + 0.4) ** 2) / 0.1) + 0.8 * u + 0.5 * v**2
    h = 0.3 + 3.4 * (h - h.min()) / (h.max() - h.min())
    return torch.stack([u, v], dim=-1).reshape(-1, 2), h.reshape(-1)


def measured(h: Tensor, generator: torch.Generator) -> Tensor:
    """Noisy phases of heights, in (-pi, pi], `(points, 2)`."""
    phase = 2 * math.pi * h.unsqueeze(-1) / WAVELENGTHS
    phase = phase + NOISE * torch.randn(phase.shape, generator=generator)
    return torch.atan2(phase.sin(), phase.cos())


def mismatch(h: Tensor, phase: Tensor) -> Tensor:
    """Loss of each point, `(points,)`, for heights `(points, 1)`."""
    return (1 - torch.cos(2 * math.pi * h / WAVELENGTHS - phase)).sum(dim=-1)


def mean_mismatch(h: Tensor, phase: Tensor) -> Tensor:
    return mismatch(h, phase).mean()


class Heights(nn.Module):
    """A perceptron on waves of the coordinates; it starts in the middle of the range."""

    directions: Tensor

    def __init__(self, waves: int = 16, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(2, waves) * math.pi)
        self.layers = nn.Sequential(
            nn.Linear(2 * waves, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        z = x @ self.directions
        return HIGH / 2 + self.layers(torch.cat([z.sin(), z.cos()], dim=-1))  # (points, 1)


def train(method: Method, seed: int, side: int, steps: int) -> dict[str, float]:
    """Train a network, and compare its heights with the true ones."""
    x, h = surface(side)
    phase = measured(h, torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    network, steps = Heights(), steps * method.longer
    optimizer = torch.optim.Adam(network.parameters(), method.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    swarm = ge.SwarmLoss(mismatch, seed=seed, **method.swarm)
    searching, start = round(method.search * steps), time.perf_counter()
    for step in range(steps):
        criterion = swarm if step < searching else mean_mismatch
        optimizer.zero_grad()
        criterion(network(x), phase).backward()
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        found = network(x)
    off = (found[:, 0] - h).abs()
    evaluations = searching * swarm.evaluations + steps - searching
    return {
        "loss": float(mean_mismatch(found, phase)),
        "error": float(off.square().mean().sqrt()),
        "wrong": float((off > 0.5).float().mean()),
        "evaluations": float(evaluations),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A loss with many minima.")
    parser.add_argument("--quick", action="store_true", help="one seed and fewer points")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    seeds, side, steps = (range(1), 16, 150) if quick else (range(3), 32, 400)
    print(f"{side} x {side} points, {steps} steps, means of {len(seeds)} seed(s)")
    print("loss: of the phases, what is trained; error: of the heights, root mean square;")
    print("wrong: share of the points that are off by more than 0.5\n")
    print(f"{'':40} {'loss':>7} {'error':>7} {'wrong':>7} {'evaluations':>12} {'seconds':>8}")
    for name, method in METHODS.items():
        rows = [train(method, seed, side, steps) for seed in seeds]
        mean = {key: statistics.mean(row[key] for row in rows) for key in rows[0]}
        print(
            f"{name:40} {mean['loss']:7.4f} {mean['error']:7.4f} {mean['wrong']:7.1%} "
            f"{mean['evaluations']:12,.0f} {mean['seconds']:8.1f}"
        )


if __name__ == "__main__":
    main()
