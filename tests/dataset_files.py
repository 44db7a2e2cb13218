"""Files that the data set tests write, and ways to read what came of them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from gradevo.datasets import Data, DataError, available

NAMES = [known.name for known in available()]
FEW = settings(max_examples=25, deadline=None)


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def flowers(count: int = 40) -> list[str]:
    return [f"{i * 0.5},{'red' if i % 3 else 'blue'},{'ab'[i % 2]}" for i in range(count)]


def write_idx(path: Path, array: np.ndarray) -> Path:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_digits(folder: Path, pattern: str = "{}-{}-idx{}-ubyte.gz", train: int = 30) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", 12)):
        images = rng.integers(0, 256, (count, 5, 4))
        write_idx(folder / pattern.format(part, "images", 3), images)
        write_idx(folder / pattern.format(part, "labels", 1), np.arange(count) % 3 + 4)
    return folder


def parts(data: Data) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [data.train, data.valid, data.test]


def line_of(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message
