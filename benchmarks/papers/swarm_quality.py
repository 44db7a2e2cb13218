"""How good a gradient from a swarm is: against autograd, on smooth losses, as raw rows.

    python benchmarks/papers/swarm_quality.py

Every trial has its own point and its own loss. All estimators see the same evaluated points, so
they are paired. Rows go to docs/results/raw/swarm-quality.jsonl; `section` makes their part of
the page.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import RAW
from gadam_page import table
from torch import Generator, Tensor
from torch.nn import functional

from gradevo.swarm import EMPSO, ESTIMATORS, Cloud
from gradevo.swarm.estimators import SIZED
from gradevo.swarm.gradient import around, visit

Row = dict[str, Any]
Loss = Callable[[Tensor], Tensor]
TRIALS = {1: 100, 10: 100, 100: 100, 1000: 10}  # dims: trials
WIDE = (10, 100)  # dims at which points as far away as SwarmLoss's are measured too
LOCAL, FAR = 0.01, 0.5  # spread; half the width of the cube of points
WAVES = 32
GOAL = {"cosine": 0.99, "share": 0.95, "dims": (10, 100)}


# --- losses of one trial: `(n, dims)` to `(n,)` --------------------------------------------


def cross_entropy(dims: int, generator: Generator) -> Loss:
    """Of logits against one label; with one logit, of its sigmoid against 0 or 1."""
    label = torch.randint(max(dims, 2), (1,), generator=generator)
    if dims == 1:
        sign = 1.0 - 2.0 * label
        return lambda x: functional.softplus(sign * x[:, 0])
    return lambda x: functional.cross_entropy(x, label.expand(len(x)), reduction="none")


def mse(dims: int, generator: Generator) -> Loss:
    target = torch.randn(dims, generator=generator)
    return lambda x: (x - target).square().mean(dim=1)


def waves(dims: int, generator: Generator) -> Loss:
    """A random non-convex function: a sum of sine waves in random directions."""
    directions = torch.randn(dims, WAVES, generator=generator) / math.sqrt(dims)
    heights = torch.randn(WAVES, generator=generator)
    shifts = torch.rand(WAVES, generator=generator) * 2 * math.pi
    return lambda x: (2 * x @ directions + shifts).sin() @ heights


LOSSES: dict[str, Callable[[int, Generator], Loss]] = {
    "cross-entropy": cross_entropy,
    "mse": mse,
    "waves": waves,
}


# --- points --------------------------------------------------------------------------------


def settings(dims: int) -> Iterator[Row]:
    """How points are found: one shot of so many, or a swarm's moves."""
    shots = {"10": 10, "20": 20, "d + 1": dims + 1, "2d + 1": 2 * dims + 1, "4d + 1": 4 * dims + 1}
    spreads = (LOCAL, FAR) if dims in WIDE else (LOCAL,)
    for spread in spreads:
        for name, particles in shots.items():
            yield {"points": name, "particles": particles, "iterations": 0, "spread": spread}
        for r in ("entry", "particle"):
            for iterations in (9, 39):
                name = f"EMPSO 10 x {iterations + 1}, r a {r}"
                yield {"points": name, "particles": 10, "iterations": iterations,
                       "spread": spread, "per_entry": r == "entry"}  # fmt: skip


def visited(f: Loss, w: Tensor, setting: Row, generator: Generator) -> Cloud:
    """The points of a setting around w, evaluated."""
    x = around(w, setting["particles"], setting["spread"], generator)
    dynamics = EMPSO(per_entry=setting.get("per_entry", True))

    def values(x: Tensor) -> Tensor:
        return f(x[0]).unsqueeze(0)

    return visit(values, w, x, dynamics, setting["iterations"], generator)


# --- measures ------------------------------------------------------------------------------


def trial(name: str, dims: int, setting: Row, seed: int) -> dict[str, tuple[float, float]]:
    """Cosine similarity and relative error of every estimator."""
    generator = torch.Generator().manual_seed(seed)
    f = LOSSES[name](dims, generator)
    w = torch.randn(1, dims, generator=generator, requires_grad=True)
    (truth,) = torch.autograd.grad(f(w).sum(), w)
    cloud = visited(f, w.detach(), setting, generator)
    return {key: against(estimate(cloud)[0], truth[0]) for key, estimate in ESTIMATORS.items()}


