"""What all figures have in common: colours of the page's theme, axes, and what goes with them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

# names of the page's colours, which its script looks up in the theme that is on
BLUE, ORANGE, INK, MUTED = "var(--blue)", "var(--orange)", "var(--ink)", "var(--muted)"
GRID, PAPER = "var(--grid)", "var(--paper)"
BAND, CORE, CLEAR = "var(--band)", "var(--core)", "rgba(0, 0, 0, 0)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
MOST_TICKS = 7
MOST_SHARES = 5  # their labels are wider


@dataclass(frozen=True)
class Figure:
    """A plot and its words.

    Attributes:
        title: what is shown.
        caption: how to read it.
        alt: what a person who does not see it should know.
        spec: data and layout, as plotly.js takes them.
        height: in pixels.
    """

    title: str
    caption: str
    alt: str
    spec: dict[str, Any]
    height: int


def figure(
    title: str, caption: str, alt: str, traces: Sequence[Any], *, height: int = 320, **layout: Any
) -> Figure:
    """A figure in the page's look.

    Args:
        title: what is shown.
        caption: how to read it.
        alt: for who does not see it.
        traces: of `plotly.graph_objects`.
        height: in pixels.
        layout: axes, from `axis`, and what else is to be different.
    """
    below = {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"}
    look = {
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": FONT, "size": 13, "color": INK},
        "legend": {**below, "font": {"size": 12}, "itemclick": False, "itemdoubleclick": False},
        "margin": {"l": 8, "r": 16, "t": 28, "b": 8},
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": MUTED, "align": "left", "font": {
            "family": FONT, "size": 13, "color": INK,
        }},
        "height": height,
    }  # fmt: skip
    spec = go.Figure(list(traces), {**look, **layout}).to_plotly_json()
    spec["layout"].pop("template", None)  # seven kilobytes of colours that are not used
    return Figure(title, caption, alt, {"data": spec["data"], "layout": spec["layout"]}, height)


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a quiet grid."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
        "tickfont": {"size": 12},
        "automargin": True,
        "gridcolor": GRID,
        "linecolor": MUTED,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": GRID,
        **more,
    }


def generations(last: int) -> dict[str, Any]:
    """The axis of the generations; each has a tick where there is room."""
    if last > 10:
        return axis("generation", nticks=8, tickformat="d")
    return axis("generation", range=[0.7, last + 0.3], dtick=1)


def spans_a_decade(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows more."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > 10


def logarithmic(title: str, values: Sequence[float], *, shares: bool = False) -> dict[str, Any]:
    """A logarithmic axis with ticks at 1, 2 and 5, or fewer where these are too many.

    Args:
        title: of the axis.
        values: all above 0.
        shares: whether ticks are in per cent.
    """
    low, high = min(values), max(values)
    for leading in ((1, 2, 5), (1, 3), (1,)):
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [float(f"{lead}e{e}") for e in exponents for lead in leading]
        ticks = [tick for tick in ticks if low / 1.3 <= tick <= high * 1.3]
        if len(ticks) <= (MOST_SHARES if shares else MOST_TICKS):
            break
    words = [f"{100 * tick:.6g} %" if shares else f"{tick:g}" for tick in ticks]
    room = 0.05 * max(0.3, math.log10(high / low))
    ends = [math.log10(low) - room, math.log10(high) + room]
    return axis(title, type="log", range=ends, tickvals=ticks, ticktext=words)
