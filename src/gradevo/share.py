"""Which members of a population this process computes, and random numbers that do not care.

A population may be spread over processes. What is drawn for a member is drawn by its number,
from a stream of its own, so that it does not matter who draws it.
"""

from dataclasses import dataclass
from typing import Self

from gradevo.checkpoint import storable

MASK = 2**64 - 1


@storable
@dataclass(frozen=True)
class Share:
    """Some members of a population, or all.

    Attributes:
        ids: their numbers, ascending.
        of: members of the whole population.
    """

    ids: tuple[int, ...]
    of: int

    @classmethod
    def whole(cls, size: int) -> Self:
        """All members."""
        return cls(tuple(range(size)), size)

    def __len__(self) -> int:
        return len(self.ids)


def mixed(*numbers: int) -> int:
    """A seed in [0, 2^62) from several numbers; another for other numbers, as good as surely.

    Example:
        >>> mixed(1, 2) == mixed(1, 2), mixed(1, 2) == mixed(2, 1)
        (True, False)
    """
    state = 0
    for number in numbers:  # splitmix64 (Steele, Lea and Flood, 2014), one round a number
        state = (state + number + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state >> 2