def against(found: Tensor, truth: Tensor) -> tuple[float, float]:
    """Cosine similarity of two gradients, and the size of their difference over the truth's."""
    error = (found - truth).norm() / truth.norm()
    return float(functional.cosine_similarity(found, truth, dim=0)), float(error)


def measure(name: str, dims: int, setting: Row) -> list[Row]:
    """One row an estimator."""
    trials = [trial(name, dims, setting, seed) for seed in range(TRIALS[dims])]
    rows = []
    for estimator in ESTIMATORS:
        cosines, errors = torch.tensor([t[estimator] for t in trials]).T
        rows.append({
            "loss": name, "dims": dims, "estimator": estimator, **setting,
            "evaluations": setting["particles"] * (setting["iterations"] + 1),
            "trials": len(trials),
            "cosine": round(float(cosines.mean()), 4),
            "cosine_5_percent": round(float(cosines.quantile(0.05)), 4),
            "share": round(float((cosines >= GOAL["cosine"]).float().mean()), 3),
            "relative_error": float(f"{float(errors.median()):.3g}"),
        })  # fmt: skip
    return rows


# --- the page ------------------------------------------------------------------------------


def section(rows: list[Row]) -> str:
    """Cosines near w and farther away, relative errors, the goal."""
    return "\n\n".join(
        [cosines(rows, LOCAL, tuple(TRIALS)), cosines(rows, FAR, WIDE), _errors(rows), *goals(rows)]
    )


def cosines(rows: list[Row], spread: float, dims: tuple[int, ...]) -> str:
    """Mean cosines over trials and losses, side by side for numbers of dims."""
    mine = [row for row in rows if row["dims"] in dims and row["spread"] == spread]
    found = {(r["points"], r["estimator"]): [] for r in mine}
    for name in found:
        at = [r for r in mine if (r["points"], r["estimator"]) == name]
        for d in dims:
            values = [r["cosine"] for r in at if r["dims"] == d]
            found[name].append(f"{statistics.mean(values):.2f}" if values else "")
    body = [[points, *[" / ".join(found[points, e]) for e in ESTIMATORS]]
            for points in dict.fromkeys(r["points"] for r in mine)]  # fmt: skip
    title = f"### Cosine, points within {spread:g} of w, {' / '.join(map(str, dims))} dims"
    return f"{title}\n\n{table(['evaluations', *ESTIMATORS], body)}"


def _errors(rows: list[Row]) -> str:
    body = []
    for dims in TRIALS:
        for points in ("d + 1", "2d + 1", "4d + 1"):
            mine = [r for r in rows if r["dims"] == dims and r["points"] == points
                    and r["spread"] == LOCAL]  # fmt: skip
            cells = [" / ".join(f"{r['relative_error']:.2g}" for r in mine if r["estimator"] == e)
                     for e in SIZED]  # fmt: skip
            body.append([str(dims), points, *cells])
    title = f"### Relative error, median, within {LOCAL:g}: {' / '.join(LOSSES)}"
    return f"{title}\n\n{table(['dims', 'evaluations', *SIZED], body)}"


def goals(rows: list[Row]) -> list[str]:
    """The goal on each loss, met or not."""
    lines = []
    for dims in GOAL["dims"]:
        mine = [r for r in rows if r["dims"] == dims and r["points"] == "2d + 1"
                and r["estimator"] == "regression" and r["spread"] == LOCAL]  # fmt: skip
        shares = ", ".join(f"{r['loss']} {100 * r['share']:.0f} %" for r in mine)
        met = all(r["share"] >= GOAL["share"] for r in mine)
        lines.append(f"Goal at {dims} dims, regression with 2d + 1 evaluations: cosine at least "
                     f"{GOAL['cosine']} in 95 % of trials: {'yes' if met else 'no'} "
                     f"({shares}).")  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RAW)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for dims in TRIALS:
        for setting in settings(dims):
            for name in LOSSES:
                rows += measure(name, dims, setting)
        print(cosines(rows, LOCAL, (dims,)), "\n", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (args.out / "swarm-quality.jsonl").write_text(text)
    print(*goals(rows), sep="\n")


if __name__ == "__main__":
    main()
