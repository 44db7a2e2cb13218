"""A run in Weights & Biases, online or offline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from gradevo.fields import choice, optional, settle
from gradevo.loggers.base import Row, Run, Status, package
from gradevo.validation import path, text

MODES = ("online", "offline", "disabled", "shared")
ENDINGS: dict[Status, int] = {"finished": 0, "stopped": 130, "failed": 1}  # as exit codes


@dataclass(frozen=True)
class WandB:
    """A run in Weights & Biases, beside whatever else the program logs there.

    A resumed run goes on in the same one. Offline each process that takes it up leaves a folder
    with the same id; `wandb sync` puts them together.

    Attributes:
        project: where it is listed.
        name: of the run; None: that of the run folder, or one that W&B makes up.
        mode: "online", "offline" or "disabled"; None: as W&B itself is set up.
        folder: where W&B keeps its files; None: the run folder, or without one W&B's own.
        options: further arguments of `wandb.init`: `entity`, `tags`, `group` for example.

    Raises:
        ImportError: wandb is not installed.
        ValueError: by `open`: nobody is signed in at W&B.

    Example:
        >>> WandB(project="digits", mode="offline").project
        'digits'
    """

    kind: ClassVar[str] = "wandb"

    project: str = "gradevo"
    name: str | None = None
    mode: str | None = None
    folder: str | Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settle(
            self, project=text, name=optional(text), mode=optional(choice(MODES)),
            folder=optional(path),
        )  # fmt: skip
        if not isinstance(self.options, Mapping):
            raise TypeError(f"options: must be a mapping from names, got {self.options!r}")
        package("wandb", "wandb")

    def open(self, run: Run) -> "WandBSession":
        wandb = package("wandb", "wandb")
        try:
            begun = wandb.init(**{**self._arguments(run), **self.options})
        except wandb.errors.UsageError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"log: must be able to begin a run at W&B, got: {reason}; or "
                'log=ge.loggers.WandB(mode="offline")'
            ) from error
        return WandBSession(begun, run)

    def _arguments(self, run: Run) -> dict[str, Any]:
        folder = self.folder or run.folder
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)  # else W&B takes another one
        return {
            "project": self.project,
            "name": self.name or (run.folder.resolve().name if run.folder else None),
            "mode": self.mode,
            "dir": folder,
            "config": dict(run.settings),
            "allow_val_change": True,  # a resumed run may be made longer
            "id": run.id,
            "resume": None if run.id is None else "allow",
            "reinit": "create_new",  # leaves a run of the user's own alone
            "settings": {"silent": True} if run.quiet else None,
        }


class WandBSession:
    """A run at W&B, whose steps are generations."""

    def __init__(self, begun: Any, run: Run) -> None:
        self.run = begun
        self.id: str | None = begun.id
        known = run.id is not None
        # offline nobody knows what was there; online a new run is at step 0
        self.done = (run.done if begun.offline else max(0, begun.step - 1)) if known else 0

    def log(self, rows: Sequence[Row]) -> None:
        histogram = package("wandb", "wandb").Histogram
        for row in rows:
            spreads = {name: histogram(values) for name, values in row.spreads.items()}
            self.run.log({**row.scalars, **spreads}, step=row.step)
            self.done = row.step

    def close(self, summary: Mapping[str, float], status: Status) -> None:
        self.run.summary.update(dict(summary))
        self.run.finish(exit_code=ENDINGS[status])
