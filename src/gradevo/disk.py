"""Files as they are read and written here: regular ones only, whole or not at all.

What is written lies in a folder beside the old file and is renamed over it once it is whole, so
a kill at any instant leaves a good file.
"""

import errno
import os
import platform
import shutil
import stat
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from gradevo.errors import CheckpointError

UNFINISHED = ".unfinished-"  # folders in which files are written; a kill may leave one
BUFFER = 2**20
FLOOR, FACTOR = 2**28, 100  # of what a packed file may hold
PLAIN = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # pipes are not waited for


@contextmanager
def explaining(rule: str, path: Path) -> Iterator[None]:
    """Say of what the system refuses which file it was and what is expected of it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"checkpoint: must {rule}, got {reason} for {path}") from error


# --- reading -------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file to read from; pipes, devices and folders are refused without waiting.

    Raises:
        OSError: it is not there, not readable or no regular file.
    """
    with open(_regular(path, os.O_RDONLY | PLAIN), "rb", buffering=BUFFER) as file:
        yield file


def _regular(path: Path, flags: int) -> int:
    """A descriptor of a regular file."""
    descriptor = os.open(path, flags, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "no regular file", str(path))


def text_of(path: Path) -> str | None:
    """A text file's content, whatever bytes it has; None where there is none.

    Raises:
        CheckpointError: it cannot be read.
    """
    with explaining("be readable", path):
        try:
            with opened(path) as file:
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return None


# --- what is packed ------------------------------------------------------------------------


def most_unpacked(size: int) -> int:
    """Bytes that a packed file of so many bytes may hold; what holds more is a trap, or rare.

    Example:
        >>> most_unpacked(1_000_000) // 10**6
        368
    """
    return FLOOR + FACTOR * size


class TooLarge(ValueError):
    """What is packed holds more than it may."""


def check_archive(file: BinaryIO | Path, most: int) -> None:
    """Look at what a zip archive says of its size before anything of it is read.

    Raises:
        TooLarge: it holds more than `most` bytes.
        zipfile.BadZipFile, OSError: it is no such archive, or cannot be read.
    """
    with zipfile.ZipFile(file) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > most:
        raise TooLarge(f"must hold at most {most:,} bytes once unpacked, but holds {size:,}")


# --- writing -------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` once the block has ended well, whole or not at all.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; what was at `path` is
            untouched.
    """
    room = path.parent / f"{UNFINISHED}{platform.node()}-{os.getpid()}-{threading.get_ident()}"
    try:
        with explaining("be writable (the last good one is kept)", path):
            room.mkdir(parents=True, exist_ok=True)
            yield room / path.name
            os.chmod(room / path.name, room.stat().st_mode & 0o666)  # as the umask has it
            flush(room / path.name)
            os.replace(room / path.name, path)
            if os.name == "posix":
                flush(path.parent)  # makes the renaming itself durable
    finally:
        shutil.rmtree(room, ignore_errors=True)


def append(path: Path, content: bytes) -> None:
    """Add to a file, all or nothing where the disk is full.

    Raises:
        OSError: it cannot be written, or is no regular file.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | PLAIN
    with open(_regular(path, flags), "ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            os.truncate(path, size)
            raise


def clear_unfinished(folder: Path) -> None:
    """Remove what a kill left behind; good files are elsewhere."""
    for room in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(room, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
