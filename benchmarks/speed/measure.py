"""Times of techniques that take turns in one process, and what the machine can do at most."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from techniques import Take

ROUNDS, TURN = 7, 0.25  # turns of each, and about how many seconds a turn takes


def interleaved(
    takes: Mapping[str, Take], baseline: str, count: int = ROUNDS
) -> dict[str, dict[str, float]]:
    """Seconds a step of each technique, and how many times faster it is than the baseline.

    In every round each technique has a turn; a ratio is the median of the rounds' ratios.
    """
    counts = {name: _count(take) for name, take in takes.items()}
    rounds = []
    for _ in range(count):
        rounds.append({name: _timed(take, counts[name]) for name, take in takes.items()})
    return {
        name: {
            "seconds": statistics.median(r[name] for r in rounds),
            "ratio": statistics.median(r[baseline] / r[name] for r in rounds),
            "low": min(r[baseline] / r[name] for r in rounds),
            "high": max(r[baseline] / r[name] for r in rounds),
        }
        for name in takes
    }


def _timed(take: Take, steps: int) -> float:
    start = time.perf_counter()
    take(steps)
    return (time.perf_counter() - start) / steps


def _count(take: Take) -> int:
    """Steps of a turn, whole calls of it; the first call, which may compile, does not count."""
    many = getattr(take, "many", 1)
    take(many)
    seconds = _timed(take, many)
    return many * max(1, round(TURN / (seconds * many)))


def machine() -> dict[str, Any]:
    """What the processor reaches in a large product and in a copy, and what else it was doing."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    product = min(_timed(lambda n: [a @ b for _ in range(n)] and None, 4) for _ in range(5))
    source = torch.zeros(2**26)
    target = torch.zeros_like(source)
    copy = min(_timed(lambda n: [target.copy_(source) for _ in range(n)] and None, 2)
               for _ in range(5))  # fmt: skip
    return {
        "gflops": 2 * 1024**3 / product / 1e9,
        "copy_gb": 2 * source.nbytes / copy / 1e9,
        "threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "numba", "jax", "optax", "numpy")},
    }


def command_line() -> str:
    """This run's command, without where its rows went."""
    words = list(sys.argv)
    if "--out" in words:
        place = words.index("--out")
        del words[place : place + 2]
    return " ".join(words)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def one_core() -> None:
    """Keep this process on one core: JAX has no other way to one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
