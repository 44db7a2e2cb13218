"""Runs of every kind, left half done on disk, and what comes of a folder when it is gone on with.

`python -m benchmarks.faults.samples FOLDER SEED` is the run of several processes, by torchrun.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import gradevo as ge
from gradevo import record
from gradevo.distributed.folder import SharedFolder
from gradevo.distributed.joining import joined
from gradevo.errors import CheckpointError
from gradevo.kept import read
from gradevo.problem import Problem
from gradevo.swarm import minimize

SHORT: dict[str, Any] = {"population": 3, "generations": 3, "steps": 6, "batch_size": 16}
LOSS = nn.functional.cross_entropy


@dataclass(frozen=True)
class Case:
    """A kind of folder.

    Attributes:
        make: leaves files in a folder, by a seed.
        use: what comes of them, as text that is the same for the same bits.
        files: which of them are damaged.
        named: whether a file says which run it is of.
    """

    make: Callable[[Path, int], None]
    use: Callable[[Path], str]
    files: tuple[str, ...]
    named: bool = False


def net() -> nn.Module:
    """With statistics, whole numbers and a frozen tensor beside the weights."""
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
    )


def plain() -> nn.Module:
    """Nothing but weights."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def rows(count: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(dim=1)


def fit(
    algorithm: Any,
    folder: Path,
    seed: int = 0,
    build: Any = net,
    slice_seconds: float = 0.0,
    **more: Any,
) -> Any:
    """A run that saves after every slice; one of no length is a step."""
    torch.set_num_threads(1)
    settings = ge.Checkpoint(folder, seconds=0.0)
    given = {"valid": rows(40), "engine": "loop", "quiet": True, **more}
    with mock.patch("gradevo.run.Problem", partial(Problem, slice_seconds=slice_seconds)):
        return ge.fit(algorithm, build, LOSS, rows(72), checkpoint=settings, seed=seed, **given)


def half(algorithm: Any, saves: int, folder: Path, seed: int, build: Any = net) -> None:
    """A run that is left after so many saves."""
    left, save = saves, SharedFolder.save

    def count(self: SharedFolder, saved: Any) -> None:
        nonlocal left
        save(self, saved)
        left -= 1
        if not left:
            raise KeyboardInterrupt

    with mock.patch.object(SharedFolder, "save", count):
        try:
            fit(algorithm, folder, seed, build)
        except KeyboardInterrupt:
            return
    raise AssertionError("the run has ended before it was to be left")


def several(folder: Path, seed: int) -> None:
    """The same with two processes, after two generations."""
    torchrun = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"
    command = [sys.executable, *torchrun, "-m", __spec__.name, str(folder), str(seed)]
    subprocess.run(command, check=True, capture_output=True)


SHARED = ge.GADAM(**SHORT)


def stop_after_two(info: dict[str, Any]) -> bool:
    return info["generation"] == 2


def finished(folder: Path, seed: int, algorithm: Any) -> None:
    """What a run hands over, in a folder of its own."""
    fit(algorithm, folder.with_name(f"{folder.name}-run"), seed).save(folder)


def noted(folder: Path, seed: int) -> None:
    numbers = [seed, 0.5, None]
    record.note(folder, method={"name": "gadam"}, numbers=numbers, **record.circumstances())


def searched(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    minimize(bowl, **SEARCH, seed=seed, iterations=9).save(folder / "search.safetensors")


def bowl(x: Tensor) -> Tensor:
    return (x - 0.3).square().sum(dim=1)


SEARCH: dict[str, Any] = {"bounds": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]), "swarms": 2, "cube": None}


# --- what comes of it ----------------------------------------------------------------------


