"""A run in TensorBoard: scalars, histograms of the members, and the settings as its HParams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradevo.fields import optional, settle
from gradevo.loggers.base import Plain, Row, Run, Status, package
from gradevo.validation import path

WRITER = "torch.utils.tensorboard"


@dataclass(frozen=True)
class TensorBoard:
    """Event files for `tensorboard --logdir`.

    A resumed run goes on in the same folder; what is there of generations that it computes
    again is purged.

    Attributes:
        folder: where the files go. None: `tensorboard` in the run folder, or without one a new
            folder in `runs`, named by the time.

    Raises:
        ImportError: TensorBoard is not installed.

    Example:
        >>> TensorBoard("runs/a").folder
        'runs/a'
    """

    kind: ClassVar[str] = "tensorboard"
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        settle(self, folder=optional(path))
        package("tensorboard", "tensorboard")

    def open(self, run: Run) -> "TensorBoardSession":
        inside = None if run.folder is None else run.folder / "tensorboard"
        folder = self.folder or inside
        done = 0 if folder is None or not run.done else min(run.done, last_in(Path(folder)))
        return TensorBoardSession(None if folder is None else str(folder), done, run.settings)


class TensorBoardSession:
    """A run's event files; flushed after every row, so that a kill loses none.

    A writer that has failed is broken for good, so another one goes on in a file of its own.
    """

    def __init__(self, folder: str | None, done: int, settings: Mapping[str, Plain]) -> None:
        self.id: str | None = None  # the folder says it
        self.done = done
        self.writer = self._writer(folder)
        self.folder = self.writer.log_dir
        self.broken = False
        self._tell(settings)

    def _writer(self, folder: str | None) -> Any:
        return package(WRITER, "tensorboard").SummaryWriter(folder, purge_step=self.done + 1)

    def _tell(self, settings: Mapping[str, Plain]) -> None:
        """The settings, and the result as the metric that runs are compared by."""
        hparams = package(f"{WRITER}.summary", "tensorboard").hparams
        metrics, begun, self.ended = hparams(dict(settings), {"result/loss": 0.0})
        self.writer.file_writer.add_summary(metrics)
        self.writer.file_writer.add_summary(begun)
        self.writer.flush()

    def log(self, rows: Sequence[Row]) -> None:
        if self.broken:
            self.writer, self.broken = self._writer(self.folder), False
        try:
            for row in rows:
                self._write(row)
        except Exception:
            self.broken = True
            raise

    def _write(self, row: Row) -> None:
        for name, value in row.scalars.items():
            self.writer.add_scalar(name, value, row.step)
        for name, values in row.spreads.items():
            self.writer.add_histogram(name, np.array(values), row.step)
        self.writer.flush()
        self.done = row.step

    def close(self, summary: Mapping[str, float], status: Status) -> None:
        self.writer.file_writer.add_summary(self.ended)
        for name, value in summary.items():
            self.writer.add_scalar(name, value, self.done)
        self.writer.close()


def last_in(folder: Path) -> int:
    """The last generation in a folder's event files; 0 if there is none."""
    if not any(folder.glob("*tfevents*")):
        return 0
    room = "tensorboard.backend.event_processing.event_accumulator"
    found = package(room, "tensorboard").EventAccumulator(str(folder), {"scalars": 1})
    found.Reload()
    known = "generation" in found.Tags()["scalars"]
    return found.Scalars("generation")[-1].step if known else 0
