"""What happens beside a run: progress on the terminal, a log in the run folder.

A callback is any function of a generation's info; returning True ends the run after that
generation.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from gradevo.checkpoint import explaining, replacing, strict

Callback = Callable[[dict[str, Any]], Any]


class ProgressBar:
    """Generation, best and mean loss, adoption rate and time left; silent off a terminal.

    Args:
        generations: of the whole run.
        done: how many a resumed run has behind it.
        shown: False: silent, as on all ranks of a process group but the first.
    """

    def __init__(self, generations: int, done: int = 0, *, shown: bool = True) -> None:
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("generation {task.fields[generation]}/" + str(generations)),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,  # no thread: loaders may fork
            redirect_stdout=sys.stdout.isatty(),  # what goes to a file stays there
            disable=not (shown and console.is_terminal and sys.stderr.isatty()),
        )
        self.task = self.bar.add_task("run", total=1.0, generation=done, numbers="")

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
        fields: dict[str, Any] = {}
        if info is not None:
            numbers = f"best {info['best']:.4g}  mean {info['mean']:.4g}"
            if "adoption" in info:
                numbers += f"  adopted {info['adoption']:.0%}"
            fields = {"generation": info["generation"], "numbers": numbers}
        self.bar.update(self.task, completed=progress, refresh=True, **fields)


class JsonLines:
    """One JSON object a generation, appended to a file; NaN and infinity are null.

    Besides the generation's info, `seconds` since this process took up the run.

    Args:
        path: the file.
        history: what a resumed run has behind it; the file starts with exactly that.

    Raises:
        CheckpointError: the file cannot be written.
    """

    def __init__(self, path: str | Path, history: Sequence[dict[str, Any]] = ()) -> None:
        self.path = Path(path)
        self.start = time.monotonic()
        lines = self._logged()[: len(history)]
        if len(lines) < len(history):
            lines = [json.dumps(strict(info)) + "\n" for info in history]
        with replacing(self.path) as new:
            new.write_text("".join(lines))

    def _logged(self) -> list[str]:
        with explaining("be readable", self.path):
            text = self.path.read_text(errors="replace") if self.path.exists() else ""
        return text.splitlines(keepends=True)

    def __call__(self, info: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - self.start, 3)
        line = json.dumps(strict({**info, "seconds": seconds}))
        with explaining("be writable", self.path), self.path.open("a") as file:
            file.write(line + "\n")
