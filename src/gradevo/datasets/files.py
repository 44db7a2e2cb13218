"""Whole files as bytes, unzipped, with one clear error line for what can go wrong."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from pathlib import Path
from typing import NamedTuple

from gradevo.datasets.names import DataError, hint
from gradevo.disk import most_unpacked

_GZIP = b"\x1f\x8b"


class File(NamedTuple):
    """A file and the argument that named it, as they stand in an error line.

    `most` are the bytes that it may hold once it is unpacked; None: see `most_unpacked`.

    >>> str(File(Path("a.csv"), "test"))
    "test: file 'a.csv'"
    """

    path: Path
    argument: str = "data"
    most: int | None = None

    def limit(self, size: int) -> int:
        """Bytes that it may hold, of which there are so many in the file."""
        return most_unpacked(size) if self.most is None else self.most

    def too_large(self, limit: int) -> DataError:
        """That it holds more."""
        return DataError(
            f"{self} must hold at most {limit:,} bytes once unpacked, but holds more; if it is "
            "meant to, raise the limit by --max-size (max_size)"
        )

    def __str__(self) -> str:
        return f"{self.argument}: file '{self.path}'"


def read_bytes(file: File) -> bytes:
    """Read a file and unzip it if it is gzipped, whatever its name.

    Args:
        file: The file.

    Returns:
        The unzipped content, at least one byte.

    Raises:
        DataError: The file is missing, unreadable, empty, a damaged gzip file, or holds more than
            it may.

    >>> read_bytes(File(Path("a.csv")))
    Traceback (most recent call last):
    gradevo.datasets.names.DataError: data: file 'a.csv' must exist, but does not
    """
    content = _unzipped(file, _raw(file.path, file))
    if not content:
        raise DataError(f"{file} must hold data, but is empty")
    return content


def _raw(path: Path, file: File) -> bytes:
    try:
        with path.open("rb") as found:
            about = os.fstat(found.fileno())
            if stat.S_ISREG(about.st_mode):
                return found.read()
            limit = file.limit(0)  # a pipe or a device may never end
            content = found.read(limit + 1)
    except FileNotFoundError as error:
        raise DataError(f"{file} must exist, but does not{_siblings(path)}") from error
    except OSError as error:
        raise DataError(f"{file} must be readable, but is not: {error.strerror}") from error
    if len(content) > limit:
        raise file.too_large(limit)
    return content


def _siblings(path: Path) -> str:
    try:
        return hint(path.name, (other.name for other in path.parent.iterdir()))
    except OSError:
        return ""


def _unzipped(file: File, content: bytes) -> bytes:
    if file.path.suffix == ".gz" and content and not content.startswith(_GZIP):
        raise DataError(f"{file} must be gzipped, as its name says, but is not")
    if not content.startswith(_GZIP):
        return content
    limit = file.limit(len(content))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            found = packed.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} must be a whole gzip file, but is damaged: {error}") from error
    if len(found) > limit:
        raise file.too_large(limit)
    return found
