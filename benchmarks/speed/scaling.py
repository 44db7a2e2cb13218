"""How cost grows with members, threads and memory, as raw rows.

    OMP_NUM_THREADS=1 python benchmarks/speed/scaling.py growth
    OMP_NUM_THREADS=2 python benchmarks/speed/scaling.py threads
    OMP_NUM_THREADS=1 python benchmarks/speed/scaling.py memory
    OMP_NUM_THREADS=1 python benchmarks/speed/scaling.py operators
    OMP_NUM_THREADS=1 python benchmarks/speed/scaling.py swarms
    OMP_NUM_THREADS=1 python benchmarks/speed/scaling.py runs

Rows are appended to docs/results/raw/speed.jsonl. Memory is the growth of a fresh process's peak.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import techniques
import torch
import torch.nn.functional as F
from measure import ROUNDS, command_line, interleaved, machine, one_core
from run import RAW
from torch import nn
from workloads import WORKLOADS, Workload

import gradevo as ge
from gradevo import datasets
from gradevo.denormals import flushed
from gradevo.models import mlp
from gradevo.operators import crossover, mutation

SIZES = (1, 2, 5, 10, 20, 50, 100, 200)
GROWTH = {"MLP 4-10-3": "simd", "MLP 16-70-50-26": "simd", "MLP 16-256-128-26": "batched",
          "LeNet-5": "batched/5"}  # fmt: skip
MEMORY = {"MLP 16-256-128-26": "batched", "MLP 784-512-256-10": "batched", "LeNet-5": "batched/5"}


def growth(workload: Workload, name: str) -> list[dict[str, Any]]:
    """Seconds a step and member for each population size; sizes take turns."""
    most = 50 if len(workload.shape) > 1 else SIZES[-1]
    takes = {}
    for members in (size for size in SIZES if size <= most):
        simd = name == "simd"
        take = techniques.kernel(workload, members) if simd else techniques.engine(
            workload, members, name if members > 5 else name.partition("/")[0]
        )  # fmt: skip
        takes[str(members)] = take
    results = interleaved(takes, "1")
    return [{"members": int(k), "seconds": v["seconds"] / int(k)} for k, v in results.items()]


THREADS = {"LeNet-5": ("batched/5", "loop"), "LSTM 9-32": ("loop",)}


def threads() -> dict[str, Any]:
    """Ten members, one thread and two, in one process (figure 6 of the GADAM paper).

    Beside threads of our own, OpenMP's; ratios are to the first engine with one thread.
    """
    found = {}
    for name, engines in THREADS.items():
        takes = {}
        for engine in engines:
            plans = {"1 thread": (engine, 1), "@2": (f"{engine}@2", 1), "OpenMP": (engine, 2)}
            for label, (full, count) in plans.items():
                take = techniques.engine(WORKLOADS[name], 10, full)
                takes[f"{engine}, {label}"] = _with_threads(take, count)
        found[name] = interleaved(takes, f"{engines[0]}, 1 thread", 3 * ROUNDS)
    return found


def _with_threads(take: techniques.Take, count: int) -> techniques.Take:
    def wrapped(steps: int) -> None:
        torch.set_num_threads(count)
        take(steps)

    return wrapped


def peak(name: str, engine: str, members: int) -> dict[str, float]:
    """Bytes that a population adds to this process, and those it must have."""
    workload = WORKLOADS[name]
    xs, ys = workload.data(members, 1)
    warm = ge.Population(workload.build, 1, engine="loop")
    warm.gradient()
    warm.accumulate(F.cross_entropy, xs[0, :1], ys[0, :1], per_member=True)
    torch.optim.Adam(warm.parameters(), fused=True).step()
    before = _peak()
    population = ge.Population(workload.build, members, engine=engine)
    population.gradient()
    optimizer = torch.optim.Adam(population.parameters(), fused=True)
    computing: Any = population.choice.engine(population, engine)
    for _ in range(5):
        computing.accumulate(F.cross_entropy, xs[0], ys[0], True)
        optimizer.step()
    used = _peak() - before
    chunk = int(engine.partition("/")[2] or members)
    weights = 4 * 4 * population.flat.numel()
    needed = weights + _activations(population, xs[0], ys[0], min(chunk, members))
    return {"used": used, "needed": needed, "weights": weights}


def _activations(population: ge.Population, x: Any, y: Any, chunk: int) -> int:
    """Bytes that backward keeps for one chunk, weights not counted."""
    kept: dict[int, int] = {}
    own = population.flat.untyped_storage().data_ptr()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in (own, x.untyped_storage().data_ptr()):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    some = population.select(range(chunk))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        own = some.flat.untyped_storage().data_ptr()
        engine: Any = some.choice.engine(some, "batched")
        engine.losses(F.cross_entropy, x[:chunk], y[:chunk], True)
    return sum(kept.values())


def runs() -> dict[str, Any]:
    """Whole runs of GADAM, everything counted, by the loop and as "auto" chooses; in turns."""
    found = {}
    for name, sizes in (("iris", (4, 10, 3)), ("digits", (64, 64, 10))):
        data = datasets.load(name, seed=0)
        settings = ge.GADAM(population=10, generations=5, steps=300, batch_size=40)
        seconds: dict[str, list[float]] = {"loop": [], "auto": []}
        engines = set()
        for seed in range(3):
            for engine, times in seconds.items():
                start = time.perf_counter()
                result = ge.fit(settings, mlp(*sizes), F.cross_entropy, data.train,
                                valid=data.valid, seed=seed, engine=engine)  # fmt: skip
                times.append(time.perf_counter() - start)
                engines |= {result.engine}
        found[name] = {"sizes": sizes, "engines": sorted(engines - {"loop"}),
                       **{n: statistics.median(t) for n, t in seconds.items()}}  # fmt: skip
    return found


SWARM_ENGINES: tuple[Literal["torch", "simd"], ...] = ("torch", "simd")
MOVED: dict[str, Any] = {"particles": 10, "iterations": 10, "estimator": "near", "scope": "row"}


def swarms() -> dict[str, Any]:
    """Forward and backward of a criterion on its outputs: plain, by torch's swarm, by simd's."""
    found = {}
    generator = torch.Generator().manual_seed(0)
    for rows, classes in ((40, 3), (128, 10)):
        for loss in (nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()):
            output = torch.randn(rows, classes, generator=generator, requires_grad=True)
            labels = torch.randint(classes, (rows,), generator=generator)
            wide = F.one_hot(labels, classes).float()
            target = labels if isinstance(loss, nn.CrossEntropyLoss) else wide
            name = f"{type(loss).__name__}, {rows} x {classes}"
            for label, own in (("", {}), (", EMPSO", MOVED)):
                takes = {"plain": loss} | {
                    engine: ge.SwarmLoss(loss, engine=engine, **own) for engine in SWARM_ENGINES
                }
                works = {
                    n: _repeated(partial(_backward, c, output, target)) for n, c in takes.items()
                }
                found[name + label] = interleaved(works, "torch")
    return found


def _backward(criterion: Any, output: torch.Tensor, target: torch.Tensor) -> None:
    criterion(output, target).backward()


def operators() -> dict[str, Any]:
    """Operators on four members of eleven million weights beside a copy of them."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(4, 11_000_000, generator=generator)
    second, half = torch.randn_like(first), torch.full((4,), 0.5)
    seldom = torch.full((4,), 0.01)
    works: dict[str, Callable[[], Any]] = {
        "copy": first.clone,
        "uniform crossover": lambda: crossover.uniform(first, second, half, generator),
        "blend": lambda: crossover.blend(first, second, half, generator),
        "replacement, 1 %": lambda: mutation.replace_uniform(first, seldom, generator),
        "Gaussian, 1 %": lambda: mutation.add_gaussian(first, seldom, generator),
        "a float an entry, compared": lambda: torch.where(
            torch.rand(first.shape, generator=generator) < 0.5, first, second
        ),
    }
    return interleaved({name: _repeated(work) for name, work in works.items()}, "copy")


