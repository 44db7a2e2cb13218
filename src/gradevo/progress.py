"""What a run shows while it is under way: charts on a terminal, lines of a log elsewhere."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

Info = dict[str, Any]
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"  # from low to high
WIDEST = 32  # generations in a chart
SECONDS = 10.0  # between two lines of a log, at least

log = logging.getLogger("gradevo.progress")


class Display(AbstractContextManager[Any], Protocol):
    """Is told of every slice of a run, and shows what it likes."""

    def update(self, progress: float, info: Info | None) -> None:
        """Take the share of the run that is done, and a generation's numbers when it has ended."""
        ...


def display(generations: int, history: Sequence[Info], *, shown: bool = True) -> Display:
    """Charts if errors go to a terminal, else lines at level INFO of the logger "gradevo.progress".

    Args:
        generations: of the whole run.
        history: what a resumed run has behind it.
        shown: False: nothing, as on all ranks of a process group but the first.
    """
    if not shown:
        return Silence()
    if is_terminal(sys.stderr) and Console(stderr=True).is_terminal:
        return Charts(generations, history)
    return Lines(generations)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is there, open and a terminal."""
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):  # none of its own, or closed
        return False


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, progress: float, info: Info | None) -> None:
        pass


class Lines:
    """The first generation, the last, and between them one every ten seconds at most."""

    def __init__(self, generations: int) -> None:
        self.generations = generations
        self.begin = self.due = 0.0
        self.waiting: Info | None = None  # the last one, while it has not been told

    def __enter__(self) -> Self:
        self.begin = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self._tell()

    def update(self, progress: float, info: Info | None) -> None:
        self.waiting = info or self.waiting
        if time.monotonic() >= self.due:
            self._tell()

    def _tell(self) -> None:
        if self.waiting is None:
            return
        info, now = self.waiting, time.monotonic()
        where = f"generation {info['generation']}/{self.generations}"
        log.info("%s  %s  %.0f s", where, "  ".join(numbers(info).values()), now - self.begin)
        self.waiting, self.due = None, now + SECONDS


class Charts:
    """A bar with the time left, and below it the last generations' best and mean losses.

    A terminal that has gone, or cannot show what it is given, ends no run.
    """

    def __init__(self, generations: int, history: Sequence[Info]) -> None:
        console = Console(stderr=True)
        self.history = list(history[-WIDEST:])
        self.bar = _WithCharts(
            TextColumn("generation {task.fields[generation]}/" + str(generations)),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,  # no thread: loaders may fork
            redirect_stdout=is_terminal(sys.stdout),  # what goes to a file stays there
        )
        self.task = self.bar.add_task("run", total=1.0, generation=len(history))
        self.gone = False

    def __enter__(self) -> Self:
        self._show(self.bar.start)
        return self

    def _show(self, draw: Callable[[], None]) -> None:
        try:
            if not self.gone:
                draw()
        except (OSError, ValueError):
            self.gone = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._show(self.bar.stop)

    def update(self, progress: float, info: Info | None) -> None:
        fields: dict[str, Any] = {}
        if info is not None:
            self.history = [*self.history, info][-WIDEST:]
            fields = {"generation": info["generation"]}
            options = self.bar.console.options
            self.bar.charts = charts(self.history, options.max_width, ascii=options.ascii_only)
        self._show(lambda: self.bar.update(self.task, completed=progress, refresh=True, **fields))


class _WithCharts(Progress):
    """A bar with a line below it."""

    charts = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.charts:
            yield Text(self.charts, no_wrap=True, overflow="ellipsis")


def numbers(info: Info) -> dict[str, str]:
    """A generation's numbers in words, by name: best, mean, and adoption where there is one."""
    words = {name: f"{name} {info[name]:.4g}" for name in ("best", "mean")}
    if info.get("adoption") is not None:
        words["adoption"] = f"adopted {info['adoption']:.0%}"
    if skipped := info.get("skipped", 0):
        words["skipped"] = f"skipped {skipped} steps"
    return words


def charts(history: Sequence[Info], width: int, *, ascii: bool = False) -> str:
    """The last generation in words, with a chart after each loss, in a line that fits.

    Args:
        history: the last generations, at least one.
        width: of the line in characters.
        ascii: whether the terminal knows no other characters.
    """
    words = numbers(history[-1])
    spare = width - sum(map(len, words.values())) - 2 * len(words) - 2
    length = max(0, min(WIDEST, spare // 2))
    parts = []
    for name, text in words.items():
        shown = length and name in ("best", "mean")
        losses = [info[name] for info in history][-length:] if shown else []
        drawn = chart(losses, ascii=ascii) if losses else ""
        parts.append(f"{text} {drawn}".rstrip())
    return "  ".join(parts)


def chart(values: Sequence[float], *, ascii: bool = False) -> str:
    """Numbers as one character each, from the lowest to the highest; a gap if not finite.

    Example:
        >>> chart([4.0, 2.0, float("nan"), 1.0, 0.5])
        '█▄ ▂▁'
    """
    levels = ASCII if ascii else BLOCKS
    values = [value / 2 for value in values]  # whose differences are finite
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    step = (high - low) / (len(levels) - 1) or 1.0
    return "".join(
        levels[round((value - low) / step)] if math.isfinite(value) else " " for value in values
    )
