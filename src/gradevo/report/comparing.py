"""Methods side by side: their figures on test rows, by data set, and whether they cost the same."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from gradevo.compare import paired_p
from gradevo.report.look import BLUE, ORANGE, Figure, axis, figure
from gradevo.report.reading import Run
from gradevo.report.wording import duration, literal, number, percent, setting

FREE = {"seed", "algorithm", "loss"}  # settings that do not tell two groups apart
MOST = 3  # settings in a name, unless more are needed to tell groups apart


@dataclass(frozen=True)
class Group:
    """Runs of one method with the same settings, one or more seeds.

    Attributes:
        label: the method, and the settings that tell it from another group.
        outcomes: figures on test rows, by seed.
    """

    label: str
    outcomes: list[dict[str, Any]]

    def column(self, name: str) -> list[float]:
        return [outcome[name] for outcome in self.outcomes]

    @property
    def seeds(self) -> list[int]:
        return [outcome["seed"] for outcome in self.outcomes]


@dataclass(frozen=True)
class Comparison:
    """Runs on the same data, with the same loss.

    Attributes:
        dataset: the data's name.
        loss: what was trained on.
        cost: which of them cost the same.
        equal: whether they do.
        heads: of the table.
        rows: of the table, a method each.
        figures: accuracy and loss.
        notes: what p is, and which runs are left out or there twice, a sentence each.
    """

    dataset: str
    loss: str
    cost: str
    equal: bool
    heads: list[str]
    rows: list[list[str]]
    figures: list[Figure]
    notes: list[str]


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """One for each data set and loss of which there are at least two finished runs."""
    apart: dict[str, list[Run]] = {}
    for run in runs:
        data = run.part("data")
        key = repr((run.dataset, run.loss, data.get("rows"), data.get("classes")))
        apart.setdefault(key, []).append(run)
    return [_compared(together) for together in apart.values() if sum(map(_whole, together)) > 1]


def _whole(run: Run) -> bool:
    return bool(run.outcome)


def _compared(runs: Sequence[Run]) -> Comparison:
    groups = grouped(filter(_whole, runs))
    several = any(len(group.outcomes) > 1 for group in groups)
    ps = several and len(groups) > 1
    p = ["p"] * ps
    heads = ["method", "seeds", "accuracy", *p, "loss", *p, "member-steps", "time"]
    equal, cost = _cost(groups)
    return Comparison(
        dataset=runs[0].dataset or "unnamed data",
        loss=runs[0].loss,
        cost=cost,
        equal=equal,
        heads=heads,
        rows=[_row(group, groups[0], ps) for group in groups],
        figures=[_dots(groups, name) for name in ("accuracy", "loss")],
        notes=[*_left_out(runs), *_twice(groups), *([_statistics(groups)] if ps else [])],
    )


def grouped(runs: Iterable[Run]) -> list[Group]:
    """Runs by method and settings, the groups in the order of their first runs."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.method, repr(sorted(_settings(run).items()))), []).append(run)
    first = [together[0] for together in found.values()]
    return [
        Group(_label(together[0], first), sorted((r.outcome for r in together), key=_seed))
        for together in found.values()
    ]


def _seed(outcome: dict[str, Any]) -> int:
    return outcome["seed"]


def _settings(run: Run) -> dict[str, Any]:
    found = {name: value for name, value in run.part("run").items() if name not in FREE}
    hidden = run.part("network").get("hidden")
    return {**({"hidden": hidden} if hidden else {}), **found}


def _label(run: Run, first: Sequence[Run]) -> str:
    """The method's name, with what tells it from other groups of the same method."""
    same = [other for other in first if other.method == run.method]
    mine, theirs = _settings(run), [_settings(other) for other in same]
    shared = [name for name in mine if all(name in other for other in theirs)]
    differing = [name for name in shared if any(mine[name] != other[name] for other in theirs)]
    if len(same) == 1:
        return run.method
    if "hidden" in differing:  # which says it shorter
        differing.remove("architecture")
    most = MOST
    while most < len(differing) and _alike(mine, theirs, differing[:most]) > 1:
        most += 1
    told = [f"{name} {_said(name, mine[name])}" for name in differing[:most]]
    return ", ".join([run.method, *(told or [run.folder.name])])


def _alike(mine: dict[str, Any], theirs: list[dict[str, Any]], names: Sequence[str]) -> int:
    """How many groups have these settings, the own one among them."""
    return sum(all(mine[name] == other[name] for name in names) for other in theirs)


def _said(name: str, value: Any) -> str:
    """A setting in a label; of an architecture its size."""
    if name != "architecture":
        return setting(value)
    return f"of {sum(math.prod(shape) for _, shape, _ in value):,} numbers"


