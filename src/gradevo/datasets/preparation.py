"""How the rows of a data set became a network's inputs, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Preparation:
    """What was learnt from the training rows and is done to every row.

    A number that is missing becomes `fill`, then `mean` is subtracted and divided by `scale`.
    Words become one-hot, column after column, behind all numbers.

    Attributes:
        fill: for a missing number; one a column of numbers. Images have one for all pixels, here
            and below.
        mean: of the numbers.
        scale: what they are divided by.
        columns: which columns of a row hold numbers, counted from 0 without the label; empty for
            images.
        words: for each column of words, in order: its number "column", the word "fill" that a
            missing one becomes, and the "values" that have a place; others are zeros.

    >>> Preparation((0.0,), (127.5,), (60.0,)).numeric
    True
    """

    fill: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    columns: tuple[int, ...] = ()
    words: tuple[dict[str, Any], ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether rows are numbers only, so that a network can do the preparation itself."""
        return not self.words

    @property
    def blur(self) -> float:
        """How far float32 rows may be off after preparation, at most, in units of `scale`.

        A time stamp's seconds of one hour, for example, all but coincide in float32.

        >>> Preparation((0.0,), (1.7e9,), (600.0,)).blur > 0.1
        True
        """
        pairs = zip(self.mean, self.scale, strict=True)
        return max((2.0**-24 * abs(mean) / scale for mean, scale in pairs), default=0.0)

    @property
    def written(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, written: dict[str, Any]) -> Preparation:
        """From what `written` gave, also after a way through JSON."""
        return cls(**{name: tuple(values) for name, values in written.items()})
