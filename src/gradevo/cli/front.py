"""`gradevo front`: look at the front of a run, and pick a network from it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gradevo.cli.options import check_finished, check_free
from gradevo.cli.printing import print_json, say_where

if TYPE_CHECKING:
    from gradevo.tradeoff import Tradeoff


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

    check_finished(run)
    check_free(out, run)
    check_free(plot, run)
    file = FrontFile.read(run)
    points = file.points
    i = points.pick(pick, max_loss=max_loss, min_sparsity=min_sparsity)
    if plot is not None:
        draw(points, plot)
    if out is not None:
        file.write_network(i, out)
    if json:
        print_json(_front_numbers(points, i))
        return
    print(f"{table(points)}\n\nPicked: {_numbers_of(points.rows()[i])}")
    say_where(out, "Network")
    say_where(plot, "Figure")


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
