"""Modules of several inputs and outputs, batches for them, and short runs."""

from collections import UserDict
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

import gradevo as ge
from gradevo import trees
from gradevo.losses import OnLogits
from gradevo.models import mlp
from gradevo.randomness import generator_from

CPU, ROWS, STEPS, WORDS, CLASSES = torch.device("cpu"), 72, 5, 7, 3


class Reader(nn.Module):
    """Takes words and a mask by name, and returns a mapping."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 6)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, ids, mask=None, scale=1.0):
        mask = torch.ones_like(ids) if mask is None else mask
        there = mask.unsqueeze(-1).float()
        state = (self.words(ids) * there).sum(1) / there.sum(1)
        return {"state": state, "logits": self.head(self.drop(state)) * scale, "task": "read"}


class Pair(nn.Module):
    """Takes two tensors by position, and returns two."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(2, 5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, one, two):
        state = (self.one(one) + self.two(two)).tanh()
        return self.head(state), state


def words(rows: int = ROWS, *leading: int) -> tuple[dict, torch.Tensor]:
    """Sentences whose label is what most words have in common, some words left out."""
    generator = generator_from(3)
    ids = torch.randint(WORDS, (*leading, rows, STEPS), generator=generator)
    mask = (torch.rand(*leading, rows, STEPS, generator=generator) < 0.8).long()
    mask[..., 0] = 1
    return {"ids": ids, "mask": mask}, ids[..., 0] % CLASSES


def points(rows: int = 6, *leading: int) -> tuple[tuple, dict]:
    generator = generator_from(4)
    x = (
        torch.randn(*leading, rows, 4, generator=generator),
        torch.randn(*leading, rows, 2, generator=generator),
    )
    y = {
        "label": torch.randint(CLASSES, (*leading, rows), generator=generator),
        "state": torch.randn(*leading, rows, 5, generator=generator),
    }
    return x, y


def both(output, target):
    """A loss of two outputs and two targets."""
    logits, state = output
    return F.cross_entropy(logits, target["label"]) + F.mse_loss(state, target["state"])


QUICK = ge.GADAM(population=3, generations=1, steps=2, batch_size=16)
ON_LOGITS = OnLogits(nn.CrossEntropyLoss())
KINDS = {
    "mapping": (partial(Reader, 0.0), ON_LOGITS, words),
    "tuple": (Pair, both, points),
    "list": (Pair, both, lambda *n: (list(points(*n)[0]), points(*n)[1])),
    "a tensor by name": (mlp(4, 6, 3), F.mse_loss, lambda *n: ({"input": points(*n)[0][0]},
                         torch.zeros(*n[1:], n[0], 3))),
}  # fmt: skip


def equal(one, other) -> bool:
    mine, theirs = trees.tensors(one), trees.tensors(other)
    same = all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    return same and type(one) is type(other)


class Sentences(Dataset):
    """Rows as mappings, as Hugging Face's data sets have them."""

    def __init__(self, rows: int = ROWS, label: str = "labels") -> None:
        self.x, self.y = words(rows)
        self.label = label

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int):
        return {**{name: t[i] for name, t in self.x.items()}, self.label: self.y[i]}


def forms() -> dict:
    x, y = words()
    return {
        "pair": (x, y),
        "mapping": {**x, "labels": y},
        "label": {**x, "label": y},
        "of another class": UserDict({**x, "labels": y}),
        "arrays": ({name: t.numpy() for name, t in x.items()}, y.tolist()),
    }


def fit(algorithm, folder=None, *, build=Reader, loss=ON_LOGITS, train=None, **more):
    data = words() if train is None else train
    checkpoint = None if folder is None else ge.Checkpoint(folder, seconds=0.0)
    return ge.fit(
        algorithm, build, loss, data, **({"engine": "loop"} | more), checkpoint=checkpoint
    )
