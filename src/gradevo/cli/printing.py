"""What commands print: tables for people, one JSON object for scripts."""

import io
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from gradevo import __version__

if TYPE_CHECKING:
    from gradevo.outcome import Outcome


class Terminal(Console):
    """Rich's, but that a reader who has had enough is `main`'s to know of."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def prepare() -> None:
    """Print what a stream cannot encode in another way, rather than not at all."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def silence() -> None:
    """Print nothing any more: nobody reads it, and Python would complain when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"gradevo": __version__, "torch": version("torch"), "python": sys.version.split()[0]}


def print_json(value: dict[str, Any]) -> None:
    print(json.dumps({**value, "versions": versions()}))


def print_outcomes(outcomes: list["Outcome"]) -> None:
    head = ("method", "test accuracy", "test loss", "member-steps", "seconds", "engine")
    table = Table(*head, box=SIMPLE)
    for o in outcomes:
        numbers = f"{o.accuracy:.2%}", f"{o.loss:.4f}", f"{o.member_steps:,}", f"{o.seconds:.1f}"
        table.add_row(o.method, *numbers, o.engine)
    Terminal().print(table)


def print_summary(dataset: str, rows: list[dict[str, Any]]) -> None:
    """A table of the methods; deviations and p-values where there are several seeds."""
    seeds, costs = rows[0]["seeds"], {row["member_steps"] for row in rows}
    title = f"{dataset}: test rows, {seeds} seed{'s' * (seeds > 1)}"
    title += f", {max(costs):,} member-steps each" if len(costs) == 1 else ""
    p, cost = ["p"] * (seeds > 1), ["member-steps"] * (len(costs) > 1)
    table = Table("method", "accuracy", *p, "loss", *p, *cost, "seconds", title=title, box=SIMPLE)
    for row in rows:
        cells = [*_cells(row, "accuracy", "{:.2%}"), *_cells(row, "loss", "{:.4f}")]
        steps = [f"{row['member_steps']:,}" for _ in cost]
        table.add_row(row["method"], *cells, *steps, f"{row['seconds']:.1f}")
    Terminal().print(table)


def _cells(row: dict[str, Any], name: str, style: str) -> list[str]:
    if row["seeds"] == 1:
        return [style.format(row[name])]
    p = row[f"{name}_p"]
    mean, deviation = (style.format(row[key]) for key in (name, f"{name}_deviation"))
    sign = "+-" if Console().options.ascii_only else "±"
    return [f"{mean} {sign} {deviation}", "" if p is None else f"{p:.3f}"]


def say_where(out: Path | None, what: str = "Run folder") -> None:
    if out is not None:
        print(f"{what}: {out}")  # a path is not wrapped
