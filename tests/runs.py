"""Small runs that the tests make, here or in processes of their own.

`python tests/runs.py DATA FOLDER RESULT STEPS` goes on with one and saves its result.
"""

import multiprocessing
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import gradevo as ge
from gradevo.problem import Problem

SETTING: dict[str, Any] = {
    "population": 3, "generations": 2, "steps": 4, "batch_size": 16, "lr": 1e-2, "checks": 2,
}  # fmt: skip


def net() -> nn.Module:
    """Everything that makes resuming hard: dropout and batch norm."""
    return nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 3)
    )


def rows(count: int = 72) -> tuple[Tensor, Tensor]:
    """Three classes that a small network can learn."""
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(dim=1)


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Rows with noise from every global source of random numbers that there is."""

    def __init__(self) -> None:
        self.x, self.y = rows()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn(6) + 0.1 * random.random() + 0.1 * np.random.rand()
        return self.x[i] + noise.float(), self.y[i]


def data(kind: str) -> Any:
    """Training data of a kind; 72 rows: the last of a loader's batches is short."""
    if kind == "tensors":
        return rows()
    if kind == "workers":
        return DataLoader(Augmented(), batch_size=16, shuffle=True, num_workers=1)
    dataset = Augmented() if kind == "augmented" else TensorDataset(*rows())
    own = torch.Generator().manual_seed(5) if kind == "generator" else None
    return DataLoader(dataset, batch_size=16, shuffle=True, generator=own)


def fit(
    kind: str = "tensors",
    folder: Path | None = None,
    *,
    seconds: float = 0.0,
    slice_seconds: float = 0.0,
    seed: int = 0,
    loss: Any = nn.functional.cross_entropy,
    build: Any = net,
    train: Any = None,
    callbacks: Any = (),
    engine: str = "loop",
    log: Any = None,
    quiet: bool = False,
    **changes: Any,
) -> ge.Result:
    """A run that saves after every slice; a slice of no length is one step."""
    torch.set_num_threads(1)
    checkpoint = None if folder is None else ge.Checkpoint(folder, seconds=seconds)
    setting = SETTING | changes
    if setting.get("backoff") is False:
        setting["checks"] = 1  # others would have no effect
    with mock.patch("gradevo.run.Problem", partial(Problem, slice_seconds=slice_seconds)):
        return ge.fit(
            ge.GADAM(**setting),
            build,
            loss,
            data(kind) if train is None else train,
            valid=rows(40),
            seed=seed,
            engine=engine,
            callbacks=callbacks,
            checkpoint=checkpoint,
            log=log,
            quiet=quiet,
        )


def bits(result: ge.Result) -> dict[str, Any]:
    """Everything of a result, to compare bit for bit."""
    soup = {f"soup {name}": tensor for name, tensor in result.soup_tensors.items()}
    tensors = {**result.members.tensors, "losses": result.losses, **soup}
    numbers = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    return {**numbers, "history": result.history, "member_steps": result.member_steps}


def start(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A process of its own, which has never run anything; torch is imported once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gradevo.run", "gradevo.algorithms.gadam", "torch._dynamo"])
    process = context.Process(target=function, args=args, kwargs=kwargs)
    process.start()
    return process


if __name__ == "__main__":
    kind, folder, result, steps = sys.argv[1:]
    fit(kind, Path(folder), steps=int(steps), slice_seconds=1.0).save(result)
