"""One run at a time in a folder: a lock of the operating system, and a note of who has it.

The system gives the lock back when its process ends, however it ends; so a note may be old, a lock
never is. Those that only read (report, export, front) need none.
"""

import errno
import logging
import os
import platform
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from gradevo import record, sealed
from gradevo.disk import explaining
from gradevo.errors import CheckpointError
from gradevo.names import LOCK, OWNER

log = logging.getLogger(__name__)
WITHOUT = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # a disk without locks


class FolderLock:
    """A block in which nobody else runs in a folder, in this process or another.

    Args:
        folder: made if need be.

    Raises:
        CheckpointError: on entering: somebody else does, or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, FolderLock(Path(folder)):
        ...     FolderLock(Path(folder)).__enter__()
        Traceback (most recent call last):
        gradevo.errors.CheckpointError: checkpoint: must be a folder that no other run uses, ...
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: FileLock | None = None

    def __enter__(self) -> Self:
        with explaining("be writable", self.folder / LOCK):
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / LOCK
            lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
            try:
                lock.acquire()
            except Timeout:
                raise CheckpointError(self._taken()) from None
            except OSError as error:
                if error.errno not in WITHOUT:
                    raise
                log.warning(
                    "checkpoint: the disk of %s has no locks; see to it that no two runs use it",
                    self.folder,
                )
                return self
        self._lock = lock
        own = {"host": platform.node(), "process": os.getpid(), "since": record.now()}
        try:
            sealed.save_json(self.folder / OWNER, own)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _taken(self) -> str:
        rule = f"checkpoint: must be a folder that no other run uses, got {self.folder}"
        try:
            owner = sealed.load_json(self.folder / OWNER) or {}
        except CheckpointError:
            owner = {}
        if not owner:
            return f"{rule}, which another process has"
        host, process = owner.get("host"), owner.get("process")
        this = host == platform.node() and process == os.getpid()
        who = "this very process" if this else f"process {process} on {host}"
        return f"{rule}, which {who} has since {owner.get('since')}"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            with suppress(OSError):  # the folder may have gone
                (self.folder / OWNER).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None