def _cost(groups: Sequence[Group]) -> tuple[bool, str]:
    """Whether all runs cost the same, and a sentence on it."""
    costs: dict[tuple[int, ...], list[str]] = {}
    for group in groups:
        steps = sorted({int(value) for value in group.column("member_steps")})
        costs.setdefault(tuple(dict.fromkeys((steps[0], steps[-1]))), []).append(group.label)
    told = [
        f"{', '.join(labels)}: {' to '.join(f'{steps:,}' for steps in cost)}"
        for cost, labels in costs.items()
    ]
    first, *others = costs
    if not others and len(first) == 1:
        return True, f"Equal cost: {first[0]:,} member-steps a run."
    return False, f"Not all at equal cost. Member-steps a run: {'; '.join(told)}."


def _left_out(runs: Sequence[Run]) -> list[str]:
    """Runs that have no figures: a method does not become better by losing them."""
    counts = Counter(run.method for run in runs if not run.outcome)
    return [
        f"Left out: {count} run{'s' * (count > 1)} of {method} without figures on test rows."
        for method, count in counts.items()
    ]


def _twice(groups: Sequence[Group]) -> list[str]:
    """Seeds that count more than once in a mean."""
    return [
        f"{group.label}: {len(group.seeds)} runs of {len(set(group.seeds))} different seeds."
        for group in groups
        if len(set(group.seeds)) < len(group.seeds)
    ]


def _statistics(groups: Sequence[Group]) -> str:
    """What p is, and how small it can be with so few seeds."""
    first, *others = groups
    if all(_p(other, first, "loss") is None for other in others):
        return f"No p: no other method has the seeds of {first.label} and differs from it."
    count = len(first.outcomes)
    least = f" With {count} seeds it cannot be below {2.0 ** (1 - count):.3g}." if count < 8 else ""
    test = "p: two-sided Wilcoxon signed-rank test over the seeds, paired with"
    return f"{test} {first.label}.{least}"


def _row(group: Group, first: Group, with_p: bool) -> list[str]:
    cells = [group.label, f"{len(group.outcomes)}"]
    for name, form in (("accuracy", percent), ("loss", number)):
        values = group.column(name)
        deviation = f" ± {form(statistics.stdev(values))}" if len(values) > 1 else ""
        cells.append(form(statistics.fmean(values)) + deviation)
        if with_p:
            p = _p(group, first, name)
            cells.append("" if p is None else f"{p:.3f}")
    steps = {int(value) for value in group.column("member_steps")}
    cells.append(" to ".join(f"{value:,}" for value in sorted({min(steps), max(steps)})))
    return [*cells, duration(statistics.fmean(group.column("seconds")))]


def _p(group: Group, first: Group, name: str) -> float | None:
    """Paired over the seeds; None of the first group itself, or of other seeds."""
    if group is first or group.seeds != first.seeds:
        return None
    return paired_p(group.column(name), first.column(name))


def _dots(groups: Sequence[Group], name: str) -> Figure:
    """A dot a run, the mean of each method as a diamond; the first method on top."""
    accuracy = name == "accuracy"
    means = [statistics.fmean(group.column(name)) for group in groups]
    words = [percent(mean) if accuracy else number(mean) for mean in means]
    told = ", ".join(f"{g.label} {word}" for g, word in zip(groups, words, strict=True))
    lanes = list(range(len(groups)))
    names = {"tickvals": lanes, "ticktext": [_wrapped(group.label) for group in groups]}
    return figure(
        f"Test {name}",
        "Circles: runs, one a seed, each seed at its own height. Diamonds: their means. "
        f"{'Higher' if accuracy else 'Lower'} is better.",
        f"Mean test {name}: {told}.",
        _points(groups, name, means),
        height=100 + 38 * len(groups),
        xaxis=axis("", nticks=6, tickformat=".1%" if accuracy else "~g"),
        yaxis=axis("", ticks="", range=[lanes[-1] + 0.5, -0.5], **names),
        hovermode="closest",
    )


def _points(groups: Sequence[Group], name: str, means: list[float]) -> list[Any]:
    form = ".2%" if name == "accuracy" else ".4g"
    runs = [
        (outcome[name], lane + _offset(k, len(group.outcomes)), outcome["seed"])
        for lane, group in enumerate(groups)
        for k, outcome in enumerate(group.outcomes)
    ]
    x, y, seeds = (list(column) for column in zip(*runs, strict=True))
    ring = {"symbol": "circle-open", "size": 10, "color": BLUE, "line": {"width": 2}}
    return [
        go.Scatter(
            x=means,
            y=list(range(len(groups))),
            mode="markers",
            name="mean",
            marker={"symbol": "diamond", "size": 12, "color": ORANGE},
            hovertemplate=f"mean: %{{x:{form}}}<extra></extra>",
        ),
        go.Scatter(
            x=x,
            y=y,
            customdata=seeds,
            mode="markers",
            name="run",
            marker=ring,
            hovertemplate=f"seed %{{customdata}}: %{{x:{form}}}<extra></extra>",
        ),
    ]


def _offset(k: int, count: int) -> float:
    """How far below the middle of its method a run stands, so that equal ones are two."""
    return (k - (count - 1) / 2) * min(0.16, 0.6 / count)


def _wrapped(label: str) -> str:
    """A label for an axis: settings on lines of their own."""
    return literal(label).replace(", ", "<br>")
