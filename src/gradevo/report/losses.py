"""Validation losses by generation: the best, the mean, and how far members are spread."""

import statistics
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from gradevo.report.look import (
    BAND,
    BLUE,
    CORE,
    INK,
    Figure,
    axis,
    figure,
    generations,
    logarithmic,
    spans_a_decade,
)
from gradevo.report.wording import number

DEEP = 1e-6  # of the highest loss: where a logarithmic axis ends


def losses(history: Sequence[dict[str, Any]]) -> Figure | None:
    """The figure; None of a run with less than two generations, or without losses."""
    infos = [info for info in history if _finite(info)]
    if len(infos) < 2:
        return None
    x = [info["generation"] for info in infos]
    curves = [spread(_finite(info)) for info in infos]
    everything = [value for curve in curves for value in curve.values()]
    lowest = floor(everything)
    y = axis("validation loss", tickformat="~g")
    if lowest is not None:
        everything = [max(value, lowest) for value in everything]
        curves = [{name: max(v, lowest) for name, v in curve.items()} for curve in curves]
        y = logarithmic("validation loss", everything)
    first, last = (min(_finite(info)) for info in (infos[0], infos[-1]))
    return figure(
        "Validation loss by generation",
        "Line: the best member. Dashes: the mean. Dark band: the middle half of the members; "
        "light band: all of them." + _clipped(infos, lowest) + _diverged(history),
        f"The best member's validation loss goes from {number(first)} in generation {x[0]} to "
        f"{number(last)} in generation {x[-1]}.",
        _traces(x, curves, [_words(info) for info in infos]),
        height=360,
        xaxis=generations(x[-1]),
        yaxis=y,
        hovermode="x",
    )


def spread(values: Sequence[float]) -> dict[str, float]:
    """Best, quartiles, worst and mean of at least one loss.

    Example:
        >>> spread([4.0, 1.0, 2.0, 3.0])
        {'best': 1.0, 'first': 1.75, 'third': 3.25, 'worst': 4.0, 'mean': 2.5}
    """
    two = [*values, *values] if len(values) == 1 else values
    first, _, third = statistics.quantiles(two, method="inclusive")
    mean = statistics.fmean(values)
    return {
        "best": min(values), "first": first, "third": third, "worst": max(values), "mean": mean,
    }  # fmt: skip


def floor(values: Sequence[float]) -> float | None:
    """The lowest value of a logarithmic axis, where that shows more than a linear one.

    Losses that are 0, or a millionth of the highest, stand there.

    Example:
        >>> floor([0.5, 0.2]), floor([5.0, 0.2]), floor([5.0, 0.2, 0.0]), floor([5.0, -0.2])
        (None, 0.2, 0.2, None)
    """
    positive = [value for value in values if value > 0]
    if min(values) < 0 or not spans_a_decade(positive):
        return None
    return max(min(positive), DEEP * max(positive))


def _finite(info: dict[str, Any]) -> list[float]:
    return [float(loss) for loss in info.get("losses", []) if loss is not None]


def _clipped(history: Sequence[dict[str, Any]], lowest: float | None) -> str:
    below = lowest is not None and any(min(_finite(info)) < lowest for info in history)
    return f" Losses below {number(lowest)} stand there." if below else ""


def _diverged(history: Sequence[dict[str, Any]]) -> str:
    lost = sum(loss is None for info in history for loss in info.get("losses", []))
    return f" Left out: {lost} losses that are not finite." if lost else ""


def _traces(x: list[int], curves: list[dict[str, float]], words: list[str]) -> list[Any]:
    def curve(of: str, **look: Any) -> Any:
        return go.Scatter(x=x, y=[c[of] for c in curves], hoverinfo="skip", **look)

    edge = {"mode": "lines", "line": {"width": 0}}
    return [
        curve("worst", **edge, showlegend=False),
        curve("best", **edge, fill="tonexty", fillcolor=BAND, name="all members"),
        curve("third", **edge, showlegend=False),
        curve("first", **edge, fill="tonexty", fillcolor=CORE, name="middle half"),
        curve("mean", name="mean", mode="lines", line={"color": INK, "width": 1.5, "dash": "dash"}),
        go.Scatter(
            x=x,
            y=[c["best"] for c in curves],
            name="best",
            mode="lines+markers" if len(x) <= 30 else "lines",
            line={"color": BLUE, "width": 2.5},
            marker={"color": BLUE, "size": 7},
            text=words,
            hovertemplate="%{text}<extra></extra>",
        ),
    ]


def _words(info: dict[str, Any]) -> str:
    values = _finite(info)
    found, steps = spread(values), info.get("member_steps")
    lines = [
        f"<b>generation {info['generation']}</b>",
        f"best {number(found['best'])}, mean {number(found['mean'])}",
        f"middle half {number(found['first'])} to {number(found['third'])}",
        f"worst {number(found['worst'])} of {len(values)}",
    ]
    return "<br>".join([*lines, *([f"{steps:,} member-steps"] if steps is not None else [])])
