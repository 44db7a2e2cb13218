"""The run folder of several processes: every rank writes its members, one renaming makes it count.

A checkpoint is a folder `generation-000012`: every rank's file has its members' tensors, and
`head.safetensors` has all else, with the checksums of those files: so a head and members of two
saves are never taken for one. It is written under another name and renamed once it is whole. Any
number of processes can go on from it.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor

from gradevo import checkpoint, disk
from gradevo.distributed.placing import NOBODY, rows_at
from gradevo.distributed.team import Team
from gradevo.errors import CheckpointError
from gradevo.folder import Checkpoint, RunFolder, Saved, generations, number_of
from gradevo.forms import Form, exactly, fitting, list_of, stacked, text
from gradevo.identity import Identity
from gradevo.names import GENERATION, HEAD, SHARD
from gradevo.structure import Tensors

log = logging.getLogger(__name__)
T = TypeVar("T")


class Parted(Protocol):
    """A run's state of which the members' tensors are spread over processes.

    Attributes:
        homes: the members' ranks, `(g,)`.
        within: whether a generation is under way.
    """

    @property
    def homes(self) -> Tensor: ...

    @property
    def within(self) -> bool: ...

    def local(self) -> Tensors:
        """Stacked tensors of this process's members: all that the others do not know."""
        ...

    def with_local(self, tensors: Tensors, homes: Tensor) -> Self:
        """The same state with members that are elsewhere, and these here."""
        ...


