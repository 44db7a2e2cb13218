"""From a run's folder to one file: what `gradevo export` does."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gradevo import shrink
from gradevo.datasets.preparation import Preparation
from gradevo.export import weights
from gradevo.export.facts import noted
from gradevo.export.finished import Finished
from gradevo.export.prepared import Prepared, drawn
from gradevo.export.writing import WEIGHTS, Written, write
from gradevo.population import Build
from gradevo.validation import one_of

ROWS = ("raw", "prepared")
BLUR = 1e-3  # of a deviation that raw rows may lose in float32


@dataclass(frozen=True)
class Order:
    """How a network is to be written.

    Attributes:
        to: the format.
        path: the file.
        build: returns a module of the run's architecture; default: the one that the command noted.
        example: a batch of inputs; default: drawn in the shape that is known.
        inputs: shape of a row, where the run's folder does not have it.
        compact: remove hidden units that do nothing; default: of a front's networks, where the
            file holds the computation.
        rows: "raw", as the data have them, or "prepared", as the network does; default: raw where
            the data are numbers that float32 tells apart.
    """

    to: str
    path: Path
    build: Build | None = None
    example: Any = None
    inputs: tuple[int, ...] | None = None
    compact: bool | None = None
    rows: str | None = None

    def __post_init__(self) -> None:
        if self.rows is not None:
            one_of("rows", self.rows, ROWS)
        if self.rows == "raw" and self.to in WEIGHTS:
            raise ValueError(
                f"rows: must be prepared for {self.to}, got raw; it holds weights only"
            )


@dataclass(frozen=True)
class Exported:
    """What came of it.

    Attributes:
        written: the file.
        network: which one it is.
        rows: "raw" or "prepared"; None where the run's folder knows no preparation.
        weights: parameters of the network as it is in the file, and before it was compacted; None
            where it was not.
    """

    written: Written
    network: str
    rows: str | None
    weights: tuple[int, int] | None

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        numbers = {**asdict(self.written), "path": str(self.written.path)}
        return {**numbers, "network": self.network, "rows": self.rows, "weights": self.weights}


def export(run: Finished, order: Order) -> Exported:
    """Write the network that is wanted.

    Raises:
        ValueError: what is needed is not known: the builder, or the shape of the inputs.
        CheckpointError, ExportError, ImportError, TypeError: as `write` and `Finished` say.
    """
    state = run.state() if order.to in WEIGHTS and not order.compact else None
    if state is None:
        return _built(run, order)
    facts = {**run.about, "rows": "prepared" if run.preparation else None}
    weights.write(state, order.path, order.to, noted(facts | _how(run, "prepared")))
    written = Written(order.path, order.to, order.path.stat().st_size, None)
    return Exported(written, run.name, facts["rows"], None)


def _built(run: Finished, order: Order) -> Exported:
    """With the network's code: all that is traced or compacted."""
    rows, module = _rows(run, order), run.module(_builder(run, order))
    example, sizes = _example(run, order, module), None
    raw = Prepared(module, cast(Preparation, run.preparation)) if rows == "raw" else None
    if _compacts(run, order, example):
        given = raw.prepared(example) if raw and order.example is not None else example
        smaller = shrink.compact(module, given)
        sizes, module = (_weights(smaller), _weights(module)), smaller
    if raw:
        raw.network = module
        module, example = raw, raw.example(example) if order.example is None else example
    about = {**run.about, "rows": rows, "parameters": _weights(module), **_how(run, rows)}
    written = write(module, order.path, example=example, to=order.to, about=about)
    return Exported(written, run.name, rows, sizes)


def _builder(run: Finished, order: Order) -> Build:
    build = order.build or run.network
    if build is None:
        raise ValueError(
            f"build: must be given for {order.to}, as {run.folder} does not say how its network is "
            "built; name a function that returns a new one, as package.module:function"
        )
    return build


def _compacts(run: Finished, order: Order, example: Any) -> bool:
    if order.compact is None:
        return run.points is not None and order.to not in WEIGHTS and isinstance(example, Tensor)
    return order.compact


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- rows ----------------------------------------------------------------------------------


def _how(run: Finished, rows: str | None) -> dict[str, Any]:
    """How to prepare rows, for who has to; nothing where the file does it or nobody knows."""
    return {"preparation": run.data.get("preparation")} if rows == "prepared" else {}


def _rows(run: Finished, order: Order) -> str | None:
    """Which rows the file takes.

    Raises:
        ValueError: raw ones are asked for, and cannot be had.
    """
    preparation = run.preparation
    blurred = preparation is not None and preparation.blur > BLUR
    possible = preparation is not None and preparation.numeric and not blurred
    if order.rows == "raw" and not possible:
        why = "has columns of words" if preparation else "does not say how rows were prepared"
        if preparation is not None and preparation.numeric:
            why = "has a column whose numbers lie too close together for float32"
        raise ValueError(f"rows: must be prepared for data of numbers only, but {run.folder} {why}")
    if preparation is None:
        return None
    raw = possible and order.rows != "prepared" and order.to not in WEIGHTS
    return "raw" if raw else "prepared"


def _example(run: Finished, order: Order, module: nn.Module) -> Any:
    """A batch to try the network on; none where nothing is tried.

    Raises:
        ValueError: nobody knows what shape it has.
    """
    types = [p.dtype for p in module.parameters() if p.is_floating_point()]
    dtype = next(iter(types), torch.float32)
    if order.example is not None:
        fitting = run.preparation is not None  # such networks take floating numbers only
        return pytree.tree_map(
            lambda t: t.to(dtype) if fitting or t.is_floating_point() else t, order.example
        )
    if order.to in WEIGHTS and not order.compact:
        return None
    known = order.inputs or tuple(run.data.get("inputs") or ())
    if not known:
        raise ValueError(
            f"inputs: must be the shape of a row, 1,28,28 for example, as {run.folder} does not "
            "have it; or give an example"
        )
    return drawn(known, dtype)
