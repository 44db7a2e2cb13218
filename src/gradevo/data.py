"""What the user hands to `fit` as data, checked and turned into sources and validation rows."""

import logging
import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
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

from gradevo import trees
from gradevo.arrays import tensor_of
from gradevo.batches import (
    LoaderSource,
    Pair,
    Source,
    TensorSource,
    checked_pair,
    pair_of,
    parted,
    reseed,
    rows_of,
)
from gradevo.collating import check_collate
from gradevo.randomness import generator_from, isolated
from gradevo.trees import Tree

DataLike = Pair | Mapping[str, Any] | Dataset[Any] | DataLoader[Any]
Data = Pair | Dataset[Any] | DataLoader[Any]  # once it is checked
HOLDOUT = 0.2  # share of `train` held out when no `valid` is given
USUAL_BATCH = 128  # rows, where a config leaves them open
log = logging.getLogger(__name__)
KEPT = (  # what a loader over held-out rows takes over from the user's
    "batch_size", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn",
    "multiprocessing_context", "prefetch_factor", "persistent_workers",
)  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Checked data of a run.

    Attributes:
        source: training batches.
        valid: all validation rows, `(x, y)`, tensors or trees of them.
        separate: whether these were given, rather than held out of the training rows.
    """

    source: Source
    valid: Pair
    separate: bool = True


def prepare(
    train: DataLike,
    valid: DataLike | None,
    *,
    batch_size: int | None,
    seed: int,
    device: torch.device,
) -> Split:
    """Check what the user gave, and hold out validation rows where none were given.

    Raises:
        ValueError: empty data, x and y of different length, a batch larger than the data or
            another one than the loader's, or a loader that cannot be split.
        TypeError: neither tensors nor a Dataset nor a DataLoader, or data without a length.
    """
    rows = _checked("train", train)
    if valid is None:
        rows, held = _hold_out(rows, seed)
    else:
        held = _checked("valid", valid)
    x, y = _materialise("train" if valid is None else "valid", held, seed)
    held_out = trees.to(x, device), trees.to(y, device)
    return Split(_source(rows, batch_size, device), held_out, separate=valid is not None)


def batch_of(asked: int | None, rows: int, usual: int = USUAL_BATCH) -> int:
    """Rows a batch: those asked for, or else the usual ones or all that there are.

    Args:
        asked: by a config; None: nothing.
        rows: training rows, those held out apart.
        usual: rows that make a good batch.

    Raises:
        ValueError: more are asked for than there are.

    Example:
        >>> batch_of(None, 500), batch_of(None, 90), batch_of(32, 90)
        (128, 90, 32)
    """
    if asked is None:
        return min(usual, rows)
    if asked > rows:
        raise ValueError(
            f"batch_size: must be at most the number of training rows ({rows}), got {asked}"
        )
    return asked


def rows_to_train(rows: int) -> int:
    """Of so many rows those that are left when some are held out."""
    return rows - math.ceil(HOLDOUT * rows)


def check_labels(name: str, y: Tensor, classes: int, ignored: int) -> None:
    """Refuse class labels that are not 0..C-1.

    Raises:
        ValueError: such a label, other than `ignored`.
    """
    labels = y[y != ignored]
    for label in labels.aminmax() if len(labels) else ():
        if not 0 <= int(label) < classes:
            raise ValueError(
                f"{name}: labels must be 0..C-1 for a module with C = {classes} outputs, "
                f"got {int(label)}"
            )


def _checked(name: str, data: Any) -> Data:
    """What was given; a pair of tensors or trees where it is as much as that."""
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Mapping):
        data = parted(name, data)
    if isinstance(data, tuple | list) and len(data) == 2:
        parts = zip(("x", "y"), data, strict=True)
        x, y = (trees.plain(part, partial(_tensor, f"{name}: {which}")) for which, part in parts)
        data = _paired(name, data[0], x, y)
    elif not isinstance(data, Dataset | DataLoader):
        raise TypeError(
            f"{name}: must be a pair of tensors (x, y), or of mappings and tuples of them, a "
            f"mapping with 'labels', a Dataset or a DataLoader, got {type(data).__name__}"
        )
    if isinstance(data, tuple):
        rows = trees.length(data[0])
    else:
        rows = _rows(name, data.dataset if isinstance(data, DataLoader) else data)
    if rows == 0:
        raise ValueError(f"{name}: must hold at least one row, got none")
    if isinstance(data, DataLoader):
        check_collate(name, data)
    return data


def _paired(name: str, given: Any, x: Tree, y: Tree) -> Pair:
    try:
        return checked_pair(name, x, y)
    except ValueError as error:
        if isinstance(given, list) and isinstance(x, tuple) and len(given) == trees.length(y):
            raise ValueError(
                f"{error}; a list of tensors is several inputs by position: of rows, use "
                "torch.stack(x)"
            ) from None
        raise


def _tensor(name: str, part: Any) -> Tensor:
    found = tensor_of(name, part)
    if found.dim() == 0:
        _rows(name.partition(":")[0], found)
    return found


def _rows(name: str, data: Any) -> int:
    try:
        if not isinstance(data, IterableDataset):
            return len(data)
    except (TypeError, NotImplementedError):
        pass
    raise TypeError(f"{name}: must have a length and rows to pick from, got {type(data).__name__}")


# --- held-out rows -------------------------------------------------------------------------


def _hold_out(train: Data, seed: int) -> tuple[Data, Data]:
    """Split off validation rows: stratified where the class labels are at hand."""
    if isinstance(train, tuple):
        x, y = train
        kept, held = _split(trees.length(x), y, seed)
        return trees.take((x, y), kept), trees.take((x, y), held)
    dataset = train.dataset if isinstance(train, DataLoader) else train
    rows = len(cast(Sized, dataset))
    kept, held = (Subset(dataset, i.tolist()) for i in _split(rows, _labels(dataset), seed))
    if isinstance(train, DataLoader):
        order = {"shuffle": _shuffles(train), "drop_last": train.drop_last}
        return _like(train, kept, **order), _like(train, held)
    return kept, held


def _split(rows: int, y: Tree | None, seed: int) -> tuple[Tensor, Tensor]:
    if rows < 2:
        raise ValueError(f"train: must hold at least 2 rows to hold some out, got {rows}")
    from sklearn.model_selection import train_test_split  # takes seconds where nothing else has it

    kept, held = train_test_split(
        np.arange(rows), test_size=HOLDOUT, random_state=seed % 2**32, stratify=_strata(y)
    )
    return torch.from_numpy(np.sort(kept)), torch.from_numpy(np.sort(held))


def _strata(y: Tree | None) -> np.ndarray | None:
    """Class labels, where every class can be on both sides of the split."""
    if not isinstance(y, Tensor) or y.dim() != 1 or y.is_floating_point():
        return None
    counts = torch.unique(y, return_counts=True)[1]
    enough = int(counts.min()) >= 2 and HOLDOUT * len(y) >= len(counts)
    return y.cpu().numpy() if enough else None


def _labels(dataset: Dataset[Any]) -> Tensor | None:
    """Targets that a dataset has at hand: a TensorDataset's, or `targets` as torchvision has."""
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[-1]
    try:
        targets = torch.as_tensor(cast(Any, dataset).targets)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None
    return targets if targets.shape[:1] == (len(cast(Sized, dataset)),) else None