class SharedFolder(RunFolder):
    """Saves a run of a team at the ends of generations, and finds it again.

    Args:
        settings: where and how often.
        identity: of the run.
        form, noted: of its state and history, see `RunFolder`.
        team: the processes; one that is alone may go on from what several have saved.
        homes: the members' ranks at the start, and after loading, `(g,)`.
        force: go on with another run, too.
    """

    def __init__(
        self,
        settings: Checkpoint,
        identity: Identity,
        form: Callable[[int, Tensor | None], Form],
        noted: Collection[str],
        team: Team,
        homes: Tensor,
        *,
        force: bool = False,
    ) -> None:
        super().__init__(settings, identity, form, noted, force=force)
        self.team, self.homes = team, homes

    def __enter__(self) -> Self:
        """The first rank holds the lock for all."""
        self._all(self._hold, "be writable", first=True)
        return self

    def _hold(self) -> None:
        self.lock.__enter__()

    def load(self) -> Saved | None:
        """The furthest that is there, by one process or by several.

        Raises:
            CheckpointError: on every rank: it is damaged, another run's, or was saved by one
                process within a learning phase.
        """
        newest = self._all(self._newest, "be readable", first=True)
        saved = self._all(lambda: self._furthest(newest), "be readable")
        self._all(lambda: disk.clear_unfinished(self.root), "be writable", first=True)
        return saved

    def _furthest(self, newest: Path | None) -> Saved | None:
        alone = super().load()
        if newest is not None:
            saved = self._read(newest)
            further = 0 if alone is None else len(alone.history) - len(saved.history)
            within = self.team.size == 1 and further == 0  # of the next generation
            if alone is None or not (further > 0 or within):
                return saved
        if alone is None or self.team.size == 1:
            return alone
        state: Parted = alone.state
        ids = rows_at(self.homes, self.team.rank)
        members = {name: t[ids] for name, t in state.local().items()}
        return replace(alone, state=state.with_local(members, self.homes))

    def due(self, *, ended: bool) -> bool:
        """As for one process, but rank 0 says it for all; within a generation nothing is saved."""
        if self.team.size == 1:
            return super().due(ended=ended)
        return ended and bool(self.team.agree(super().due(ended=True)))

    def save(self, saved: Saved) -> None:
        """Write a checkpoint of all ranks; those before it are removed once it is whole.

        Raises:
            CheckpointError: on every rank, if one could not write.
        """
        if self.team.size == 1:
            super().save(saved)
            return
        start = time.monotonic()
        final = self.root / GENERATION.format(len(saved.history))
        room = self.root / f"{disk.UNFINISHED}{final.name}"
        rule = "be writable (the last good one is kept)"
        self._all(lambda: self._clear(room), rule, first=True)
        checksum = self._all(lambda: self._write_members(room, saved), rule)
        own = torch.tensor([list(bytes.fromhex(checksum))], dtype=torch.uint8)
        every = self.team.gathered(own, torch.arange(self.team.size))
        shards = [bytes(row.tolist()).hex() for row in every]
        self._all(lambda: self._commit(room, final, saved, shards), rule, first=True)
        self.saved_at = time.monotonic()
        self.took = self.saved_at - start

    def where(self) -> str:
        """A sentence on what is saved, for whoever has to go on from there."""
        if not generations(self.root):
            return super().where()
        return f"The last good checkpoint is in {self.root}"

    # --- reading -------------------------------------------------------------------------

    def _newest(self) -> Path | None:
        """The last whole one; of one without a head, which no save leaves, it is said.

        Raises:
            CheckpointError: there are only such.
        """
        found, whole = list(self.root.glob("generation-*")), generations(self.root)
        empty = sorted(path.name for path in found if path not in whole)
        if empty and not whole and not self.path.exists():
            raise CheckpointError(
                f"checkpoint: must be whole, got {empty[-1]} without {HEAD} in {self.root}"
            )
        if empty:
            log.warning("checkpoint: %s in %s has no %s; left out", empty[-1], self.root, HEAD)
        return whole[-1] if whole else None

    def _read(self, path: Path) -> Saved:
        value, head = checkpoint.read(path / HEAD), path / HEAD
        with fitting(head):
            shards = value["shards"]
            list_of(text)(shards, "shards")
        saved = self._checked(value, head, len(shards), NOBODY, shards=list_of(text))
        ids = rows_at(self.homes, self.team.rank)
        with fitting(head):
            exactly(number_of(path))(len(saved.history), "the number of generations")
            members = self._members(path, saved.state, shards, ids)
            saved.state = saved.state.with_local(members, self.homes)
            self.form(self.team.size, ids)(saved.state, "state")
        return saved

    def _members(self, path: Path, state: Parted, shards: list[str], ids: Tensor) -> Tensors:
        """Tensors of some members, from the files that have them."""
        like, homes = state.local(), state.homes
        found = {name: t.new_empty(len(ids), *t.shape[1:]) for name, t in like.items()}
        for shard in homes[ids].unique().tolist():
            there, spots = rows_at(homes, shard), (homes[ids] == shard).nonzero().flatten()
            tensors = self._shard(path / SHARD.format(shard), shards[shard])
            with fitting(path / SHARD.format(shard)):
                stacked(like, len(there))(tensors, "")
            rows = torch.searchsorted(there, ids[spots])
            for name, t in found.items():
                t[spots] = tensors[name][rows]
        return found

    def _shard(self, path: Path, checksum: str) -> Any:
        value, found = checkpoint.read_with_checksum(path)
        if found != checksum:
            raise CheckpointError(f"checkpoint: must be of one save, got {path} of another one")
        return value

    # --- writing -------------------------------------------------------------------------

    def _all(self, work: Callable[[], T], rule: str, *, first: bool = False) -> T:
        """What every rank finds, or the first for all; if one fails, all fail.

        Raises:
            CheckpointError: what the first rank that failed says.
        """
        found, reason, cause = cast(T, None), "", None
        try:
            if self.team.rank == 0 or not first:
                found = work()
        except Exception as error:
            plain = str(error) or type(error).__name__
            known = isinstance(error, CheckpointError)
            reason, cause = plain if known else f"checkpoint: must {rule}, got {plain}", error
        if first:
            found, reason = self.team.agree((found, reason))
        elif self.team.total(int(bool(reason))):
            reason = reason or f"checkpoint: must {rule}, got an error in another process"
        if reason:
            raise CheckpointError(reason) from cause
        return found

    def _clear(self, room: Path) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        disk.clear_unfinished(self.root)
        room.mkdir()

    def _write_members(self, room: Path, saved: Saved) -> str:
        path = room / SHARD.format(self.team.rank)
        state: Parted = saved.state
        checksum = checkpoint.dump(path, state.local())
        disk.flush(path)
        return checksum

    def _commit(self, room: Path, final: Path, saved: Saved, shards: list[str]) -> None:
        """Write the head, and give the whole its name."""
        state: Parted = saved.state
        nobody = {name: t[:0] for name, t in state.local().items()}  # types and shapes
        head = replace(saved, state=state.with_local(nobody, state.homes))
        checkpoint.dump(room / HEAD, {"identity": self.identity, "shards": shards, **vars(head)})
        for path in (room / HEAD, room):
            disk.flush(path)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(room, final)
        disk.flush(self.root)
        for path in self.root.glob("generation-*"):
            if path != final:
                shutil.rmtree(path, ignore_errors=True)
