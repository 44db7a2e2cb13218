"""Numbers too small to be normal, which a CPU computes with up to a hundred times slower.

A member whose learning rate is too high for its weight decay shrinks towards zero, and its
weights, moments and means stay denormal from then on: one dead member of LeNet-5 made a whole
population five times slower.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed(flush: bool = True) -> Iterator[None]:
    """In the block, this thread's denormal results are zero, or not; afterwards as before.

    Where the processor cannot do that, nothing changes.

    Example:
        >>> with flushed():
        ...     half = torch.tensor(torch.finfo(torch.float32).tiny) / 2
        >>> float(half) in (0.0, torch.finfo(torch.float32).tiny / 2)
        True
    """
    before = flushes()
    torch.set_flush_denormal(flush)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def flushes() -> bool:
    """Whether this thread's denormal results are zero."""
    return bool(torch.tensor(torch.finfo(torch.float32).tiny) / 2 == 0)
