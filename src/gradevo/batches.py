"""Mini-batches for a population: from tensors, a Dataset or a DataLoader; resumable.

Where a source stands is a `Position`: the generator state at the start of the current epoch
and the number of draws since. A source keeps no other state that matters, so a run goes on
with the batches that it would have seen.
"""

from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, IterableDataset

from gradevo import trees
from gradevo.checkpoint import storable
from gradevo.forms import INT64
from gradevo.randomness import generator_from, isolated
from gradevo.share import Share, mixed
from gradevo.trees import Tree

Pair = tuple[Tree, Tree]
LABELS = ("labels", "label")  # where a mapping has its targets


@storable
@dataclass
class Position:
    """Where a source stands: random state at the start of the epoch, draws taken since."""

    epoch: Tensor  # state of a CPU generator, uint8
    taken: int = 0


class Source(Protocol):
    """Training data dealt out in batches."""

    rows: int
    batch_size: int
    draws: int  # in an epoch, at most

    def start(self, generator: Generator) -> Position:
        """The beginning of an epoch, its order to be drawn from `generator`."""
        ...

    def draw(self, position: Position, members: int | Share, shared: bool) -> Pair:
        """The next batch `(B, ...)`, or one a member `(g, B, ...)`; advances `position`.

        What a member gets does not depend on which others are drawn for.
        """
        ...


class TensorSource:
    """Batches from tensors, or trees of them, that hold all rows; every member shuffles on its own.

    A member goes through all rows once an epoch, in its own order; the last rows that do not
    fill a batch are left out of that epoch.
    """

    def __init__(self, x: Tree, y: Tree, batch_size: int) -> None:
        self.x, self.y = x, y
        self.rows = trees.length(x)
        self.device = trees.tensors(x)[0].device
        self.batch_size = batch_size
        self.draws = self.rows // batch_size
        self._orders: tuple[Tensor, tuple[int, ...], Tensor, Generator] | None = (
            None  # of this epoch
        )

    def start(self, generator: Generator) -> Position:
        return Position(generator.get_state())

    def draw(self, position: Position, members: int | Share, shared: bool) -> Pair:
        ids = (0,) if shared else _share(members).ids
        rows = torch.empty(len(ids), self.batch_size, dtype=torch.int32)
        self.fill(rows, position, ids)
        rows = rows.to(self.device)
        chosen = rows[0] if shared else rows
        return trees.take(self.x, chosen), trees.take(self.y, chosen)

    def fill(self, rows: Tensor, position: Position, ids: tuple[int, ...]) -> None:
        """Row numbers of the next batches into int32 `(n, draws * B)`; advances `position`.

        Args:
            rows: to write to.
            position: moves on.
            ids: numbers of the n members.
        """
        done = 0
        while done < rows.shape[1]:
            left = self.rows // self.batch_size - position.taken
            if left == 0:
                position.epoch, position.taken = self._epoch(position, ids)[1].get_state(), 0
                continue
            orders, first = self._epoch(position, ids)[0], position.taken * self.batch_size
            count = min(left * self.batch_size, rows.shape[1] - done)
            rows[:, done : done + count] = orders[:, first : first + count]
            position.taken, done = position.taken + count // self.batch_size, done + count

    def _epoch(self, position: Position, ids: tuple[int, ...]) -> tuple[Tensor, Generator]:
        """Row orders of the epoch `(n, rows)`, kept while it lasts, and the draws after."""
        kept = self._orders
        if kept is None or kept[1] != ids or not torch.equal(kept[0], position.epoch):
            generator = torch.Generator()
            generator.set_state(position.epoch)
            key = int(torch.randint(2**62, (), generator=generator))
            orders = torch.empty(len(ids), self.rows, dtype=torch.int32)
            for i, row in zip(ids, orders, strict=True):
                own = generator_from(mixed(key, i))
                torch.randperm(self.rows, generator=own, dtype=torch.int32, out=row)
            kept = self._orders = position.epoch, ids, orders, generator
        return kept[2], kept[3]


