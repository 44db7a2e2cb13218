"""The compiled entry of the kernel, kept on disk once it is compiled."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit, types

from gradevo.engines.simd.kernel import steps


def _version() -> str:
    """A number of all source files here: Numba's cache looks at the entry's own file only."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def entry() -> Any:
    """The function `(frame, first block, last block, first step, last step, scratch)`.

    Compiled in some seconds on the first call after an installation; it runs without Python's
    lock.
    """
    return _of_version(_version())


def _of_version(version: str) -> Any:
    signature = types.void(*[types.intp] * 6)

    @njit(signature, cache=True, nogil=True, error_model="numpy")
    def run(frame: int, low: int, high: int, first: int, last: int, scratch: int) -> None:
        if len(version) == 0:  # a closure's variables are part of the cache's key
            return
        for block in range(low, high):
            steps(frame, block, first, last, scratch)

    return run
