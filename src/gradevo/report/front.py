"""The front between density and loss: two figures, a row a member, and how to export each."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from gradevo.report.look import (
    BLUE,
    INK,
    ORANGE,
    PAPER,
    Figure,
    axis,
    figure,
    logarithmic,
    spans_a_decade,
)
from gradevo.report.wording import literal, number, percent
from gradevo.tradeoff import Tradeoff

DENSITY = "density: weights that are not zero"
CAPTIONS = {
    "loss": "Each point is a network that no other of the run beats in both. "
    "Select one to see how to export it; the table below does the same.",
    "accuracy": "The same networks by accuracy, on the validation rows too.",
}


@dataclass(frozen=True)
class Member:
    """One network of a front, in words.

    Attributes:
        name: what it is called, with "knee" or "best" where it is that.
        cells: its numbers, in the order of the table's heads.
        words: the numbers in a line.
        command: what exports it.
    """

    name: str
    cells: list[str]
    words: str
    command: str


@dataclass(frozen=True)
class FrontView:
    """A front to choose from.

    Attributes:
        figures: the loss, and the accuracy where it is known.
        heads: of the table.
        members: sparsest first.
        chosen: the member that is selected at first, the knee.
    """

    figures: list[Figure]
    heads: list[str]
    members: list[Member]
    chosen: int


def front(points: Tradeoff, folder: Path) -> FrontView:
    """A front, seen.

    Args:
        points: sparsest first.
        folder: the run's, as the commands name it.
    """
    rows, names = points.rows(), _names(points)
    heads = ["member", "sparsity", "non-zeros", "loss"]
    heads += [] if points.accuracies is None else ["accuracy"]
    members = [
        Member(names[i], _cells(row, points), _line(row, points), command(points, i, folder))
        for i, row in enumerate(rows)
    ]
    hovers = [f"<b>{m.name}</b><br>" + "<br>".join(m.words.split(", ")) for m in members]
    figures = [_drawn(points, "loss", points.losses.tolist(), hovers)]
    if points.accuracies is not None:
        figures.append(_drawn(points, "accuracy", points.accuracies.tolist(), hovers))
    return FrontView(figures, [*heads, *points.others], members, points.knee)


def command(points: Tradeoff, i: int, folder: Path) -> str:
    """The shortest command that exports exactly this member.

    Empty where none of the picks is it: with three objectives a member may be neither the best of
    its sparsity nor the sparsest of its loss.

    Example:
        >>> import torch
        >>> points = Tradeoff(1000, torch.tensor([5, 21, 100]), torch.tensor([1.0, 0.213, 0.1]))
        >>> command(points, 1, Path("runs/a b"))
        "gradevo export 'runs/a b' --to onnx --pick knee"
        >>> points = Tradeoff(1000, torch.tensor([5, 6, 21, 100]), torch.tensor([9.0, 8, 0.2, 0.1]))
        >>> command(points, 1, Path("run"))
        'gradevo export run --to onnx --pick best --min-sparsity 0.99'
    """
    start = f"gradevo export {shlex.quote(folder.as_posix())} --to onnx --pick"
    for name in ("knee", "best", "sparsest"):
        if points.pick(name) == i:
            return f"{start} {name}"
    sparsity = _shortest(points, i, "min_sparsity", float(points.sparsities[i]))
    if sparsity:
        return f"{start} best --min-sparsity {sparsity}"
    loss = _shortest(points, i, "max_loss", float(points.losses[i]))
    return f"{start} sparsest --max-loss {loss}" if loss else ""


def _shortest(points: Tradeoff, i: int, name: str, value: float) -> str:
    """The limit in as few digits as pick this member and no other; empty if none do."""
    for text in (*(f"{value:.{digits}g}" for digits in range(2, 17)), repr(value)):
        try:
            picked = points.pick(**{name: float(text)})  # pyright: ignore[reportArgumentType]
        except ValueError:  # rounded past the end of the front
            continue
        if picked == i:
            return text
    return ""


def _names(points: Tradeoff) -> list[str]:
    marks = {points.best(): "best", points.knee: "knee"}
    return [f"member {i} ({marks[i]})" if i in marks else f"member {i}" for i in range(len(points))]


def _cells(row: dict[str, Any], points: Tradeoff) -> list[str]:
    right = [] if row["accuracy"] is None else [percent(row["accuracy"])]
    others = [number(row[name]) for name in points.others]
    size = [percent(row["sparsity"]), f"{row['nonzeros']:,}"]
    return [*size, number(row["loss"]), *right, *others]


def _line(row: dict[str, Any], points: Tradeoff) -> str:
    right = [] if row["accuracy"] is None else [f"accuracy {percent(row['accuracy'])}"]
    others = [f"{literal(name)} {number(row[name])}" for name in points.others]
    size = [f"sparsity {percent(row['sparsity'])}", f"{row['nonzeros']:,} non-zeros"]
    return ", ".join([*size, f"loss {number(row['loss'])}", *right, *others])


def _drawn(points: Tradeoff, name: str, values: list[float], hovers: Sequence[str]) -> Figure:
    # an empty network has no place on a log axis: it stands half a weight from zero
    x = points.densities.clamp(min=0.5 / points.weights).tolist()
    y = axis(f"validation {name}", tickformat=".0%" if name == "accuracy" else "~g")
    if name == "loss" and spans_a_decade(values):
        y = logarithmic("validation loss", values)
    knee, best = points.knee, points.best()
    sparsest, densest = percent(min(x)), percent(max(x))
    return figure(
        f"Front: {name} by density",
        CAPTIONS[name],
        f"{len(points)} networks with densities of {sparsest} to {densest}; the knee has "
        f"validation {name} {number(values[knee])}, the best {number(values[best])}.",
        _traces(x, values, hovers, knee, best),
        height=360,
        xaxis=logarithmic(DENSITY, x, shares=True),
        yaxis=y,
        hovermode="closest",
    )


def _traces(
    x: list[float], y: list[float], hovers: Sequence[str], knee: int, best: int
) -> list[Any]:
    """The members first, for whom the page listens; what is selected last, which it moves."""
    line = {"color": BLUE, "width": 1.5}
    dots = {"color": PAPER, "size": 9, "line": {"color": BLUE, "width": 2}}
    traces = [
        go.Scatter(
            x=x, y=y, mode="lines+markers", line=line, marker=dots, name="front",
            text=list(hovers), hovertemplate="%{text}<extra></extra>",
        )
    ]  # fmt: skip
    for name, i, shape, colour in (
        ("best", best, "square", INK),
        ("knee", knee, "diamond", ORANGE),
    ):
        marker = {"symbol": shape, "size": 11, "color": colour}
        traces.append(
            go.Scatter(x=[x[i]], y=[y[i]], mode="markers", marker=marker, name=name,
                       hoverinfo="skip")
        )  # fmt: skip
    ring = {"symbol": "circle-open", "size": 20, "color": INK, "line": {"width": 2.5}}
    traces.append(
        go.Scatter(x=[x[knee]], y=[y[knee]], mode="markers", marker=ring, name="selected",
                   hoverinfo="skip")
    )  # fmt: skip
    return traces
