"""What happens beside a run: functions of each generation, the log in the run folder.

A callback is any function of a generation's info; returning True ends the run after that
generation.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gradevo.checkpoint import strict
from gradevo.disk import append, replacing, text_of
from gradevo.sealed import parsed

log = logging.getLogger(__name__)
Callback = Callable[[dict[str, Any]], Any]


class JsonLines:
    """One JSON object a generation, appended to a file; NaN and infinity are null.

    Besides the generation's info, `seconds` since this process took up the run. A line that cannot
    be appended is warned of, and written with a later one.

    Args:
        path: the file.
        history: what a resumed run has behind it; the file starts with exactly that.

    Raises:
        CheckpointError: the file cannot be written, at the start.
    """

    def __init__(self, path: str | Path, history: Sequence[dict[str, Any]] = ()) -> None:
        self.path = Path(path)
        self.start = time.monotonic()
        self.waiting, self.warned = "", False
        lines, known = self._logged()[: len(history)], [_line(strict(info)) for info in history]
        if [_without_seconds(line) for line in lines] != known:
            lines = known
        with replacing(self.path) as new:
            new.write_text("".join(lines))

    def _logged(self) -> list[str]:
        return (text_of(self.path) or "").splitlines(keepends=True)

    def __call__(self, info: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - self.start, 3)
        self.waiting += _line(strict({**info, "seconds": seconds}))
        try:
            append(self.path, self.waiting.encode())
            self.waiting = ""
        except OSError as error:
            if not self.warned:
                log.warning("log: the run goes on without %s: %s", self.path, error.strerror)
            self.warned = True


def _line(info: dict[str, Any]) -> str:
    return json.dumps(info) + "\n"


def _without_seconds(line: str) -> str | None:
    """A line as its generation's info alone would be written; None if it is cut off or damaged."""
    try:
        found = parsed(line.encode()) if line.endswith("\n") else None
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return _line({name: value for name, value in found.items() if name != "seconds"})