def _shuffles(loader: DataLoader[Any]) -> bool:
    """Whether a loader gives every row once in random order, or else in the data's order.

    Raises:
        ValueError: neither.
    """
    sampler = loader.sampler
    if loader.batch_size and rows_of(loader) == len(cast(Sized, loader.dataset)):
        if isinstance(sampler, RandomSampler) and not sampler.replacement:
            return True
        if isinstance(sampler, SequentialSampler):
            return False
    raise ValueError(
        "valid: must be given when the train loader has a sampler of its own, got None"
    )


def _like(loader: DataLoader[Any], rows: Dataset[Any], **order: bool) -> DataLoader[Any]:
    """A loader like the user's, over some of the rows."""
    return DataLoader(rows, **order, **{name: getattr(loader, name) for name in KEPT})


# --- sources and validation rows -----------------------------------------------------------


def _source(train: Data, batch_size: int | None, device: torch.device) -> Source:
    if isinstance(train, DataLoader):
        return _loader_source(train, batch_size)
    rows = trees.length(train[0]) if isinstance(train, tuple) else len(cast(Sized, train))
    size = batch_of(batch_size, rows)
    if batch_size is None and size < USUAL_BATCH:
        log.warning("batch_size: %d, all training rows, as there are fewer than %d", size,
                    USUAL_BATCH)  # fmt: skip
    if isinstance(train, tuple):
        return TensorSource(trees.to(train[0], device), trees.to(train[1], device), size)
    return LoaderSource(DataLoader(train, batch_size=size, shuffle=True))


def _loader_source(loader: DataLoader[Any], asked: int | None) -> Source:
    size, rows = loader.batch_size, rows_of(loader)
    if not size:
        raise ValueError("train: a DataLoader must have a batch_size, got None")
    if size > rows:
        raise ValueError(
            f"train: the loader's batch_size must be at most the rows of a pass ({rows}), "
            f"got {size}"
        )
    if asked not in (None, size):
        raise ValueError(
            f"batch_size: must be left out with a DataLoader, which has its own ({size}), got "
            f"{asked}"
        )
    return LoaderSource(loader)


def _materialise(name: str, data: Data, seed: int) -> Pair:
    """All rows of a validation set as two tensors, or trees of them."""
    if isinstance(data, tuple):
        return data
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=256)
    with isolated(generator_from(seed)):
        reseed(loader)
        batches = [pair_of(name, batch) for batch in loader]
    if not batches:
        raise ValueError(f"{name}: a pass through the loader must give a batch, got none")
    try:
        return trees.cat([x for x, _ in batches]), trees.cat([y for _, y in batches])
    except RuntimeError as error:
        raise ValueError(
            f"{name}: all batches must have rows of one shape, got two ({error}); pad all rows to "
            "one length"
        ) from error
