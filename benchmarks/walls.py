"""What particles do at the walls of their box: docs/results/walls.md, from raw rows.

    python benchmarks/walls.py run     # most of an hour of one core; goes on where it was stopped
    python benchmarks/walls.py page

Four functions, each with its minimum at a share of the box's width from a wall, in every dimension
and on alternating sides; nine kinds of wall, of which gradevo has the bouncing ones
(`Dynamics.bounce`; 0 absorbs). The others are here only.
"""

import argparse
import itertools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from gradevo.swarm import (
    EMPSO,
    PSO,
    REMPSO,
    Dynamics,
    MomentumPSO,
    Swarm,
    minimize,
    search,
    stopping,
)
from gradevo.swarm.search import Box

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PAGE, RAW = RESULTS / "walls.md", RESULTS / "raw" / "swarm-walls.jsonl"
TEMPLATE = Path(__file__).with_suffix(".md")
SEEDS, PARTICLES, ITERATIONS, CUBE = 20, 20, 1000, 1e-2
DIMS, SHARES, SMALLEST = (2, 10, 30, 100), (0.0, 1e-3, 1e-2, 0.05, 0.4), 1e-12
RULES: dict[str, Dynamics] = {
    "EMPSO": EMPSO(), "PSO": PSO(), "momentum PSO": MomentumPSO(), "REMPSO": REMPSO(),
}  # fmt: skip
Row = dict[str, Any]


# --- functions, their minimum of 0 at 0 ----------------------------------------------------


def ellipsoid(z: Tensor) -> Tensor:
    return (torch.logspace(0, 6, z.shape[1], dtype=z.dtype) * z.square()).sum(dim=1)


def rosenbrock(z: Tensor) -> Tensor:
    z = z + 1
    return (100 * (z[:, 1:] - z[:, :-1] ** 2) ** 2 + (1 - z[:, :-1]) ** 2).sum(dim=1)


def rastrigin(z: Tensor) -> Tensor:
    return (z.square() - 10 * torch.cos(2 * math.pi * z) + 10).sum(dim=1)


def griewank(z: Tensor) -> Tensor:
    roots = torch.arange(1, z.shape[1] + 1, dtype=z.dtype).sqrt()
    return z.square().sum(dim=1) / 4000 - torch.cos(z / roots).prod(dim=1) + 1


FUNCTIONS = {  # and half the width of the box that they are usually searched in
    "ellipsoid": (ellipsoid, 100.0), "rosenbrock": (rosenbrock, 30.0),
    "rastrigin": (rastrigin, 5.12), "griewank": (griewank, 600.0),
}  # fmt: skip


# --- walls: places and velocities of the next move, from the last places and free ones -----

Wall = Callable[[Tensor, Tensor, Tensor, Box, Generator], tuple[Tensor, Tensor]]


def bounce(share: float) -> Wall:
    """Stop at the wall and turn round with a share of the speed; 0 absorbs."""

    def at(old: Tensor, x: Tensor, v: Tensor, box: Box, random: Generator) -> tuple[Tensor, Tensor]:
        inside = box.clip(x)
        return inside, torch.where(inside == x, v, -share * v)

    return at


def bounce_at_random(
    old: Tensor, x: Tensor, v: Tensor, box: Box, random: Generator
) -> tuple[Tensor, Tensor]:
    """The same with a share drawn anew."""
    inside, r = box.clip(x), torch.rand(v.shape, generator=random, dtype=v.dtype)
    return inside, torch.where(inside == x, v, -r * v)


def mirror(share: float) -> Wall:
    """Go on inside as a ray of light would, with a share of the speed."""

    def at(old: Tensor, x: Tensor, v: Tensor, box: Box, random: Generator) -> tuple[Tensor, Tensor]:
        width = box.high - box.low
        way = torch.remainder(x - box.low, 2 * width)
        there = box.clip(box.low + torch.where(way > width, 2 * width - way, way))
        return there, torch.where(box.clip(x) == x, v, -share * v)

    return at


