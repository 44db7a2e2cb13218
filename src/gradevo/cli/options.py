"""What commands have in common: options, data, a network for them, run folders."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from gradevo.datasets.loading import Data


OWN = (  # files of a run
    "checkpoint.safetensors", "history.json", "log.jsonl", "loggers.json", "result.safetensors",
    "run.json",
)  # fmt: skip


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
        quiet: Show no progress. Else there are charts on a terminal, and elsewhere a line of
            the standard error every ten seconds at most, but with --json none.
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
    quiet: Annotated[bool, Parameter(negative="")] = False
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


DEFAULTS = Options()


def load(data: str, options: Options) -> Callable[[int], "Data"]:
    from gradevo.datasets.loading import load

    return lambda seed: load(data, target=options.target, test=options.test, seed=seed)


def network(options: Options, method: str = "") -> Callable[["Data"], Callable[[], Any]]:
    from gradevo.networks import Network

    layers = options.layers() or ([10] if method == "adaswarm-paper" else None)
    sizes = None if layers is None else tuple(layers)
    return lambda data: Network(data.inputs, len(data.classes), sizes)


def check_finished(run: Path) -> None:
    """There is a result in the folder; one that was stopped half-way can be gone on with."""
    from gradevo.folder import saved_in
    from gradevo.result import FILE

    if not (run / FILE).exists():
        if saved_in(run):
            raise ValueError(
                f"run: must be finished, got {run} with a checkpoint only; go on with it first, "
                "by `gradevo train` with --resume, or by fit and Result.save"
            )
        raise ValueError(f"run: must be the folder of a finished run, got {run} without {FILE}")


def check_free(out: Path | None, run: Path) -> None:
    """A run's own files are not written over."""
    if out is not None and out.name in OWN and out.parent.resolve() == run.resolve():
        raise ValueError(f"out: must be another file than the run's own {out.name}, got {out}")
