"""What the paper benchmarks share: data, networks, one run of one method, a pool of runs."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gradevo as ge
from gradevo import datasets
from gradevo.models import mlp

HIDDEN = {"yeast": (50, 30), "adult": (30, 20), "letter": (70, 50), "digits": (64,)}
RAW = Path(__file__).parents[2] / "docs" / "results" / "raw"
Task = dict[str, Any]


def load(name: str, folder: Path, seed: int) -> datasets.Data:
    """A data set of the shared folder (ADULT with its official test rows) or a built-in one."""
    if name == "adult":
        tables = folder / "tabular"
        return datasets.load(
            tables / "adult_train.csv.gz", test=tables / "adult_test.csv.gz", seed=seed
        )
    if name == "digits":
        return datasets.load(name, seed=seed)
    return datasets.load(folder / "tabular" / f"{name}.csv", seed=seed)


def network(name: str, data: datasets.Data) -> Callable[[], nn.Module]:
    """The multi-layer perceptron for a data set."""
    return mlp(data.inputs[0], *HIDDEN[name], len(data.classes))


@torch.no_grad()
def score(module: nn.Module, rows: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Cross-entropy and accuracy in per cent."""
    x, y = rows
    outputs = module(x)
    return {
        "loss": float(nn.functional.cross_entropy(outputs, y)),
        "accuracy": 100 * float((outputs.argmax(1) == y).double().mean()),
    }


def run(
    algorithm: Any, data: datasets.Data, build: Callable[[], nn.Module], seed: int, rows: Any
) -> dict[str, Any]:
    """Fit once; score what comes of it on `rows`."""
    start = time.perf_counter()
    result = ge.fit(
        algorithm, build, nn.CrossEntropyLoss(), data.train, valid=data.valid, seed=seed
    )
    seconds = time.perf_counter() - start
    return {
        "best": score(result.best, rows),
        "ensemble": score(result.ensemble, rows),
        "soup": score(result.soup, rows),
        "valid_loss": float(result.losses[0]),
        "member_steps": result.member_steps,
        "engine": result.engine,
        "seconds": round(seconds, 2),
        "history": [
            {key: info[key] for key in ("best", "mean", "adoption", "diversity") if key in info}
            for info in result.history
        ],
    }


def pooled(
    work: Callable[[Task], Task], tasks: Iterable[Task], path: Path, jobs: int
) -> Iterator[Task]:
    """Run tasks in processes of one thread each; results are appended to a file as they come.

    A task that is already in the file is not run again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    old = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {key(row["task"]): row for row in old}
    tasks = list(tasks)
    todo = [task for task in tasks if key(task) not in known]
    context = multiprocessing.get_context("spawn")
    os.environ["OMP_NUM_THREADS"] = "1"
    with context.Pool(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for row in pool.imap_unordered(work, todo):
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            known[key(row["task"])] = row
    yield from (known[key(task)] for task in tasks)


def key(task: Task) -> str:
    """What tells one run from another; where the data lie does not."""
    return json.dumps({k: v for k, v in task.items() if k != "dir"}, sort_keys=True)
