"""The compiled entry of the kernel, kept on disk once it is compiled."""

import hashlib
import logging
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.core.registry import cpu_target

from gradevo.engines.simd.cached import compiled
from gradevo.engines.simd.kernel import steps

log = logging.getLogger(__name__)
COMPILATION = 15.0  # seconds, about


@cache
def _version() -> str:
    """A number of all source files here."""
    return version_of(*sorted(Path(__file__).parent.glob("*.py")))


def version_of(*files: Path) -> str:
    """A number of source files' contents: Numba's cache looks at the entry's own file only."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def entry() -> Any:
    """The function `(frame, first block, last block, first step, last step, scratch)`.

    Compiled in some seconds on the first call after an installation; it runs without Python's
    lock.
    """
    if not on_disk():
        log.info("simd: compiling its kernel, once, in about %.0f s", COMPILATION)
    kernel = compiled(_new, _SIGNATURE, "entry")
    if (mark := _mark()) is not None:
        with suppress(OSError):
            mark.touch()
    return kernel


def _compiled() -> bool:
    """Whether this process has compiled it."""
    return bool(_lazy().signatures)


def on_disk() -> bool:
    """Whether the kernel has been compiled, by this version and for this processor."""
    mark = _mark()
    return _compiled() if mark is None else mark.exists()


_SIGNATURE = types.void(*[types.intp] * 6)


def _mark() -> Path | None:
    """An empty file beside the compiled kernel; None: it is not kept."""
    if (place := _lazy().stats.cache_path) is None:
        return None
    target: Any = cpu_target
    processor = repr(target.target_context.codegen().magic_tuple())
    name = hashlib.sha256((processor + _version()).encode()).hexdigest()[:16]
    return Path(place) / f"gradevo-{name}.compiled"


def _new() -> Any:
    """Another one, which has read nothing from disk yet."""
    _lazy.cache_clear()
    return _lazy()


@cache
def _lazy() -> Any:
    """The entry before it is compiled; not kept where Numba finds no place to write."""
    try:
        return _of_version(_version(), True)
    except RuntimeError:
        return _of_version(_version(), False)


def _of_version(version: str, kept: bool) -> Any:
    @njit(cache=kept, nogil=True, error_model="numpy")
    def run(frame: int, low: int, high: int, first: int, last: int, scratch: int) -> None:
        if len(version) == 0:  # a closure's variables are part of the cache's key
            return
        for block in range(low, high):
            steps(frame, block, first, last, scratch)

    return run
