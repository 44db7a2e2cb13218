"""`gradevo export`: a network of a finished run as a file that other programs read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gradevo.cli.building import builder, shape
from gradevo.cli.building import example as example_of
from gradevo.cli.options import check_finished, check_free
from gradevo.cli.printing import print_json, say_where

if TYPE_CHECKING:
    from gradevo.export.fromrun import Exported


def export(
    run: Path,
    /,
    *,
    to: str,
    what: str | None = None,
    pick: str | None = None,
    max_loss: float | None = None,
    min_sparsity: float | None = None,
    compact: bool | None = None,
    rows: str | None = None,
    out: Path | None = None,
    build: str | None = None,
    inputs: str | None = None,
    example: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a network of a finished run as ONNX, torch.export, safetensors or a state dict.

    An ONNX or torch.export file is run, and compared with the network, before it counts.

    Parameters
    ----------
    run
        The folder that `train --out`, `Result.save` or `Front.save` left.
    to
        onnx, torch-export (a .pt2 file), safetensors or state-dict (a .pt file). The last two hold
        weights only. onnx needs `pip install 'gradevo[onnx]'`.
    what
        best, soup or ensemble (one file too); default: what the run's method hands over.
    pick
        Of a front: knee, best or sparsest; default: what the limit given is for, else the knee.
    max_loss
        The validation loss that the sparsest may have.
    min_sparsity
        The sparsity that the best must have, in [0, 1].
    compact
        Leave out hidden units that do nothing; default: of a front's networks, in onnx and
        torch-export. The weights then fit no longer what built the network.
    rows
        raw: the file takes rows of numbers as the data have them (pixels from 0 to 255, columns
        in their order without the label, NaN where one is missing) and standardises them itself.
        prepared: it takes what the network was trained on; how to get there is noted in the file
        and in run.json, under "preparation". Default: raw, unless columns hold
        words, or numbers that float32 does not tell apart, as time stamps.
    out
        The file; default: in the run's folder, by the network's name.
    build
        What builds the run's network, as package.module:function; `train` has noted it.
    inputs
        Shape of one row, as 1,28,28; `train` has noted it.
    example
        A .npy file with some rows of inputs, or a .npz with several inputs by name, instead of
        numbers drawn in that shape; for inputs that are no such numbers.
    json
        Print one JSON object and nothing else.
    """
    from gradevo.export.finished import Finished, Wanted
    from gradevo.export.fromrun import Order
    from gradevo.export.fromrun import export as export_run
    from gradevo.export.writing import FORMATS
    from gradevo.validation import one_of

    one_of("to", to, FORMATS)
    check_finished(run)
    finished = Finished(run, Wanted(what, pick, max_loss, min_sparsity))
    path = out or run / f"{finished.name}{FORMATS[to][0]}"
    check_free(path, run)
    order = Order(
        to,
        path,
        build=None if build is None else builder(build),
        example=None if example is None else example_of(example),
        inputs=None if inputs is None else shape(inputs),
        compact=compact,
        rows=rows,
    )
    exported = export_run(finished, order)
    if json:
        print_json(exported.plain)
        return
    print(_told(exported))
    say_where(path, "File")


def _told(exported: "Exported") -> str:
    """What came of it in words."""
    written = exported.written
    lines = [f"{written.to}: {exported.network}, {written.bytes:,} bytes"]
    if exported.weights is not None:
        now, before = exported.weights
        lines.append(f"Compacted: {now:,} parameters of {before:,}")
    if exported.rows is not None:
        lines.append(f"Takes {exported.rows} rows")
    if written.error is not None:
        lines.append(f"Compared with the network: {written.error:.1g} of the outputs' scale")
    return "\n".join(lines)
