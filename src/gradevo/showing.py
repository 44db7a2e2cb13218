"""A front to look at: as a table, and as a figure by matplotlib, imported when one is asked for."""

from pathlib import Path
from typing import Any

from gradevo.disk import replacing
from gradevo.tradeoff import Tradeoff
from gradevo.validation import at_least

BLUE, VERMILION, BLACK = "#0072B2", "#D55E00", "#000000"  # Okabe and Ito: told apart by everyone


def table(points: Tradeoff, most: int | None = None) -> str:
    """A Markdown table, a line a point.

    Args:
        points: sparsest first.
        most: at least 4; of more points, the ends, the knee, the best and some between are shown.

    Example:
        >>> import torch
        >>> points = Tradeoff(100, torch.tensor([5, 9, 20]), torch.tensor([1.0, 0.3, 0.2]))
        >>> print(table(points))
        | sparsity | non-zeros | loss |      |
        | -------: | --------: | ---: | ---: |
        |   95.00% |         5 |    1 |      |
        |   91.00% |         9 |  0.3 | knee |
        |   80.00% |        20 |  0.2 | best |
    """
    accuracy = [] if points.accuracies is None else ["accuracy"]
    lines = [["sparsity", "non-zeros", "loss", *accuracy, *points.others, ""]]
    lines += [_cells(points, i) for i in _shown(points, most)]
    widths = [max(4, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return "\n".join("| " + " | ".join(map(str.rjust, line, widths)) + " |" for line in lines)


def _cells(points: Tradeoff, i: int) -> list[str]:
    right = [] if points.accuracies is None else [f"{float(points.accuracies[i]):.2%}"]
    marks = [name for name, index in _marked(points).items() if i == index]
    return [
        f"{float(points.sparsities[i]):.2%}",
        f"{int(points.nonzeros[i]):,}",
        f"{float(points.losses[i]):.4g}",
        *right,
        *(f"{float(values[i]):,.6g}" for values in points.others.values()),
        ", ".join(marks),
    ]


def _marked(points: Tradeoff) -> dict[str, int]:
    return {"knee": points.knee, "best": points.best()}


def _shown(points: Tradeoff, most: int | None) -> list[int]:
    """Indices of at most so many points, spread evenly between those that matter."""
    everything = range(len(points))
    if most is None:
        return list(everything)
    at_least("most", most, 4)
    kept = {0, len(points) - 1, *_marked(points).values()}
    rest = [i for i in everything if i not in kept]
    room = min(most - len(kept), len(rest))
    return sorted(kept | {rest[(2 * k + 1) * len(rest) // (2 * room)] for k in range(room)})


def plot(points: Tradeoff, path: Path) -> None:
    """A figure of the loss, and of the accuracy where it is known, by density on a log axis.

    Matplotlib's global state is not touched.

    Args:
        points: what to show, sparsest first.
        path: the file; its ending says the format.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: matplotlib knows no such format.
        CheckpointError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullFormatter
    except ImportError as error:
        message = "plot: needs matplotlib, got none; pip install 'gradevo[plot]'"
        raise ImportError(message) from error
    panels = {"validation loss": points.losses}
    if points.accuracies is not None:
        panels["validation accuracy"] = points.accuracies
    figure = Figure(figsize=(5.2 * len(panels), 3.8), layout="constrained")
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.lower()[1:] not in formats:
        raise ValueError(f"path: must end in one of {', '.join(sorted(formats))}, got {path}")
    for i, (label, values) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), i, ylabel=label, xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(lambda value, position: f"{value:.6g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        _draw(axes, points, values.tolist())
    with replacing(path) as new:
        figure.savefig(new, dpi=150)


def _draw(axes: Any, points: Tradeoff, values: list[float]) -> None:
    # an empty network has no place on a log axis: it stands half a weight from zero
    x = points.densities.clamp(min=0.5 / points.weights).tolist()
    axes.plot(x, values, "o-", color=BLUE, markersize=3.5, linewidth=1, label="front")
    looks = {"knee": ("D", VERMILION), "best": ("s", BLACK)}
    for name, i in _marked(points).items():
        shape, colour = looks[name]
        axes.plot(x[i], values[i], shape, color=colour, markersize=8, linestyle="", label=name)
    axes.set_xlabel("density (share of weights that are not zero)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
