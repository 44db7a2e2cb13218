"""The loggers of one run: opened before it, called once a generation, closed however it ends."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gradevo import sealed
from gradevo.distributed.team import Team
from gradevo.errors import CheckpointError, Terminated
from gradevo.loggers.base import Logger, Run, Session, Status
from gradevo.loggers.numbers import row_of
from gradevo.loggers.patient import Patient
from gradevo.names import LOGGERS

log = logging.getLogger("gradevo.loggers")


class Logs:
    """A callback that hands each generation to all loggers, on the first of several processes.

    Args:
        loggers: as `fit` got them.
        run: what is told to each; it gets its own id with it.
        history: what a resumed run has behind it.
        resumed: whether the run goes on from a checkpoint; only then do the loggers' runs.
        team: the processes.

    Raises:
        ImportError, TypeError, ValueError: a logger that was set up wrongly.
        CheckpointError: the run folder cannot be written.
    """

    def __init__(
        self,
        loggers: Sequence[Logger],
        run: Run,
        history: Sequence[dict[str, Any]],
        resumed: bool,
        team: Team,
    ) -> None:
        self.outcome: dict[str, float] = {}
        self.patients: list[Patient] = []
        failed = None
        try:
            if loggers and team.rank == 0:
                self._open(loggers, run, history, resumed)
        except Exception as error:
            failed = error
            self._close("failed")
        if loggers and team.total(int(failed is not None)):  # none of several waits for it
            raise failed or RuntimeError("log: a logger has failed in the first process")
        self.begin = time.monotonic()

    def _open(
        self,
        loggers: Sequence[Logger],
        run: Run,
        history: Sequence[dict[str, Any]],
        resumed: bool,
    ) -> None:
        ids, rows = _Ids(run.folder, resumed), [row_of(info) for info in history]
        names = [logger.kind for logger in loggers]
        for i, logger in enumerate(loggers):
            again = names[:i].count(logger.kind)
            key = f"{logger.kind} {again + 1}" if again else logger.kind
            opening = partial(ids.opened, key, logger, run)
            self.patients.append(Patient(key, opening, rows))

    def __call__(self, info: dict[str, Any]) -> None:
        """Log a generation, with the seconds since this process took up the run."""
        if self.patients:
            row = row_of({**info, "seconds": round(time.monotonic() - self.begin, 3)})
            for patient in self.patients:
                patient.log(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt | Terminated)
        self._close("finished" if kind is None else "stopped" if stopped else "failed")

    def _close(self, status: Status) -> None:
        for patient in self.patients:
            patient.close(self.outcome, status)


class _Ids:
    """By which each logger goes on in the same place, kept in the run folder."""

    def __init__(self, folder: Path | None, resumed: bool) -> None:
        self.path = None if folder is None else folder / LOGGERS
        self.ids: dict[str, str] = {}
        if self.path is not None and resumed:
            self.ids = _strings(self.path)

    def opened(self, key: str, logger: Logger, run: Run) -> Session:
        session = logger.open(replace(run, id=self.ids.get(key)))
        if session.id is not None and self.path is not None:
            self.ids[key] = session.id
            sealed.save_json(self.path, self.ids)
        return session


def _strings(path: Path) -> dict[str, str]:
    """Ids by name; none from a damaged file, since a run does not depend on them."""
    try:
        found = sealed.load_json(path) or {}
        return {name: str(value) for name, value in found.items()}
    except CheckpointError:
        log.warning("log: %s is damaged; loggers start anew", path)
        return {}
