"""What else changes from generation to generation: adoption, diversity, the front's size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from gradevo.report.look import BLUE, Figure, axis, figure, generations


@dataclass(frozen=True)
class Course:
    """A number of each generation.

    Attributes:
        key: its name in a generation's info.
        title: what it is.
        caption: how to read it.
        unit: of the axis.
        form: of a number, as d3 writes it.
        axis: more on its axis.
    """

    key: str
    title: str
    caption: str
    unit: str
    form: str
    axis: dict[str, Any]


SHARES = {"range": [-0.03, 1.03], "tickformat": ".0%", "tickvals": [0, 0.25, 0.5, 0.75, 1]}
COURSES = (
    Course(
        "adoption",
        "Adoption rate",
        "Share of the next generation that are new children: evolution still finds better ones.",
        "adopted",
        ".0%",
        SHARES,
    ),
    Course(
        "diversity",
        "Diversity",
        "Mean distance of two members' weights, units matched: near 0, all are one network.",
        "distance",
        ".4g",
        {"rangemode": "tozero"},
    ),
    Course(
        "front",
        "Size of the front",
        "Members that no other member beats in every objective.",
        "members",
        "d",
        {"rangemode": "tozero"},
    ),
)


def courses(history: Sequence[dict[str, Any]]) -> list[Figure]:
    """A small figure of every number that the method tells of at least two generations."""
    return [found for course in COURSES if (found := _drawn(course, history))]


def _drawn(course: Course, history: Sequence[dict[str, Any]]) -> Figure | None:
    known = [(i["generation"], i[course.key]) for i in history if i.get(course.key) is not None]
    if len(known) < 2:
        return None
    x, y = (list(column) for column in zip(*known, strict=True))
    line = go.Scatter(
        x=x,
        y=y,
        mode="lines+markers" if len(x) <= 30 else "lines",
        line={"color": BLUE, "width": 2},
        marker={"color": BLUE, "size": 6},
        hovertemplate=f"generation %{{x}}: %{{y:{course.form}}}<extra></extra>",
    )
    return figure(
        course.title,
        course.caption,
        f"{course.title}: {y[0]:.4g} in generation {x[0]}, {y[-1]:.4g} in generation {x[-1]}.",
        [line],
        height=220,
        showlegend=False,
        margin={"l": 8, "r": 16, "t": 10, "b": 8},
        xaxis=generations(x[-1]),
        yaxis=axis(course.unit, **course.axis),
    )
