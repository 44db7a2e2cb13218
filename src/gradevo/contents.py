"""The data of a run in a few words and a digest, to know them again.

Of tensors all rows count. Of datasets and loaders a few rows do, with their number and the settings
of the loader: to read all of them could take as long as the run.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Subset

from gradevo import trees
from gradevo.attributes import described
from gradevo.batches import LoaderSource, Source, TensorSource
from gradevo.code import code_of, written
from gradevo.digests import digest
from gradevo.randomness import generator_from, isolated
from gradevo.trees import Tree

log = logging.getLogger(__name__)
SAMPLED = 16  # rows of a dataset


@dataclass(frozen=True)
class Contents:
    """Training and validation data, as plain values by name."""

    train: dict[str, Any]
    valid: dict[str, Any]


def contents_of(source: Source, valid: tuple[Tree, Tree]) -> Contents:
    """What tells the data of a run from others."""
    held = {"rows": trees.length(valid[0]), "content": _digest(valid)}
    known = {"kind": type(source).__name__, "rows": source.rows, "batch": source.batch_size}
    if isinstance(source, TensorSource):
        return Contents({**known, "content": _digest((source.x, source.y))}, held)
    if isinstance(source, LoaderSource):
        return Contents({**known, **_loader(source.loader)}, held)
    return Contents(known, held)


def _digest(tree: Any) -> str:
    """Of all tensors of a tree, and of its names."""
    leaves, spec = pytree.tree_flatten(tree)
    return digest([str(spec), *map(_plain, leaves)])


def _plain(leaf: Any) -> Any:
    """A row's part as it is hashed: pictures of PIL as arrays."""
    if isinstance(leaf, Tensor | np.ndarray | bool | int | float | str | bytes | None):
        return leaf
    try:
        return np.asarray(leaf)
    except (TypeError, ValueError):
        return type(leaf).__name__


def _loader(loader: DataLoader[Any]) -> dict[str, Any]:
    kind, sampler = type(loader.dataset), loader.sampler
    return {
        "dataset": f"{written(kind)} {code_of(kind)}".strip(),
        "sampler": written(type(sampler)),
        "replacement": getattr(sampler, "replacement", None),
        "drop_last": loader.drop_last,
        "collate": described(loader.collate_fn),
        "sampled content": _sampled(loader),
    }


def _sampled(loader: DataLoader[Any]) -> str | None:
    """A digest of some rows; None where the same row is another one every time."""
    rows = len(loader.dataset)  # pyright: ignore[reportArgumentType]
    chosen = sorted(set(np.linspace(0, rows - 1, SAMPLED, dtype=int).tolist()))
    try:
        first, second = (_digest(_rows(loader, chosen)) for _ in range(2))
    except Exception as error:  # whatever a dataset raises that the run may never meet
        log.info("data: rows are not compared on resume, %s: %s", type(error).__name__, error)
        return None
    if first != second:
        log.info("data: rows are not compared on resume, as they differ from time to time")
    return first if first == second else None


def _rows(loader: DataLoader[Any], chosen: list[int]) -> list[Any]:
    """Rows of a dataset as they are, from a process of their own where the loader has some."""
    with isolated(generator_from(0)):
        if not loader.num_workers:
            return [loader.dataset[i] for i in chosen]
        own = DataLoader(
            Subset(loader.dataset, chosen), batch_size=len(chosen), collate_fn=_as_they_are,
            num_workers=1, worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        )  # fmt: skip
        return next(iter(own))


def _as_they_are(rows: list[Any]) -> list[Any]:
    return rows
