"""What happens beside a run: functions of each generation, the log in the run folder.

A callback is any function of a generation's info; returning True ends the run after that
generation.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gradevo.checkpoint import explaining, replacing, strict

Callback = Callable[[dict[str, Any]], Any]


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
        if [_generation(line) for line in lines] != [info.get("generation") for info in history]:
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


def _generation(line: str) -> Any:
    """Which one a line is of; None if it is cut off or damaged."""
    try:
        found = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None
    return found.get("generation") if isinstance(found, dict) else None
