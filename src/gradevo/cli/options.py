"""What commands have in common: options, data, a network for them, run folders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gradevo.names import OWN
from gradevo.names import RESULT as FILE

if TYPE_CHECKING:
    from gradevo.datasets.loading import Data


def _whole(hint: Any, words: Sequence[Any]) -> int:
    """A whole number as it is written; cyclopts itself would round 1.5."""
    word = words[0].value
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"must be a whole number, got {word!r}") from None


Whole = Annotated[int, Parameter(converter=_whole)]


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """What `train` and `compare` have in common.

    Attributes:
        target: Column of the label in a CSV file; default: the last.
        test: A second CSV file with the test rows; default: a fifth of the rows.
        max_size: Megabytes that a packed file (.csv.gz, .npz, .idx.gz) may hold once it is
            unpacked. Default: a hundred times its own, and 256.
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
        force: Go on with the run in --out even if it had other data, settings or another network.
        quiet: Show no progress. Else there are charts on a terminal, and elsewhere a line of
            the standard error every ten seconds at most, but with --json none.
        json: Print one JSON object and nothing else.
    """

    target: str | None = None
    test: Path | None = None
    max_size: float | None = None
    population: Whole | None = None
    generations: Whole | None = None
    steps: Whole | None = None
    epochs: float | None = None
    batch_size: Whole | None = None
    lr: float | None = None
    loss: str = "cross-entropy"
    hidden: str | None = None
    engine: str = "auto"
    device: str | None = None
    out: Path | None = None
    force: Annotated[bool, Parameter(negative="")] = False
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

    most = None if options.max_size is None else options.max_size * 10**6
    if most is not None and not 1 <= most < 2**63:
        raise ValueError(f"max-size: must be a number of megabytes, got {options.max_size!r}")
    size = None if most is None else int(most)
    given = {"target": options.target, "test": options.test, "max_size": size}
    return lambda seed: load(data, seed=seed, **given)


def network(options: Options, method: str = "") -> Callable[["Data"], Callable[[], Any]]:
    from gradevo.networks import Network

    layers = options.layers() or ([10] if method == "adaswarm-paper" else None)
    sizes = None if layers is None else tuple(layers)
    return lambda data: Network(data.inputs, len(data.classes), sizes)


def check_finished(run: Path) -> None:
    """There is a result in the folder; one that was stopped half-way can be gone on with."""
    from gradevo.folder import saved_in

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
