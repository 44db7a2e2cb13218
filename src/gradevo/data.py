"""What the user hands to `fit` as data, checked and turned into sources and validation rows."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from gradevo.batches import LoaderSource, Source, TensorSource

Pair = tuple[Tensor, Tensor]
DataLike = Pair | Dataset[Any] | DataLoader[Any]
HOLDOUT = 0.2  # share of `train` held out when no `valid` is given


@dataclass(frozen=True)
class Split:
    """Checked data of a run.

    Attributes:
        source: training batches.
        valid: all validation rows, `(x, y)`.
    """

    source: Source
    valid: Pair


def prepare(
    train: DataLike, valid: DataLike | None, *, batch_size: int, seed: int, device: torch.device
) -> Split:
    """Check what the user gave, and hold out validation rows where none were given.

    Raises:
        ValueError: empty data, x and y of different length, labels that are not counted
            from 0, a batch larger than the data, or a loader that cannot be split.
        TypeError: neither tensors nor a Dataset nor a DataLoader.
    """
    train = _tensors_if_cheap(_checked("train", train))
    if valid is None:
        train, valid = _hold_out(train, seed)
    x, y = _materialise("valid", _tensors_if_cheap(_checked("valid", valid)))
    _check_labels("valid", y)
    source = _source(train, batch_size, device)
    return Split(source, (x.to(device), y.to(device)))


def _checked(name: str, data: Any) -> DataLike:
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset):
            raise ValueError(f"{name}: a DataLoader must be over a dataset with a length")
        rows = len(cast(Sized, data.dataset))
    elif isinstance(data, Dataset):
        rows = len(cast(Sized, data))
    elif isinstance(data, tuple | list) and len(data) == 2:
        x, y = (torch.as_tensor(part) for part in data)
        if len(x) != len(y):
            raise ValueError(f"{name}: x and y must have one length, got {len(x)} and {len(y)}")
        data, rows = (x, y), len(x)
    else:
        raise TypeError(
            f"{name}: must be a pair of tensors (x, y), a Dataset or a DataLoader, "
            f"got {type(data).__name__}"
        )
    if rows == 0:
        raise ValueError(f"{name}: must hold at least one row, got none")
    return data


def _tensors_if_cheap(data: DataLike) -> DataLike:
    """A TensorDataset of two tensors is its two tensors."""
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return data.tensors[0], data.tensors[1]
    return data


def _hold_out(train: DataLike, seed: int) -> tuple[DataLike, DataLike]:
    """Split off validation rows: stratified where the targets are class labels."""
    if isinstance(train, tuple):
        kept, held = _split(len(train[0]), train[1], seed)
        x, y = train
        return (x[kept], y[kept]), (x[held], y[held])
    if isinstance(train, DataLoader):
        return _hold_out_loader(train, seed)
    kept, held = _split(len(cast(Sized, train)), None, seed)
    return Subset(train, kept.tolist()), Subset(train, held.tolist())


def _split(rows: int, y: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
    if rows < 2:
        raise ValueError(f"train: must hold at least 2 rows to hold some out, got {rows}")
    kept, held = train_test_split(
        np.arange(rows), test_size=HOLDOUT, random_state=seed % 2**32, stratify=_strata(y)
    )
    return torch.from_numpy(np.sort(kept)), torch.from_numpy(np.sort(held))


def _strata(y: Tensor | None) -> np.ndarray | None:
    """Class labels, where every class can be on both sides of the split."""
    if y is None or y.dim() != 1 or y.is_floating_point():
        return None
    counts = torch.unique(y, return_counts=True)[1]
    enough = int(counts.min()) >= 2 and HOLDOUT * len(y) >= len(counts)
    return y.cpu().numpy() if enough else None


def _hold_out_loader(loader: DataLoader[Any], seed: int) -> tuple[DataLike, DataLike]:
    if not isinstance(loader.sampler, RandomSampler | SequentialSampler) or not loader.batch_size:
        raise ValueError(
            "valid: must be given when the train loader has a sampler of its own, got None"
        )
    kept, held = _split(len(cast(Sized, loader.dataset)), None, seed)
    remaining = DataLoader(
        Subset(loader.dataset, kept.tolist()),
        batch_size=loader.batch_size,
        shuffle=isinstance(loader.sampler, RandomSampler),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        drop_last=loader.drop_last,
        worker_init_fn=loader.worker_init_fn,
    )
    return remaining, Subset(loader.dataset, held.tolist())


def _source(train: DataLike, batch_size: int, device: torch.device) -> Source:
    if isinstance(train, DataLoader):
        return _loader_source(train)
    rows = len(train[0]) if isinstance(train, tuple) else len(cast(Sized, train))
    if batch_size > rows:
        raise ValueError(
            f"batch_size: must be at most the number of training rows ({rows}), got {batch_size}"
        )
    if isinstance(train, tuple):
        _check_labels("train", train[1])
        return TensorSource(train[0].to(device), train[1].to(device), batch_size)
    return LoaderSource(DataLoader(train, batch_size=batch_size, shuffle=True))


def _loader_source(loader: DataLoader[Any]) -> Source:
    size, rows = loader.batch_size, len(cast(Sized, loader.dataset))
    if not size:
        raise ValueError("train: a DataLoader must have a batch_size, got None")
    if size > rows:
        raise ValueError(
            f"train: the loader's batch_size must be at most its number of rows ({rows}), "
            f"got {size}"
        )
    return LoaderSource(loader)


def _materialise(name: str, data: DataLike) -> Pair:
    """All rows of a validation set as two tensors."""
    if isinstance(data, tuple):
        return data
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=256)
    batches = list(loader)
    if not all(isinstance(b, tuple | list) and len(b) == 2 for b in batches):
        raise ValueError(f"{name}: every batch must be a pair (x, y), got {type(batches[0])}")
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def _check_labels(name: str, y: Tensor) -> None:
    """Class labels are counted from 0 (negative ones other than -100 are a mistake)."""
    if y.is_floating_point() or y.dtype == torch.bool:
        return
    labels = torch.unique(y)
    lowest = int(labels[labels != -100].min()) if bool((labels != -100).any()) else 0
    if lowest < 0:
        raise ValueError(f"{name}: labels must be 0..C-1, got {lowest}")
