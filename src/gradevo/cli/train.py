"""`gradevo train`: one method on one data set, in one process or several."""

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

from cyclopts import Parameter

from gradevo.cli.options import DEFAULTS, Options, Whole, load, network
from gradevo.cli.printing import print_json, print_outcomes, say_where
from gradevo.cli.watching import watched, words
from gradevo.names import RESULT as FILE

LINES = 10  # of a front's table
MOST_MINUTES = 1_000_000


def train(
    data: str,
    /,
    *,
    method: str = "gadam",
    seed: Whole = 0,
    resume: Annotated[bool, Parameter(negative="")] = False,
    start: Path | None = None,
    processes: Whole = 1,
    islands: Whole = 1,
    timeout: float = 10.0,
    log: str | None = None,
    options: Options = DEFAULTS,
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
    start
        A former run's folder, or a state dict's file: weights to begin with instead of new ones.
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
    log
        tensorboard, wandb or mlflow, or several separated by commas; besides log.jsonl in --out.
    """
    from gradevo.algorithms.islands import Islands
    from gradevo.compare import fitting
    from gradevo.distributed.joining import joined
    from gradevo.distributed.launching import inside, restarted
    from gradevo.front import Front
    from gradevo.loggers import named
    from gradevo.methods import method as method_by_name
    from gradevo.outcome import knee_of, run_method
    from gradevo.validation import positive
    from gradevo.validation import seed as checked_seed

    seed, timeout = checked_seed("seed", seed), positive("timeout", timeout)
    if timeout > MOST_MINUTES:
        raise ValueError(f"timeout: must be at most {MOST_MINUTES:,} minutes, got {timeout!r}")
    _check_folder(options.out, resume, again=restarted())
    loggers = named(log.split(",") if log else None)
    first = method_by_name(method, options.loss, **options.settings())
    if islands != 1:  # a wrong name or value shows before loading
        Islands(cast(Any, first.algorithm), islands=islands)
    rows = load(data, options)(seed)
    chosen = method_by_name(method, options.loss, **fitting(options.settings(), rows))
    if islands != 1:
        chosen = replace(chosen, algorithm=Islands(cast(Any, chosen.algorithm), islands=islands))
    if processes != 1 and not inside():
        _spawn(processes, chosen.algorithm, options)
    with joined(timedelta(minutes=timeout)) as team, watched(options, words, team.rank):
        outcome, result = run_method(
            method,
            chosen,
            rows,
            network(options, method)(rows),
            seed=seed,
            loss=options.loss,
            folder=options.out,
            engine=options.engine,
            device=options.device,
            force=options.force,
            log=loggers,
            quiet=options.quiet,
            start=start,
        )
    if team.rank > 0:
        return
    outcomes, more = [outcome], dict[str, Any]()
    if isinstance(result, Front):
        knee = knee_of(outcome, result, rows, options.loss)
        outcomes.append(knee)
        more = {"knee": {"accuracy": knee.accuracy, "loss": knee.loss}, "front": result.rows}
    if options.json:
        print_json({**vars(outcome), **more})
        return
    print_outcomes(outcomes)
    if isinstance(result, Front):
        print(f"The front, on validation rows:\n\n{result.table(most=LINES)}\n")
    say_where(options.out)


def _spawn(processes: int, algorithm: Any, options: Options) -> NoReturn:
    """Run this command in several processes, and end as it does."""
    from gradevo.distributed.joining import check_shareable
    from gradevo.distributed.launching import RESTARTS, spawn
    from gradevo.engines import Choice

    if processes < 1:
        raise ValueError(f"processes: must be at least 1, got {processes}")
    check_shareable(algorithm, processes)
    Choice.of(options.engine)  # a wrong name shows here, once
    sys.exit(spawn(processes, words, restarts=0 if options.out is None else RESTARTS))


def _check_folder(out: Path | None, resume: bool, *, again: bool = False) -> None:
    """`--resume` is asked for exactly when there is something to go on with.

    Not by processes that start again, whose first attempt may have saved something or not.
    """
    if resume and out is None:
        raise ValueError("resume: needs --out, the folder of the run to go on with, got none")
    if out is None or again:
        return
    from gradevo.folder import saved_in

    there = saved_in(out) or (out / FILE).exists()
    if there and not resume:
        raise ValueError(f"out: must be a new folder, got {out} with a run in it; add --resume")
    if resume and not saved_in(out):
        raise ValueError(f"resume: needs a checkpoint, got none in {out}")