OTHERS: dict[str, Callable[[], Any]] = {"operators": operators, "swarms": swarms, "runs": runs}


def _repeated(work: Callable[[], Any]) -> techniques.Take:
    def take(steps: int) -> None:
        for _ in range(steps):
            work()

    return take


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory() -> list[dict[str, Any]]:
    """Peaks of fresh processes."""
    rows = []
    for name, engine in MEMORY.items():
        for members in (5, 10, 20, 50):
            command = [sys.executable, __file__, "peak", name, engine, str(members)]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append({"workload": name, "engine": engine, "members": members,
                         **json.loads(found.stdout)})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    if sys.argv[1] == "peak":
        print(json.dumps(peak(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "part", choices=["growth", "threads", "memory", "operators", "swarms", "runs"]
    )
    parser.add_argument("--out", type=Path, default=RAW)
    arguments = parser.parse_args()
    row: dict[str, Any] = {"part": arguments.part, "command": command_line()}
    torch.set_num_threads(2 if arguments.part == "threads" else 1)
    with flushed():
        if arguments.part in OTHERS:
            row["results"] = OTHERS[arguments.part]()
        elif arguments.part == "growth":
            one_core()
            row["results"] = {n: growth(WORKLOADS[n], engine) for n, engine in GROWTH.items()}
        else:
            row["results"] = threads() if arguments.part == "threads" else memory()
        row["machine"] = machine()
    with arguments.out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row["results"], indent=1))


if __name__ == "__main__":
    main()
