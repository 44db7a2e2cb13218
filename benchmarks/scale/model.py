"""What a generation costs on many ranks: a model of sums, its constants, and what checks it.

    python benchmarks/scale/model.py constants|check|table

A generation of GADAM's children on R ranks with m members each:

    T = m S t            learning: S steps of t seconds
      + m P b / h        fingerprints: b bytes a parameter, h hashed a second
      + G (c + a (R-1))  G gatherings of numbers round a ring of R
      + 3 a + n P b / w  three fetches; n rows in or out of the busiest rank, w bytes a second
      + B(g, R)          who is where: the same computation on every rank
      + m S t s z(R)     waiting: the slowest of R ranks, whose times scatter by the share s

n is counted by the library's own placing of children of random losses, B is timed, z(R) is the
expected largest of R normal numbers. Islands of one rank each that exchange every k generations
pay G' gatherings and one row every k generations, and wait for sums of k generations: s z / sqrt k.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import norm

sys.path.append(str(Path(__file__).parents[1] / "speed"))

from delays import timed
from measure import command_line, machine
from run import RAW, launched

from gradevo.distributed.placing import balanced, blocks, near_parents, rows_at
from gradevo.distributed.rows import fingerprints
from gradevo.models import LeNet5, mlp
from gradevo.operators import selection, survival

DELAYS = Path(__file__).with_name("delays.py")
GATHERINGS, ISLAND_GATHERINGS = 5, 11  # of numbers: what GADAM and Islands call in one
BYTES, BATCH, STEPS = 4, 128, 500
RANKS = (8, 64, 1024)
NETWORKS = {"62 thousand": (61_706, 4), "11 million": (11_000_000, 4), "1 billion": (10**9, 1)}


@dataclass(frozen=True)
class Machine:
    """Constants: seconds, bytes a second, shares."""

    call: float  # c
    latency: float  # a
    bandwidth: float  # w
    hashing: float  # h
    scatter: float  # s


# --- the model -----------------------------------------------------------------------------


@cache
def traffic(each: int, ranks: int) -> tuple[float, float]:
    """Rows in or out of the busiest rank a generation, and seconds of placing them."""
    size, found, spent = each * ranks, [], []
    generator = torch.Generator().manual_seed(0)
    losses, homes = torch.randn(size, generator=generator), blocks(size, ranks)
    for _ in range(4):
        parents = selection.softmax_parents(losses, size, generator)
        parents = selection.fitter_first(parents, losses)
        copies = torch.rand(size, generator=generator) >= 0.7
        parents[copies, 1] = parents[copies, 0]
        start = time.perf_counter()
        born = near_parents(parents, homes, ranks)
        seconds = 2 * (time.perf_counter() - start)  # once to breed, once to survive
        rows = sum(busiest(homes, born, parents[:, side], ranks) for side in (0, 1))
        children = losses[parents].mean(dim=1) + 0.5 * torch.randn(size, generator=generator)
        union, now = torch.cat([losses, children]), torch.cat([homes, born])
        chosen = survival.top(union, size)
        start = time.perf_counter()
        after = balanced(now[chosen], ranks)
        for rank in range(ranks):  # as often as a fetch looks, three times
            rows_at(homes, rank), chosen[:each].unique(), rows_at(homes, rank)
        seconds += 3 * (time.perf_counter() - start)
        rows += busiest(now, after, chosen, ranks)
        losses, homes = union[chosen], after
        found.append(rows)
        spent.append(seconds)
    return statistics.mean(found[1:]), statistics.median(spent)


def busiest(homes: torch.Tensor, to: torch.Tensor, wanted: torch.Tensor, ranks: int) -> int:
    """Most rows that one rank sends or gets, of members that travel to where they are wanted."""
    away = homes[wanted] != to
    trips = torch.unique(torch.stack([wanted[away], to[away]]), dim=1)
    inwards = torch.bincount(trips[1], minlength=ranks)
    outwards = torch.bincount(homes[trips[0]], minlength=ranks)
    return int(torch.maximum(inwards, outwards).max())


def slowest(ranks: int) -> float:
    """z(R): the expected largest of so many normal numbers (Blom's formula)."""
    return float(norm.ppf((ranks - 0.375) / (ranks + 0.25))) if ranks > 1 else 0.0


def generation(
    on: Machine, ranks: int, each: int, learning: float, row: float, every: int = 0
) -> float:
    """Seconds of a generation; `learning`: m S t. `every`: of islands of one rank each."""
    work = learning + each * row / on.hashing
    wait = learning * on.scatter * slowest(ranks)
    ring = on.call + on.latency * (ranks - 1)
    if every and ranks > 1:
        exchange = ISLAND_GATHERINGS * ring + on.latency + row / on.bandwidth
        return work + exchange / every + wait / every**0.5
    if ranks == 1:
        return work
    rows, placing = traffic(each, ranks)
    return work + GATHERINGS * ring + 3 * on.latency + rows * row / on.bandwidth + placing + wait


# --- constants -----------------------------------------------------------------------------


def constants() -> dict[str, Any]:
    """Of this machine: the transport between two and four ranks, hashing, steps of networks."""
    transport = {n: launched(DELAYS, n, ["constants"]) for n in (2, 4)}
    big = {"row": torch.zeros(1, 25_000_000)}
    hashing = 1e8 / timed(lambda: fingerprints(big), 5)
    steps = {"62 thousand": step_of(LeNet5(), (1, 28, 28), 15)}
    steps["11 million"] = step_of(mlp(2048, 2300, 2300, 400, 10)(), (2048,), 5)
    steps["1 billion"] = steps["11 million"] * 10**9 / 11_000_000  # as many FLOPs a parameter
    phases = [step_of(LeNet5(), (1, 28, 28), 5) for _ in range(20)]
    scatter = statistics.stdev(phases) / statistics.mean(phases)
    return {"transport": transport, "hashing": hashing, "steps": steps, "scatter": scatter}


def step_of(net: torch.nn.Module, shape: tuple[int, ...], times: int) -> float:
    """Seconds of a step of AdamW on a batch."""
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    x, y = torch.randn(BATCH, *shape), torch.randint(10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    step()
    return timed(step, times)


def fitted(found: dict[str, Any]) -> Machine:
    """The machine on which constants were measured."""
    two, four = (found["transport"][n] for n in ("2", "4"))
    latency = max(1e-6, (four["gather"] - two["gather"]) / 2)
    sizes = {int(size): seconds for size, seconds in two["rows"].items()}
    large, small = max(sizes), min(sizes)
    bandwidth = (large - small) / (sizes[large] - sizes[small])
    call = max(0.0, two["gather"] - latency)
    return Machine(call, latency, bandwidth, found["hashing"], found["scatter"])


# --- the check -----------------------------------------------------------------------------


def check() -> list[dict[str, Any]]:
    """Generations of real processes with delays in their transport, and what the model says."""
    found = []
    for latency, bandwidth in ((0.0, 1e12), (0.02, 1e12), (0.0, 3e5), (0.02, 3e5)):
        alone = run_with(1, latency, bandwidth, 0)["generation"]
        for every in (0, 2):
            for ranks in (2, 4, 8):
                real = run_with(ranks, latency, bandwidth, every)
                on = Machine(0.0, latency, bandwidth, 1e12, 0.0)
                said = generation(on, ranks, 4, alone, real["row"], every)
                found.append({
                    "latency": latency, "bandwidth": bandwidth, "every": every, "ranks": ranks,
                    "alone": alone, "measured": real["generation"], "model": said,
                })  # fmt: skip
    return found


def run_with(ranks: int, latency: float, bandwidth: float, every: int) -> dict[str, Any]:
    return launched(DELAYS, ranks, ["run", str(latency), str(bandwidth), "4", str(every)])


# --- the table -----------------------------------------------------------------------------


def table() -> list[dict[str, Any]]:
    """Efficiencies on three machines, of which the first is measured."""
    rows = [json.loads(line) for line in RAW.read_text().splitlines()]
    newest = {row["part"]: row["results"] for row in rows}["constants"]
    here, steps = fitted(newest), newest["steps"]
    cluster = Machine(here.call, 5e-5, 1e9, here.hashing, 0.03)
    gpus = Machine(here.call, 2e-5, 1e10, here.hashing, 0.03)
    found = []
    for name, (parameters, each) in NETWORKS.items():
        flops = 6 * parameters * BATCH
        paces = {
            "cores, gloo on one machine": (here, steps[name]),
            "cores, 10 Gbit/s": (cluster, steps[name]),
            "GPUs, 100 Gbit/s": (gpus, max(1e-3, flops / 20e12)),
        }
        for kind, (on, step) in paces.items():
            learning, row = each * STEPS * step, parameters * BYTES
            alone = generation(on, 1, each, learning, row)
            for every in (0, 4):
                shares = {n: alone / generation(on, n, each, learning, row, every) for n in RANKS}
                found.append({
                    "network": name, "machine": kind, "every": every, "learning": learning,
                    "each": each, "efficiency": shares,
                })  # fmt: skip
    return found


PARTS: dict[str, Any] = {"constants": constants, "check": check, "table": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, default=RAW)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = PARTS[arguments.part]()
    row = {"part": arguments.part, "results": results, "machine": machine(),
           "command": command_line()}  # fmt: skip
    with arguments.out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
