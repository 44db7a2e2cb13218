"""The command: `gradevo train`, `gradevo compare`, `gradevo front`, `gradevo datasets`.

Torch is imported inside the commands, so that `--help` answers at once.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

from cyclopts import App, CycloptsError, Parameter
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from gradevo import __version__
from gradevo.errors import CheckpointError, DivergedError, EngineError

if TYPE_CHECKING:
    from gradevo.compare import Outcome
    from gradevo.datasets.loading import Data
    from gradevo.tradeoff import Tradeoff

MISTAKES = (CycloptsError, ValueError, TypeError, ImportError, CheckpointError, EngineError)
LINES = 10  # of a front's table that `train` prints

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
        engine: auto, loop, batched, vmap, simd, with threads: loop@2, batched/5@2, or with
            torch.compile: batched+compile, vmap+compile.
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
    processes: int = 1,
    islands: int = 1,
    timeout: float = 10.0,
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
        adaswarm, adaswarm-paper, gemonn or gemonn-paper. The last two give a front of networks
        between loss and density: see `gradevo front`.
    seed
        Everything random follows from it.
    resume
        Go on with the run in --out.
    processes
        On this machine, with a share of the members each; for gadam methods and
        gemonn-paper. With --out, all start again from the last checkpoint if one of them
        dies. Several machines: torchrun or SLURM start the command with `-m gradevo train`,
        see docs/distributed.md.
    islands
        Populations of so many members each, which evolve alone and hand each other their best
        every second generation; for gadam methods.
    timeout
        Minutes that a process waits for the others, at each exchange.
    """
    from gradevo.algorithms.islands import Islands
    from gradevo.compare import fitting, knee_of, run_method
    from gradevo.distributed.joining import joined
    from gradevo.distributed.launching import inside, restarted
    from gradevo.front import Front
    from gradevo.methods import method as method_by_name

    _check_folder(options.out, resume, again=restarted())
    first = method_by_name(method, options.loss, **options.settings())
    if islands != 1:  # a wrong name or value shows before loading
        Islands(cast(Any, first.algorithm), islands=islands)
    rows = _load(data, options)(seed)
    chosen = method_by_name(method, options.loss, **fitting(options.settings(), rows))
    if islands != 1:
        chosen = replace(chosen, algorithm=Islands(cast(Any, chosen.algorithm), islands=islands))
    if processes != 1 and not inside():
        _spawn(processes, chosen.algorithm, options)
    with joined(timedelta(minutes=timeout)) as team:
        outcome, result = run_method(
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
    if team.rank > 0:
        return
    outcomes, more = [outcome], dict[str, Any]()
    if isinstance(result, Front):
        knee = knee_of(outcome, result, rows, options.loss)
        outcomes.append(knee)
        more = {"knee": {"accuracy": knee.accuracy, "loss": knee.loss}, "front": result.rows}
    if options.json:
        _print_json({**vars(outcome), **more})
        return
    _print_outcomes(outcomes)
    if isinstance(result, Front):
        print(f"The front, on validation rows:\n\n{result.table(most=LINES)}\n")
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
    """Run methods side by side, with paired statistics; all but GEMONN at equal cost.

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
        _print_json({"summary": rows, "runs": runs})
    else:
        _print_summary(outcomes[0].dataset, rows)
        _say_where(options.out)


@app.command
def front(
    run: Path,
    /,
    *,
    pick: str | None = None,
    max_loss: float | None = None,
    min_sparsity: float | None = None,
    out: Path | None = None,
    plot: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show the front of a run of GEMONN, and pick a network from it.

    Parameters
    ----------
    run
        The folder that `train --method gemonn --out` or `Front.save` left.
    pick
        knee, best or sparsest; default: what the limit given is for, else the knee.
    max_loss
        The validation loss that the sparsest may have.
    min_sparsity
        The sparsity that the best must have, in [0, 1].
    out
        Where to write the picked network: its state dict, a safetensors file.
    plot
        Where to draw the front: a .png or .svg file. Needs matplotlib.
    json
        Print one JSON object and nothing else.
    """
    from gradevo.frontfile import FrontFile
    from gradevo.showing import plot as draw
    from gradevo.showing import table

    _check_finished(run)
    file = FrontFile.read(run)
    points = file.points
    i = points.pick(pick, max_loss=max_loss, min_sparsity=min_sparsity)
    if plot is not None:
        draw(points, plot)
    if out is not None:
        file.write_network(i, out)
    if json:
        _print_json(_front_numbers(points, i))
        return
    print(f"{table(points)}\n\nPicked: {_numbers_of(points.rows()[i])}")
    _say_where(out, "Network")
    _say_where(plot, "Figure")


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


def _spawn(processes: int, algorithm: Any, options: Options) -> NoReturn:
    """Run this command in several processes, and end as it does."""
    from gradevo.distributed.joining import check_shareable
    from gradevo.distributed.launching import RESTARTS, spawn, without
    from gradevo.engines import Choice

    if processes < 1:
        raise ValueError(f"processes: must be at least 1, got {processes}")
    check_shareable(algorithm, processes)
    Choice.of(options.engine)  # a wrong name shows here, once
    arguments = without("--processes", _words)
    sys.exit(spawn(processes, arguments, restarts=0 if options.out is None else RESTARTS))


def _check_folder(out: Path | None, resume: bool, *, again: bool = False) -> None:
    """`--resume` is asked for exactly when there is something to go on with.

    Not by processes that start again, whose first attempt may have saved something or not.
    """
    if resume and out is None:
        raise ValueError("resume: needs --out, the folder of the run to go on with, got none")
    if out is None or again:
        return
    from gradevo.folder import saved_in

    there = saved_in(out)
    if there and not resume:
        raise ValueError(f"out: must be a new folder, got {out} with a run in it; add --resume")
    if resume and not there:
        raise ValueError(f"resume: needs a checkpoint, got none in {out}")


def _check_finished(run: Path) -> None:
    from gradevo.result import FILE

    if not (run / FILE).exists():
        raise ValueError(f"run: must be the folder of a finished run, got {run} without {FILE}")


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


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps({**value, "versions": _versions()}))


