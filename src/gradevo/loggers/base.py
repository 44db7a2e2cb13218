"""What a logger is: it opens a session for a run, which takes rows of numbers and is closed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

Plain = str | int | float | bool
Status = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Run:
    """What a logger is told of a run that begins or goes on.

    Attributes:
        settings: the algorithm's fields, the seed, sizes and versions.
        folder: the run folder; None without a checkpoint.
        done: generations that a resumed run has behind it.
        id: of the session that logged this run before; None: the run is new to the logger.
        quiet: whether nothing is to be printed.
    """

    settings: Mapping[str, Plain]
    folder: Path | None = None
    done: int = 0
    id: str | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Row:
    """The numbers of one generation, all of them finite.

    Attributes:
        step: the generation, from 1.
        scalars: one number a name.
        spreads: the members' numbers, by name; their least, median and largest are scalars too.
    """

    step: int
    scalars: Mapping[str, float]
    spreads: Mapping[str, Sequence[float]]


class Session(Protocol):
    """One run as a logger has it.

    Attributes:
        id: by which a later session goes on in the same place; None: it needs none.
        done: the last generation that is there already; rows up to it are not handed over.
    """

    id: str | None
    done: int

    def log(self, rows: Sequence[Row]) -> None:
        """Take rows, in order. What raises is called again with the same rows, later."""
        ...

    def close(self, summary: Mapping[str, float], status: Status) -> None:
        """Take what came of the run, nothing unless it finished, and end."""
        ...


class Logger(Protocol):
    """A frozen config; `kind` is what it is called in messages and in the run folder."""

    kind: ClassVar[str]

    def open(self, run: Run) -> Session:
        """Begin to log a run.

        Raises:
            ImportError, TypeError, ValueError: a mistake, which ends the run before any work;
                whatever else is raised is warned of and tried again later.
        """
        ...


def package(name: str, extra: str) -> Any:
    """A package that a logger needs.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise ImportError(f"log: needs {name}, got none; pip install 'gradevo[{extra}]'") from None
