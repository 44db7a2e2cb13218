"""Numba's cache of a compiled function: made anew where a file is not as it was written.

What lies there is machine code, which would run whatever has become of it.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from gradevo.errors import CheckpointError
from gradevo.sealed import load_json, save_json

log = logging.getLogger(__name__)


def compiled(make: Callable[[], Any], signature: Any, module: str) -> Any:
    """A function, compiled or from Numba's cache.

    Args:
        make: gives Numba's dispatcher of it, not compiled yet.
        signature: to compile it for.
        module: its file's name, with which those of the cache begin.
    """
    kernel = make()
    if (place := kernel.stats.cache_path) is None:
        kernel.compile(signature)
        return kernel
    folder = Path(place)
    sums = folder / f"gradevo-{module}.sums"
    if _sums(folder, module) != _known(sums):
        _throw_away(folder, module)
    try:
        kernel.compile(signature)
    except Exception as error:  # whatever unpickling a damaged file raises
        log.info("simd: its kernel in %s is damaged and made anew: %s", folder, error)
        _throw_away(folder, module)
        kernel = make()
        kernel.compile(signature)
    found = _sums(folder, module)
    if found != _known(sums):
        with suppress(CheckpointError):
            save_json(sums, found)
    return kernel


def _files(folder: Path, module: str) -> list[Path]:
    return sorted(folder.glob(f"{module}.*.nb[ic]"))


def _sums(folder: Path, module: str) -> dict[str, str]:
    with suppress(OSError):
        return {p.name: xxh3_128_hexdigest(p.read_bytes()) for p in _files(folder, module)}
    return {}


def _known(path: Path) -> dict[str, Any]:
    try:
        return load_json(path) or {}
    except CheckpointError:
        return {}


def _throw_away(folder: Path, module: str) -> None:
    for path in (*_files(folder, module), *folder.glob("gradevo-*.compiled")):
        with suppress(OSError):
            path.unlink()