class LoaderSource:
    """Batches from the user's own DataLoader, in its order, dealt to the members in turn.

    Members see different batches of one pass through the loader, so an epoch of the data for
    every member is g passes. Batches shorter than the loader's batch size (the last of a
    pass) are skipped, since members' batches are stacked. Shuffling, and augmentation, draw
    from the run's own generator; a generator that the loader was given is reseeded from it at
    every pass. A resumed run loads the pass under way again up to where it stood. It cannot
    bring back the random numbers of worker processes that outlive a pass
    (`persistent_workers`).

    Args:
        loader: over a dataset with a length, with a `batch_size`.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.rows = rows_of(loader)
        self.batch_size = loader.batch_size or 0
        self.draws = _draws(loader)
        self.admit: Callable[[Pair], Pair] = lambda pair: pair  # what a batch goes through
        self._live: tuple[Position, Iterator[Any], Generator] | None = None

    def start(self, generator: Generator) -> Position:
        return Position(generator.get_state())

    def draw(self, position: Position, members: int | Share, shared: bool) -> Pair:
        if shared:
            return self._next(position)
        share = _share(members)
        every = (self._next(position) for _ in range(share.of))  # others' are dealt to them
        own = (pair for i, pair in enumerate(every) if i in share.ids)
        batches = [trees.each(torch.clone, pair) for pair in own]  # a loader may reuse its memory
        try:
            return trees.stack([x for x, _ in batches]), trees.stack([y for _, y in batches])
        except RuntimeError as error:
            raise ValueError(
                "train: members' batches must be of one shape, as they are stacked, got "
                f"{str(error).partition('but got ')[2] or error}; pad all rows to one length, or "
                "take shared_batch=True"
            ) from error

    def _next(self, position: Position) -> Pair:
        """The next full batch, from a new pass where this one is over."""
        for _ in range(2):
            while (batch := self._take(position)) is not None:
                x, y = pair_of("train", batch)
                if trees.length(x) == self.batch_size:
                    return self.admit((x, y))
            position.epoch, position.taken = self._at(position)[1].get_state(), 0
        raise ValueError(
            f"train: a pass through the loader must give a batch of {self.batch_size} rows, "
            "got none"
        )

    def _take(self, position: Position) -> Any:
        """The next item of this pass, None at its end; advances `position`."""
        iterator, generator = self._at(position)
        with isolated(generator):
            batch = next(iterator, None)
        if batch is not None:
            position.taken += 1
        self._live = Position(position.epoch, position.taken), iterator, generator
        return batch

    def _at(self, position: Position) -> tuple[Iterator[Any], Generator]:
        """The iterator that stands at `position`, and the random numbers from there on."""
        if self._live is not None:
            live, iterator, generator = self._live
            if live.taken == position.taken and torch.equal(live.epoch, position.epoch):
                return iterator, generator
        generator = torch.Generator()
        generator.set_state(position.epoch)
        with isolated(generator):
            reseed(self.loader)
            iterator = iter(self.loader)
        self._live = Position(position.epoch), iterator, generator
        for _ in range(position.taken):  # exactly as the run took them
            self._take(self._live[0])
        return iterator, generator


def _draws(loader: DataLoader[Any]) -> int:
    """Batches of a pass, as far as a loader can tell."""
    exact = not isinstance(loader.dataset, IterableDataset)
    with suppress(TypeError, NotImplementedError):
        return len(loader) if exact else INT64
    return INT64


def _share(members: int | Share) -> Share:
    return members if isinstance(members, Share) else Share.whole(members)


def reseed(loader: DataLoader[Any]) -> None:
    """Let a loader with generators of its own follow the global one, for this pass."""
    for generator in (loader.generator, getattr(loader.sampler, "generator", None)):
        if generator is not None:
            generator.manual_seed(int(torch.randint(2**62, ())))


def rows_of(loader: DataLoader[Any]) -> int:
    """How many rows a pass through a loader gives, as far as its sampler can tell."""
    try:
        return len(cast(Sized, loader.sampler))
    except (TypeError, NotImplementedError):
        return len(cast(Sized, loader.dataset))


def pair_of(name: str, batch: Any) -> Pair:
    """A loader's batch as inputs and targets.

    Raises:
        ValueError: it is something else.
    """
    parts = parted(name, batch) if isinstance(batch, Mapping) else batch
    if isinstance(parts, tuple | list) and len(parts) == 2:
        x, y = parts
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x, y
        with suppress(TypeError):
            return checked_pair(name, trees.plain(x, _is_tensor), trees.plain(y, _is_tensor))
    kinds = map(trees.kind, parts if isinstance(parts, tuple | list) else [parts])
    raise ValueError(
        f"{name}: every batch must be a pair (x, y) of tensors, or of mappings and tuples of "
        f"tensors, got ({', '.join(kinds)})"
    )


def checked_pair(name: str, x: Tree, y: Tree) -> Pair:
    """Inputs and targets, if all their tensors have as many rows.

    Raises:
        ValueError: they have not.
    """
    rows, targets = trees.common_length(name, x), trees.common_length(name, y)
    if rows != targets:
        raise ValueError(f"{name}: x and y must have one length, got {rows} and {targets}")
    return x, y


def parted(name: str, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """A mapping as inputs and targets, which are its `labels`, or its `label`.

    Raises:
        ValueError: there are none, or nothing else.
    """
    key = next((key for key in LABELS if key in batch), None)
    if key is None or len(batch) == 1:
        raise ValueError(
            f"{name}: a mapping must have its inputs by name and its targets as 'labels' or "
            f"'label', got {', '.join(map(str, batch)) or 'an empty one'}; for other names give "
            "a pair (x, y)"
        )
    return {name: part for name, part in batch.items() if name != key}, batch[key]


def _is_tensor(leaf: Any) -> Tensor:
    if not isinstance(leaf, Tensor):
        raise TypeError
    return leaf
