"""The run folder of several processes: every rank writes its members, one renaming makes it count.

A checkpoint is a folder `generation-000012`: `head.safetensors` has everything but the members'
weights, and shards have those, written by torch.distributed.checkpoint as safetensors. It is
written under another name and renamed once it is whole. Any number of processes can go on from it.
"""

import os
import re
import shutil
import time
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from gradevo import checkpoint
from gradevo.distributed.placing import NOBODY, rows_at
from gradevo.distributed.rows import from_bytes, row_bytes
from gradevo.distributed.team import Team
from gradevo.errors import CheckpointError
from gradevo.folder import Checkpoint, RunFolder, Saved
from gradevo.structure import Tensors

HEAD = "head.safetensors"
READER, WRITER = "HuggingFaceStorageReader", "HuggingFaceStorageWriter"
NAME = re.compile(r"generation-(\d{6,})")


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
        team: the processes; one that is alone may go on from what several have saved.
        homes: the members' ranks at the start, and after loading, `(g,)`.
    """

    def __init__(
        self, settings: Checkpoint, identity: dict[str, Any], team: Team, homes: Tensor
    ) -> None:
        super().__init__(settings, identity)
        self.root, self.team, self.homes = Path(settings.folder), team, homes

    def load(self) -> Saved | None:
        """The furthest that is there, by one process or by several.

        Raises:
            CheckpointError: it is damaged, another run's, or was saved by one process within a
                learning phase.
        """
        if self.team.rank == 0 and self.root.is_dir():
            checkpoint.clear_unfinished(self.root)
        alone, newest = super().load(), self.team.agree(self._newest())
        if newest is not None:
            saved = self._read(newest)
            further = 0 if alone is None else len(alone.history) - len(saved.history)
            within = self.team.size == 1 and further == 0  # of the next generation
            if alone is None or not (further > 0 or within):
                return saved
        if alone is None or self.team.size == 1:
            return alone
        if alone.state.within:
            raise CheckpointError(
                "checkpoint: must be of the end of a generation to go on with several processes, "
                f"got one from within a generation in {self.root}; go on with one process"
            )
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
        final = self.root / f"generation-{len(saved.history):06d}"
        room = self.root / f"{checkpoint.UNFINISHED}{final.name}"
        self._each(lambda: self._clear(room), room)
        self._each(lambda: self._write_head(room, saved), room)
        self._each(lambda: self._write_rows(room, saved), room)
        self._each(lambda: self._commit(room, final), room)
        self.saved_at = time.monotonic()
        self.took = self.saved_at - start

    def where(self) -> str:
        """A sentence on what is saved, for whoever has to go on from there."""
        if self._newest() is None:
            return super().where()
        return f"The last good checkpoint is in {self.root}"

    # --- reading -------------------------------------------------------------------------

    def _newest(self) -> Path | None:
        found = [path.name for path in self.root.glob("generation-*") if NAME.fullmatch(path.name)]
        newest = max(found, key=lambda name: int(name.split("-")[1]), default=None)
        return None if newest is None else self.root / newest

    def _read(self, path: Path) -> Saved:
        value = checkpoint.read(path / HEAD)
        self._check_same(value.get("identity", {}))
        state: Parted = value["state"]
        ids, like = rows_at(self.homes, self.team.rank), state.local()
        width = row_bytes(like, NOBODY).shape[1]
        rows = {_key(i): torch.empty(width, dtype=torch.uint8) for i in ids.tolist()}
        with checkpoint.explaining("be whole", path), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process
            load, reader_of = _dcp("state_dict_loader", "load"), _dcp("hf_storage", READER)
            try:
                load(rows, storage_reader=reader_of(str(path)), no_dist=True)
            except BaseException as error:  # DCP's own is no Exception
                if not _is_failure(error):
                    raise
                raise CheckpointError(
                    f"checkpoint: must be whole, got {_brief(error)} for {path}"
                ) from error
        members = from_bytes(torch.stack(list(rows.values())), like)
        return Saved(state.with_local(members, self.homes), value["history"], value["engine"])

    # --- writing -------------------------------------------------------------------------

    def _each(self, work: Any, path: Path) -> None:
        """Work that every rank does; if one fails, all fail.

        Raises:
            CheckpointError: with what the first one that failed says.
        """
        reason = ""
        try:
            work()
        except BaseException as error:  # the system's, or DCP's own, which is no Exception
            if not _is_failure(error):
                raise
            reason = _brief(error)
        if self.team.total(int(bool(reason))):
            rule = "be writable (the last good one is kept)"
            reason = reason or "an error in another process"
            raise CheckpointError(f"checkpoint: must {rule}, got {reason} for {path}")

    def _clear(self, room: Path) -> None:
        if self.team.rank == 0:
            self.root.mkdir(parents=True, exist_ok=True)
            checkpoint.clear_unfinished(self.root)
            room.mkdir()

    def _write_head(self, room: Path, saved: Saved) -> None:
        if self.team.rank == 0:
            state: Parted = saved.state
            nobody = {name: t[:0] for name, t in state.local().items()}  # types and shapes
            head = replace(saved, state=state.with_local(nobody, state.homes))
            checkpoint.write(room / HEAD, {"identity": self.identity, **vars(head)})

    def _write_rows(self, room: Path, saved: Saved) -> None:
        state: Parted = saved.state
        ids = rows_at(state.homes, self.team.rank)
        packed = row_bytes(state.local(), torch.arange(len(ids))).cpu()
        rows = {_key(i): row for i, row in zip(ids.tolist(), packed, strict=True)}
        writer = _dcp("hf_storage", WRITER)(str(room), save_distributed=True)
        _dcp("state_dict_saver", "save")(rows, storage_writer=writer)

    def _commit(self, room: Path, final: Path) -> None:
        if self.team.rank != 0:
            return
        for path in (*room.iterdir(), room):
            checkpoint.flush(path)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(room, final)
        checkpoint.flush(self.root)
        for path in self.root.glob("generation-*"):
            if path != final:
                shutil.rmtree(path, ignore_errors=True)


def _dcp(room: str, name: str) -> Any:
    """A part of torch.distributed.checkpoint, looked for where it is used.

    Raises:
        CheckpointError: this torch is too old for it.
    """
    try:
        return getattr(import_module(f"torch.distributed.checkpoint.{room}"), name)
    except ImportError:
        raise CheckpointError(
            "checkpoint: of several processes needs a newer torch, 2.13 is tested; "
            "pip install -U torch"
        ) from None


def _is_failure(error: BaseException) -> bool:
    """Whether an error is no request to stop; DCP's own is not an Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "CheckpointException"


def _key(i: int) -> str:
    return f"member {i:07d}"


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:200]
