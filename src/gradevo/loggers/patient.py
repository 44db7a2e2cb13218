"""A logger that may fail: the run goes on, and what was not logged is tried again."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from gradevo.loggers.base import Row, Session, Status

PAUSE = 10  # logging leaves this many times its duration between: a tenth of a run at most
RETRY = 60.0  # seconds from a failure to the next attempt, at least

log = logging.getLogger("gradevo.loggers")
MISTAKES = (ImportError, TypeError, ValueError)


class Patient:
    """A logger's session, opened now or, if that fails, later.

    A network that is away or a disk that is full costs no run and, if it passes, no row.

    Args:
        name: in messages.
        opening: makes the session.
        rows: what a resumed run has behind it; the session takes what it lacks.

    Raises:
        ImportError, TypeError, ValueError: a mistake, seen when opening.
    """

    def __init__(self, name: str, opening: Callable[[], Session], rows: Sequence[Row] = ()) -> None:
        self.name, self.opening = name, opening
        self.rows = list(rows)  # all that is not logged yet
        self.session: Session | None = None
        self.warned, self.due = False, 0.0
        try:
            self.session = opening()
        except MISTAKES:
            raise
        except Exception as error:
            self._failed(error)
            self.due = time.monotonic() + RETRY

    def log(self, row: Row) -> None:
        """Hand over a row, now or with later ones."""
        self.rows.append(row)
        if time.monotonic() >= self.due:
            self._send()

    def close(self, summary: Mapping[str, float], status: Status) -> None:
        """Hand over what is left, and end the session."""
        self._send()
        try:
            if self.session is not None:
                self.session.close(summary, status)
        except Exception as error:
            log.warning("%s: could not be closed: %s", self.name, _said(error))
        if self.rows:
            log.warning("%s: %d generations were not logged", self.name, len(self.rows))

    def _send(self) -> None:
        start, least = time.monotonic(), 0.0
        try:
            self.session = self.session or self.opening()
            done = self.session.done
            if rows := [row for row in self.rows if row.step > done]:
                self.session.log(rows)
            self.rows.clear()
        except Exception as error:
            self._failed(error)
            least = RETRY
        now = time.monotonic()
        self.due = now + max(least, PAUSE * (now - start))

    def _failed(self, error: Exception) -> None:
        if not self.warned:
            said = _said(error)
            log.warning("%s: the run goes on without it, and tries again: %s", self.name, said)
        self.warned = True


def _said(error: Exception) -> str:
    """An error's kind and message in a line."""
    return f"{type(error).__name__} {' '.join(str(error).split())[:300]}".strip()