def anywhere(
    old: Tensor, x: Tensor, v: Tensor, box: Box, random: Generator
) -> tuple[Tensor, Tensor]:
    """Anywhere in the box, at rest."""
    inside = box.clip(x) == x
    drawn = box.low + torch.rand(v.shape, generator=random, dtype=v.dtype) * (box.high - box.low)
    return torch.where(inside, x, drawn), torch.where(inside, v, 0.0)


def between(
    old: Tensor, x: Tensor, v: Tensor, box: Box, random: Generator
) -> tuple[Tensor, Tensor]:
    """Anywhere between the last place and the wall, with the velocity that led there."""
    inside, r = box.clip(x), torch.rand(v.shape, generator=random, dtype=v.dtype)
    there = torch.where(inside == x, x, old + r * (inside - old))
    return there, torch.where(inside == x, v, there - old)


WALLS: dict[str, Wall | None] = {
    "absorbing": bounce(0.0), "bounce 0.5": bounce(0.5), "bounce 1": bounce(1.0),
    "bounce, random": bounce_at_random, "mirror 1": mirror(1.0), "mirror 0.5": mirror(0.5),
    "anywhere": anywhere, "between": between, "infinity": None,
}  # fmt: skip


def moving(wall: Wall | None) -> Callable[..., Swarm]:
    """`search.move` with another wall; None: f is infinite outside, and nothing stops there."""

    def move(swarm: Swarm, dynamics: Dynamics, random: Generator, box: Box) -> Swarm:
        free = search.move(swarm, dynamics, random)
        if wall is None:
            return free
        x, v = wall(swarm.x, free.x, free.v, box, random)
        return replace(free, x=x, v=v)

    return move


# --- runs ----------------------------------------------------------------------------------


def measured(rule: str, dims: int, name: str, share: float, wall: str) -> Row:
    """One row: the values that all seeds found."""
    f, half = FUNCTIONS[name]
    near = torch.arange(dims) % 2 == 0  # the minimum is near the lower wall there
    low = -2 * half * torch.where(near, share, 1 - share).double()
    high = low + 2 * half

    def bounded(x: Tensor) -> Tensor:
        outside = ((x < low) | (x > high)).any(dim=1)
        return torch.where(outside, math.inf, f(x))

    random, begin = torch.Generator().manual_seed(0), time.process_time()
    shape = (SEEDS, PARTICLES, dims)
    x0 = low + 2 * half * torch.rand(shape, generator=random, dtype=torch.float64)
    stopping.move = moving(WALLS[wall])  # in the place of the library's own
    found = minimize(
        bounded, x0=x0, bounds=(low, high), dynamics=RULES[rule], iterations=ITERATIONS, cube=CUBE
    )
    values = [float(f"{value:.4g}") for value in found.value.tolist()]
    return {
        "rule": rule, "dims": dims, "function": name, "share": share, "wall": wall,
        "seeds": SEEDS, "particles": PARTICLES, "values": values,
        "cube": found.reason.count("cube") / SEEDS,
        "moves": statistics.mean(found.iterations.tolist()),
        "on_wall": float(((found.x == low) | (found.x == high)).any(dim=1).double().mean()),
        "seconds": round(time.process_time() - begin, 2),
    }  # fmt: skip


def run() -> None:
    """Append the rows that are not there yet."""
    torch.set_num_threads(1)
    keys = ("rule", "dims", "function", "share", "wall")
    done = {tuple(row[key] for key in keys) for row in rows()}
    for dims, rule, name, share, wall in itertools.product(DIMS, RULES, FUNCTIONS, SHARES, WALLS):
        if (rule, dims, name, share, wall) not in done:
            with RAW.open("a") as file:
                file.write(json.dumps(measured(rule, dims, name, share, wall)) + "\n")


def rows() -> Iterator[Row]:
    if RAW.exists():
        yield from map(json.loads, RAW.read_text().splitlines())


# --- the page ------------------------------------------------------------------------------