def digest(*parts: Any) -> str:
    """A number of tensors and plain values."""
    found = hashlib.sha256()
    for part in parts:
        for name, value in part.items() if isinstance(part, dict) else [("", part)]:
            found.update(name.encode())
            if isinstance(value, Tensor):
                raw = value.detach().contiguous().reshape(-1).view(torch.uint8)
                found.update(f"{value.dtype} {tuple(value.shape)}".encode() + raw.numpy().tobytes())
            else:
                found.update(json.dumps(value, default=repr).encode())
    return found.hexdigest()


def of_result(result: Any) -> str:
    numbers = {"history": result.history, "steps": result.member_steps, "engine": result.engine}
    if isinstance(result, ge.Front):
        return digest(result.members.tensors, {"rows": result.rows}, numbers)
    more = {"losses": result.losses, "probabilities": result.probabilities}
    return digest(result.members.tensors, result.soup_tensors, more, numbers)


def go_on(algorithm: Any, build: Any, folder: Path) -> str:
    return of_result(fit(algorithm, folder, build=build))


def loaded(folder: Path) -> str:
    """As a result or front, and as `export` and `start` read it."""
    kind = ge.Front if "points" in read(folder) else ge.Result
    return of_result(kind.load(folder, net))


def told(folder: Path) -> str:
    """What a record says; one that is not there is no record of a run."""
    if not (found := record.read(folder)):
        raise CheckpointError(f"no record in {folder}")
    return digest(found)


def searched_on(folder: Path) -> str:
    found = minimize(bowl, **SEARCH, iterations=20, resume=folder / "search.safetensors")
    value = found.value.double()  # f says of what type it is, not the file
    return digest({"x": found.x, "value": value, "history": found.history})


def case_of(algorithm: Any, saves: int, build: Any = net) -> Case:
    make = partial(half, algorithm, saves, build=build)
    files = "checkpoint.safetensors", "run.json", "log.jsonl"
    return Case(make, partial(go_on, algorithm, build), files, named=True)


FRONT: dict[str, Any] = {"population": 4, "generations": 4, "batch_size": 16}
PAPER = ge.GEMONN.paper(**FRONT, fine_tune=6)
RUN = ge.GADAM(**SHORT)
KEPT = ("result.safetensors",)
CASES: dict[str, Case] = {
    "GADAM at an end": case_of(RUN, 12),
    "GADAM within": case_of(RUN, 15),
    "GADAM, paper": case_of(ge.GADAM.paper(**SHORT, validation_batch=10), 9),
    "GADAM, SGD": case_of(ge.GADAM(**SHORT, optimizer="SGD", options={"momentum": 0.9}), 10),
    "GADAM, LBFGS": case_of(
        ge.GADAM(**SHORT, optimizer="LBFGS", evolve=("lr",), options={"max_iter": 3}), 8, plain
    ),
    "Independent": case_of(ge.Independent(**SHORT), 9),
    "AdaSwarm": case_of(ge.AdaSwarm(**SHORT), 8),
    "Islands within": case_of(ge.Islands(ge.GADAM(**SHORT), islands=2, every=1), 16),
    "Islands at an exchange": case_of(ge.Islands(ge.GADAM(**SHORT), islands=2, every=1), 24),
    "GEMONN, ladder": case_of(ge.GEMONN(**FRONT, steps=5), 8),
    "GEMONN, crossover": case_of(PAPER, 2),
    "GEMONN, fine-tuning": case_of(PAPER, 5),
    "several processes": Case(
        several,
        partial(go_on, SHARED, net),
        ("generation-*/*", "run.json", "log.jsonl"),
        named=True,
    ),
    "Result": Case(partial(finished, algorithm=RUN), loaded, KEPT),
    "Front": Case(partial(finished, algorithm=ge.GEMONN(**FRONT, steps=5)), loaded, KEPT),
    "record": Case(noted, told, ("run.json",)),
    "minimize": Case(searched, searched_on, ("search.safetensors",)),
}


if __name__ == "__main__":
    with joined():
        fit(SHARED, Path(sys.argv[1]), int(sys.argv[2]), callbacks=[stop_after_two])
