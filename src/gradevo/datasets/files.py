"""Whole files as bytes, unzipped, with one clear error line for what can go wrong."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

from gradevo.datasets.names import DataError, hint

_GZIP = b"\x1f\x8b"


class File(NamedTuple):
    """A file and the argument that named it, as they stand in an error line.

    >>> str(File(Path("a.csv"), "test"))
    "test: file 'a.csv'"
    """

    path: Path
    argument: str = "data"

    def __str__(self) -> str:
        return f"{self.argument}: file '{self.path}'"


def read_bytes(file: File) -> bytes:
    """Read a file and unzip it if it is gzipped, whatever its name.

    Args:
        file: The file.

    Returns:
        The unzipped content, at least one byte.

    Raises:
        DataError: The file is missing, unreadable, empty or a damaged gzip file.

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
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{file} must exist, but does not{_siblings(path)}") from error
    except OSError as error:
        raise DataError(f"{file} must be readable, but is not: {error.strerror}") from error


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
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} must be a whole gzip file, but is damaged: {error}") from error
