"""What happens beside a run: progress on the terminal, a log in the run folder.

A callback is any function of a generation's info; returning True ends the run after that
generation.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Callback = Callable[[dict[str, Any]], Any]


class ProgressBar:
    """Generation, best and mean loss, adoption rate and time left; silent off a terminal."""

    def __init__(self, generations: int) -> None:
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("generation {task.fields[generation]}/" + str(generations)),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (console.is_terminal and sys.stderr.isatty()),
        )
        self.task = self.bar.add_task("run", total=1.0, generation=0, numbers="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def update(self, progress: float, info: dict[str, Any] | None) -> None:
        """Move the bar, and show a generation's numbers when it has ended."""
        self.bar.update(self.task, completed=progress)
        if info is None:
            return
        numbers = f"best {info['best']:.4g}  mean {info['mean']:.4g}"
        if "adoption" in info:
            numbers += f"  adopted {info['adoption']:.0%}"
        self.bar.update(self.task, generation=info["generation"], numbers=numbers)


class JsonLines:
    """One JSON object a generation, appended to a file.

    Args:
        path: the file.
        history: what a resumed run has behind it; the file starts with exactly that.
    """

    def __init__(self, path: str | Path, history: list[dict[str, Any]] | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(json.dumps(info) + "\n" for info in history or []))
        self.start = time.monotonic()

    def __call__(self, info: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - self.start, 3)
        with self.path.open("a") as file:
            file.write(json.dumps({**info, "seconds": seconds}) + "\n")
