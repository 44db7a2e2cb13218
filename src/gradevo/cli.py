"""The command: `gradevo train`, `gradevo compare`, `gradevo datasets`.

Torch is imported inside the commands, so that `--help` answers at once.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from gradevo import __version__
from gradevo.errors import CheckpointError, DivergedError, EngineError

if TYPE_CHECKING:
    from gradevo.compare import Outcome
    from gradevo.datasets.loading import Data

app = App(
    name="gradevo",
    help="Train PyTorch networks with hybrids of gradient descent and evolution or swarms.",
    version=__version__,
)


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """What `train` and `compare` have in common.

    Attributes:
        target: Column of the label in a CSV file; default: the last.
        test: A second CSV file with the test rows; default: a fifth of the rows.
        population: Members g.
        generations: Generations K.
        steps: Optimiser steps a learning phase.
        epochs: Passes through the data a learning phase, instead of --steps.
        batch_size: Rows a mini-batch.
        loss: cross-entropy, bce, mse, mae, zero-one or f1; all but the first take a sigmoid on
            the outputs, and the last two can only be evaluated, by adaswarm.
        lr: Learning rate, or the one around which members' own are drawn.
        hidden: Sizes of hidden layers, as 70,50; asks for a perceptron. Default: 64, or 10 with
            `train --method adaswarm-paper`.
        engine: auto, loop or vmap.
        device: cpu, cuda, ...
        out: Run folder: checkpoints, log and result.
        json: Print one JSON object and nothing else.
    """

    target: str | None = None
    test: Path | None = None
    population: int | None = None
    generations: int | None = None
    steps: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    lr: float | None = None
    loss: str = "cross-entropy"
    hidden: str | None = None
    engine: str = "auto"
    device: str | None = None
    out: Path | None = None
    json: Annotated[bool, Parameter(negative="")] = False

    def settings(self) -> dict[str, Any]:
        """The fields that a method takes."""
        names = ("population", "generations", "steps", "epochs", "batch_size", "lr")
        return {name: getattr(self, name) for name in names}

    def layers(self) -> list[int] | None:
        if self.hidden is None:
            return None
        try:
            sizes = [int(size) for size in self.hidden.split(",")]
        except ValueError:
            sizes = []
        if not sizes or min(sizes) < 1:
            raise ValueError(f"hidden: must be sizes like 70,50, got {self.hidden!r}")
        return sizes


@app.command
def train(
    data: str,
    /,
    *,
    method: str = "gadam",
    seed: int = 0,
    resume: Annotated[bool, Parameter(negative="")] = False,
    options: Options = Options(),
) -> None:
    """Train on a data set and measure the network on test rows.

    Parameters
    ----------
    data
        A name (see `gradevo datasets`), a CSV file, a folder of MNIST-style idx files, or a
        name or id on OpenML.
    method
        gadam, gadam-paper, gadam-ensemble, adam, adam-best-of, adam-random, adam-ensemble,
        adaswarm or adaswarm-paper.
    seed
        Everything random follows from it.
    resume
        Go on with the run in --out.
    """
    from gradevo.compare import fitting, run_method
    from gradevo.methods import method as method_by_name

    _check_folder(options.out, resume)
    method_by_name(
        method, options.loss, **options.settings()
    )  # a wrong name or value shows before loading
    rows = _load(data, options)(seed)
    chosen = method_by_name(method, options.loss, **fitting(options.settings(), rows))
    outcome, _ = run_method(
        method,
        chosen,
        rows,
        _network(options, method)(rows),
        seed=seed,
        loss=options.loss,
        folder=options.out,
        engine=options.engine,
        device=options.device,
    )
    if options.json:
        print(json.dumps({**vars(outcome), "versions": _versions()}))
    else:
        _print_outcomes([outcome])
        _say_where(options.out)


@app.command
def compare(
    data: str,
    /,
    *,
    methods: str = "gadam,adam,adam-best-of,adam-ensemble",
    seeds: int = 5,
    options: Options = Options(),
) -> None:
    """Run methods side by side at equal cost, with paired statistics.

    Parameters
    ----------
    data
        As for `train`.
    methods
        Names separated by commas; p-values compare each with the first.
    seeds
        Splits and runs a method.
    """
    from gradevo.compare import compare as compare_methods
    from gradevo.compare import summary

    if seeds < 1:
        raise ValueError(f"seeds: must be at least 1, got {seeds}")
    outcomes = compare_methods(
        methods.split(","),
        _load(data, options),
        _network(options),
        seeds=seeds,
        settings=options.settings(),
        loss=options.loss,
        folder=options.out,
        engine=options.engine,
        device=options.device,
    )
    rows = summary(outcomes)
    if options.json:
        runs = [vars(outcome) for outcome in outcomes]
        print(json.dumps({"summary": rows, "runs": runs, "versions": _versions()}))
    else:
        _print_summary(outcomes[0].dataset, rows)
        _say_where(options.out)


@app.command
def datasets() -> None:
    """List the data sets that are there by name."""
    from gradevo.datasets import available

    table = Table("name", "rows", "inputs", "classes", "source", box=SIMPLE)
    for known in available():
        table.add_row(*(str(value) for value in known))
    Console().print(table)
    Console().print("Also: a CSV file, a folder of MNIST-style idx files, an OpenML name or id.")


# --- parts of the commands -----------------------------------------------------------------


def _check_folder(out: Path | None, resume: bool) -> None:
    """`--resume` is asked for exactly when there is something to go on with."""
    if resume and out is None:
        raise ValueError("resume: needs --out, the folder of the run to go on with, got none")
    if out is None:
        return
    from gradevo.folder import FILE

    there = (out / FILE).exists()
    if there and not resume:
        raise ValueError(f"out: must be a new folder, got {out} with a run in it; add --resume")
    if resume and not there:
        raise ValueError(f"resume: needs a checkpoint, got none in {out}")


def _load(data: str, options: Options) -> Callable[[int], "Data"]:
    from gradevo.datasets.loading import load

    return lambda seed: load(data, target=options.target, test=options.test, seed=seed)


def _network(options: Options, method: str = "") -> Callable[["Data"], Callable[[], Any]]:
    from gradevo.networks import network_for

    layers = options.layers() or ([10] if method == "adaswarm-paper" else None)
    return lambda data: network_for(data.inputs, len(data.classes), layers)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"gradevo": __version__, "torch": version("torch"), "python": sys.version.split()[0]}


def _print_outcomes(outcomes: list["Outcome"]) -> None:
    head = ("method", "test accuracy", "test loss", "member-steps", "seconds", "engine")
    table = Table(*head, box=SIMPLE)
    for o in outcomes:
        numbers = f"{o.accuracy:.2%}", f"{o.loss:.4f}", f"{o.member_steps:,}", f"{o.seconds:.1f}"
        table.add_row(o.method, *numbers, o.engine)
    Console().print(table)


def _print_summary(dataset: str, rows: list[dict[str, Any]]) -> None:
    """A table of the methods; deviations and p-values where there are several seeds."""
    seeds, cost = rows[0]["seeds"], rows[0]["member_steps"]
    title = f"{dataset}: test rows, {seeds} seed{'s' * (seeds > 1)}, {cost:,} member-steps each"
    p = ["p"] * (seeds > 1)
    table = Table("method", "accuracy", *p, "loss", *p, "seconds", title=title, box=SIMPLE)
    for row in rows:
        cells = [*_cells(row, "accuracy", "{:.2%}"), *_cells(row, "loss", "{:.4f}")]
        table.add_row(row["method"], *cells, f"{row['seconds']:.1f}")
    Console().print(table)


def _cells(row: dict[str, Any], name: str, style: str) -> list[str]:
    if row["seeds"] == 1:
        return [style.format(row[name])]
    p = row[f"{name}_p"]
    mean, deviation = (style.format(row[key]) for key in (name, f"{name}_deviation"))
    return [f"{mean} ± {deviation}", "" if p is None else f"{p:.3f}"]


def _say_where(out: Path | None) -> None:
    if out is not None:
        Console().print(f"Run folder: {out}", highlight=False)


def main(arguments: list[str] | None = None) -> None:
    """The entry point: bad input is one line and exit code 2, never a traceback."""
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except KeyboardInterrupt as stop:
        _fail(f"stopped. {stop}", 130)
    except DivergedError as error:
        _fail(str(error), 1)
    except (CycloptsError, ValueError, TypeError, CheckpointError, EngineError) as error:
        _fail(str(error), 2)


def _fail(message: str, code: int) -> None:
    """One line on standard error."""
    print("gradevo: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
