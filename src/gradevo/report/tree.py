"""The winner's family, drawn: from the first members on the left to the winner on the right."""

from collections import Counter
from typing import Any

import plotly.graph_objects as go

from gradevo.report.family import Ancestor, Family, Key
from gradevo.report.look import BLUE, INK, MUTED, ORANGE, PAPER, Figure, axis, figure
from gradevo.report.wording import number

LANE = 34  # pixels
Place = tuple[float, float]


def tree(family: Family) -> Figure:
    """The figure of a family."""
    places, line = placed(family), set(family.line())
    lanes = max(Counter(generation for generation, _ in family.members).values())
    winner, last = family.members[family.winner], family.winner[0]
    return figure(
        "Family tree of the winner",
        "From left to right: ancestors by the generation of their birth, the best on top. Solid: "
        "the fitter parent; dashed: the second one; thick: the line of fitter parents.",
        f"The winner was born in generation {last}, has {len(family.members) - 1} ancestors, and "
        f"validation loss {number(winner.loss)}.",
        [*_edges(family, places, line), *_networks(family, places, line)],
        height=max(240, min(900, 120 + LANE * lanes)),
        xaxis=axis(
            "generation of birth", dtick=max(1, last // 10), showgrid=True,
            range=[-0.4, last + max(0.4, 0.06 * last)],
        ),
        yaxis=axis("", showticklabels=False, showgrid=False, ticks="", range=[-lanes + 0.3, 0.7]),
        hovermode="closest",
    )  # fmt: skip


def placed(family: Family) -> dict[Key, Place]:
    """Where each network stands: its generation, and a lane of its own, the best on top.

    Example:
        >>> keys = [(0, 2), (0, 4), (1, 0)]
        >>> members = {key: Ancestor(*key, None, None, ()) for key in keys}
        >>> placed(Family((1, 0), members))
        {(0, 2): (0.0, 0.0), (0, 4): (0.0, -1.0), (1, 0): (1.0, -0.5)}
    """
    rows: dict[int, list[Key]] = {}
    for key in sorted(family.members):
        rows.setdefault(key[0], []).append(key)
    lanes = max(map(len, rows.values()))
    return {
        key: (float(generation), -(lanes - len(keys)) / 2 - lane)
        for generation, keys in rows.items()
        for lane, key in enumerate(keys)
    }


def _edges(family: Family, places: dict[Key, Place], line: set[Key]) -> list[Any]:
    looks = {
        "second parent": {"color": MUTED, "width": 1.2, "dash": "4px,3px"},
        "fitter parent": {"color": MUTED, "width": 1.5},
        "line of the winner": {"color": BLUE, "width": 3.5},
    }
    paths: dict[str, tuple[list[Any], list[Any]]] = {name: ([], []) for name in looks}
    for key, member in family.members.items():
        for rank, parent in enumerate(member.parents):
            main = rank == 0 and key in line
            name = "line of the winner" if main else ("fitter parent", "second parent")[rank]
            for point in (*_path(places[parent], places[key]), (None, None)):
                for values, value in zip(paths[name], point, strict=True):
                    values.append(value)
    return [
        go.Scatter(x=x, y=y, mode="lines", name=name, line=looks[name], hoverinfo="skip")
        for name, (x, y) in paths.items()
        if x
    ]


def _path(start: Place, end: Place, points: int = 12) -> list[Place]:
    """A curve that leaves and arrives level, and makes way for who is between."""
    (x, y), (to_x, to_y) = start, end
    bend = 0.45 if to_x - x > 1 and abs(to_y - y) < 1 else 0.0
    shares = [i / points for i in range(points + 1)]
    ease = [t * t * (3 - 2 * t) for t in shares]
    return [
        (x + t * (to_x - x), y + e * (to_y - y) + 4 * bend * t * (1 - t))
        for t, e in zip(shares, ease, strict=True)
    ]


def _networks(family: Family, places: dict[Key, Place], line: set[Key]) -> list[Any]:
    others = [key for key in family.members if key != family.winner]
    outline = [BLUE if key in line else INK for key in others]
    dots = {"size": 11, "color": PAPER, "line": {"color": outline, "width": 2}}
    star = {"size": 18, "symbol": "star", "color": ORANGE, "line": {"color": INK, "width": 1}}
    return [
        _dots(family, others, places, name="ancestor", marker=dots),
        _dots(family, [family.winner], places, name="winner", marker=star),
    ]


def _dots(family: Family, keys: list[Key], places: dict[Key, Place], **look: Any) -> Any:
    return go.Scatter(
        x=[places[key][0] for key in keys],
        y=[places[key][1] for key in keys],
        mode="markers",
        text=[_words(family.members[key]) for key in keys],
        hovertemplate="%{text}<extra></extra>",
        showlegend=bool(keys),
        **look,
    )


def _words(member: Ancestor) -> str:
    born = f"born in generation {member.generation}" if member.generation else "a first member"
    lines = [f"<b>member {member.member}</b>, {born}"]
    if member.loss is not None:
        lines.append(f"validation loss {number(member.loss)}")
    if member.lr is not None:
        lines.append(f"learning rate {number(member.lr)}")
    names = [f"member {place} of generation {born}" for born, place in member.parents]
    if names:
        lines.append(
            ("a copy that learnt on: " if len(names) == 1 else "") + " and<br>".join(names)
        )
    return "<br>".join(lines)