def _print_outcomes(outcomes: list["Outcome"]) -> None:
    head = ("method", "test accuracy", "test loss", "member-steps", "seconds", "engine")
    table = Table(*head, box=SIMPLE)
    for o in outcomes:
        numbers = f"{o.accuracy:.2%}", f"{o.loss:.4f}", f"{o.member_steps:,}", f"{o.seconds:.1f}"
        table.add_row(o.method, *numbers, o.engine)
    Console().print(table)


def _print_summary(dataset: str, rows: list[dict[str, Any]]) -> None:
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
    Console().print(table)


def _cells(row: dict[str, Any], name: str, style: str) -> list[str]:
    if row["seeds"] == 1:
        return [style.format(row[name])]
    p = row[f"{name}_p"]
    mean, deviation = (style.format(row[key]) for key in (name, f"{name}_deviation"))
    return [f"{mean} ± {deviation}", "" if p is None else f"{p:.3f}"]


def _front_numbers(points: "Tradeoff", picked: int) -> dict[str, Any]:
    """A front for scripts: its rows, and where in them the picks are."""
    from gradevo.checkpoint import strict

    picks = {"knee": points.knee, "best": points.best(), "picked": picked}
    return {"front": strict(points.rows()), **picks}


def _numbers_of(row: dict[str, Any]) -> str:
    """A network of a front in words."""
    right = "" if row["accuracy"] is None else f", accuracy {row['accuracy']:.2%}"
    size = f"sparsity {row['sparsity']:.2%}, {row['nonzeros']:,} non-zeros"
    return f"{size}, validation loss {row['loss']:.4g}{right}"


def _say_where(out: Path | None, what: str = "Run folder") -> None:
    if out is not None:
        Console().print(f"{what}: {out}", highlight=False)


_words: list[str] = []  # of the command line


def main(arguments: list[str] | None = None) -> None:
    """The entry point: bad input is one line and exit code 2, never a traceback."""
    _words[:] = sys.argv[1:] if arguments is None else arguments
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except KeyboardInterrupt as stop:
        _fail(f"stopped. {stop}", 130)
    except DivergedError as error:
        _fail(str(error), 1)
    except MISTAKES as error:
        _fail(str(error), 2)


def _fail(message: str, code: int) -> None:
    """One line on standard error."""
    print("gradevo: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
