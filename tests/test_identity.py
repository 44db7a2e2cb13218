"""A run goes on only with the data, network and loss that it began with, or by the user's word."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradevo as ge
import runs

X, Y = runs.rows(48)
GADAM = ge.GADAM(population=2, generations=1, steps=2, batch_size=16)
GEMONN = ge.GEMONN.paper(population=3, generations=1, batch_size=16, fine_tune=0)


class Net(nn.Module):
    """Has a rate, a function and a number besides its tensors."""

    def __init__(self, act: Any = torch.relu, *, rate: float = 0.1, scale: float = 1.0) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(6, 5), nn.Linear(5, 3), nn.Dropout(rate)
        self.act, self.scale = act, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.drop(self.act(self.a(x)))) * self.scale


def powered(power: float) -> Any:
    """A loss that differs from another in what its closure holds."""
    return lambda out, y: F.cross_entropy(out, y) ** power


def loader(x: Any = X, collate: Any = None) -> Any:
    return DataLoader(TensorDataset(x, Y), 16, shuffle=True, collate_fn=collate)


def halved(rows: Any) -> Any:
    return torch.stack([x / 2 for x, _ in rows]), torch.stack([y for _, y in rows])


def changed(tensor: torch.Tensor, row: int) -> torch.Tensor:
    """The same rows but one, which is written with other bits."""
    tensor = tensor.clone()
    tensor[row] = tensor[row + 1]
    return tensor


@dataclass(frozen=True)
class Case:
    """Arguments of `fit`."""

    algorithm: Any = GADAM
    build: Any = Net
    loss: Any = F.cross_entropy
    train: Any = (X, Y)
    valid: Any = (X, Y)

    def fit(self, folder: Any, *, force: bool = False) -> Any:
        return ge.fit(
            self.algorithm, self.build, self.loss, self.train, valid=self.valid, engine="loop",
            checkpoint=folder, force=force, quiet=True,
        )  # fmt: skip


weighted = partial(F.cross_entropy, weight=torch.tensor([1.0, 2.0, 3.0]))
OTHERS: dict[str, tuple[Case, Case]] = {
    "training data: content": (Case(), Case(train=(changed(X, 47 - 1), Y))),
    "training data: content ": (Case(), Case(train=(X, Y.flip(0)))),
    "validation data: content": (Case(), Case(valid=(changed(X, 0), Y))),
    "validation data: content ": (Case(), Case(valid=(X, Y.flip(0)))),
    "validation rows": (Case(), Case(valid=(X[:40], Y[:40]))),
    "network: drop.p": (Case(), Case(build=partial(Net, rate=0.2))),
    "network: act": (Case(), Case(build=partial(Net, torch.tanh))),
    "network: scale": (Case(), Case(build=partial(Net, scale=2.0))),
    "loss": (Case(loss=powered(1.0)), Case(loss=powered(2.0))),
    "loss: named.weight": (
        Case(loss=weighted),
        Case(loss=partial(F.cross_entropy, weight=torch.tensor([3.0, 2.0, 1.0]))),
    ),
    "loss: weight, content": (
        Case(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))),
        Case(loss=nn.CrossEntropyLoss(weight=torch.tensor([3.0, 2.0, 1.0]))),
    ),
    "schedule": (
        Case(replace(GADAM, schedule=lambda progress: 1.0 - progress)),
        Case(replace(GADAM, schedule=lambda progress: 1.0 - progress / 2)),
    ),
    "objectives": (Case(GEMONN), Case(replace(GEMONN, objectives=("density", "error")))),
    "training data: sampled content": (Case(train=loader()), Case(train=loader(changed(X, 0)))),
    "training data: collate": (Case(train=loader()), Case(train=loader(collate=halved))),
}  # fmt: skip
SAME: dict[str, tuple[Case, Case]] = {
    "tensors made again": (Case(), Case(train=(X.clone(), Y.clone()), valid=(X.clone(), Y))),
    "a lambda made again": (Case(loss=powered(2.0)), Case(loss=powered(2.0))),
    "a loader made again": (Case(train=loader()), Case(train=loader())),
    "another way to build": (Case(), Case(build=lambda: Net(rate=0.1))),
    "a longer run": (Case(), Case(replace(GADAM, generations=2))),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_another_run_is_refused_in_a_line_and_goes_on_by_force(what, tmp_path, caplog):
    first, other = OTHERS[what]
    first.fit(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(ge.CheckpointError) as refused:
        other.fit(tmp_path)
    assert f"must be of the same run, but {'the ' * ('content' in what)}{what.strip()}" in str(
        refused.value
    )
    assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    with caplog.at_level(logging.WARNING, "gradevo"):
        other.fit(tmp_path, force=True)
    assert any("goes on with another run" in line for line in caplog.messages)


@pytest.mark.parametrize("what", SAME)
def test_the_same_run_is_known_again(what, tmp_path):
    first, again = SAME[what]
    one = first.fit(tmp_path)
    assert again.fit(tmp_path).history[0] == one.history[0]