def found_by(kept: list[Row], **where: Any) -> tuple[float, float]:
    """Mean over the functions of the median log10 and of half of the quartiles' distance."""
    logs = [
        [math.log10(max(value, SMALLEST)) for value in row["values"]]
        for row in kept if all(row[key] == value for key, value in where.items())
    ]  # fmt: skip
    halves = [(q[2] - q[0]) / 2 for q in (statistics.quantiles(values, n=4) for values in logs)]
    return statistics.mean(map(statistics.median, logs)), statistics.mean(halves)


def page() -> None:
    kept = list(rows())
    cells = {
        key: found_by(kept, **dict(zip(("rule", "dims", "share", "wall"), key, strict=True)))
        for key in itertools.product(RULES, DIMS, SHARES, WALLS)
    }
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    PAGE.write_text(TEMPLATE.read_text().format(
        functions=len(FUNCTIONS), seeds=SEEDS, particles=PARTICLES, cube=CUBE,
        iterations=ITERATIONS, versions=versions, **short(kept, cells), **early(kept),
        tables="\n\n".join(table(rule, cells) for rule in RULES),
    ))  # fmt: skip


def table(rule: str, cells: dict[Any, tuple[float, float]]) -> str:
    lines = [f"### {rule}", "", "| dims | from the wall | " + " | ".join(WALLS) + " |",
             "|---" * (2 + len(WALLS)) + "|"]  # fmt: skip
    for dims, share in itertools.product(DIMS, SHARES):
        row = [cells[rule, dims, share, wall] for wall in WALLS]
        best = min(median for median, _ in row)
        texts = [f"{median:.1f} ± {half:.1f}" for median, half in row]
        texts = [f"**{t}**" if m <= best + 0.3 else t for t, (m, _) in zip(texts, row, strict=True)]
        lines.append(f"| {dims} | {share:.1%} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def short(kept: list[Row], cells: dict[Any, tuple[float, float]]) -> Row:
    """How far each wall is behind the best of a row, and what holds a swarm at a wall."""
    behind = {wall: [] for wall in WALLS}
    for rule, dims, share in itertools.product(RULES, DIMS, SHARES):
        row = {wall: cells[rule, dims, share, wall][0] for wall in WALLS}
        for wall, value in row.items():
            behind[wall].append(value - min(row.values()))
    mean = {wall: statistics.mean(values) for wall, values in behind.items()}

    def held(wall: str) -> float:
        near = [
            r for r in kept if r["rule"] == "PSO" and r["wall"] == wall and 0 < r["share"] < 0.1
        ]
        return statistics.mean(row["on_wall"] for row in near)

    at = [
        cells[rule, dims, 0.0, "bounce 0.5"][0] - cells[rule, dims, 0.0, "absorbing"][0]
        for rule, dims in itertools.product(RULES, DIMS)
    ]
    names = {
        "bounce 0.5": "default", "bounce 1": "one", "bounce, random": "random",
        "mirror 1": "mirror", "mirror 0.5": "half",
    }  # fmt: skip
    return {
        **{names.get(wall, wall): value for wall, value in mean.items()},
        "cells": len(behind["absorbing"]), "held": held("absorbing"), "freed": held("bounce 0.5"),
        "cost": statistics.mean(at),
    }  # fmt: skip


def early(kept: list[Row]) -> Row:
    """What a swarm finds that has its minimum far from all walls."""

    def far(rule: str) -> float:
        return found_by(kept, rule=rule, dims=10, share=0.4, wall="bounce 0.5")[0]

    ours = [
        row for row in kept
        if row["rule"] == "EMPSO" and row["share"] == 0.4 and row["wall"] == "bounce 0.5"
    ]  # fmt: skip
    return {
        "moves": statistics.median(row["moves"] for row in ours),
        "empso": far("EMPSO"), "rempso": far("REMPSO"), "pso": far("PSO"),
        "momentum": far("momentum PSO"),
        "contracted": statistics.mean(row["cube"] for row in ours if row["dims"] == 10),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("run", "page"))
    {"run": run, "page": page}[parser.parse_args().part]()


if __name__ == "__main__":
    main()
