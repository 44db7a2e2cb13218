"""The page: what each run has to show, put into the template."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from gradevo import __version__
from gradevo.errors import CheckpointError
from gradevo.report import wording
from gradevo.report.family import family
from gradevo.report.reading import Run

try:
    import plotly.graph_objects  # noqa: F401  what the figures need, before they are imported
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs
except ImportError as error:
    raise ImportError(
        "report: needs plotly and jinja2, got none; pip install 'gradevo[report]'"
    ) from error

from gradevo.report.comparing import comparisons
from gradevo.report.course import courses
from gradevo.report.details import Timing, facts, settings, timings
from gradevo.report.front import FrontView, front
from gradevo.report.look import Figure
from gradevo.report.losses import losses
from gradevo.report.tree import tree


@dataclass(frozen=True)
class View:
    """One run, seen.

    Attributes:
        id: of its section in the page.
        title: the method, the data and the seed.
        folder: where it is.
        summary: its result in a line.
        notes: what a reader must know first: unfinished, damaged.
        tiles: its main figures, name and value.
        figures: wide ones, the losses.
        courses: small ones.
        family: the winner's tree.
        front: what GEMONN gives.
        table: the generations in numbers, heads first.
        facts: data, network, versions, machine.
        settings: of the algorithm.
        timings: of the engines that were tried.
    """

    id: str
    title: str
    folder: str
    summary: str
    notes: list[str]
    tiles: list[tuple[str, str]]
    losses: Figure | None
    courses: list[Figure]
    family: Figure | None
    front: FrontView | None
    table: list[list[str]]
    facts: list[tuple[str, str]]
    settings: list[tuple[str, str]]
    timings: list[Timing]


def html(runs: Sequence[Run]) -> str:
    """The page as text."""
    views = []
    for number, run in enumerate(runs, start=1):
        with _naming(run):
            views.append(_view(run, f"run-{number}"))
    room = files("gradevo.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((room / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=_title(runs),
        runs=views,
        comparisons=comparisons(runs),
        version=__version__,
        style=Markup((room / "page.css").read_text(encoding="utf-8")),
        script=Markup((room / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )


@contextmanager
def _naming(run: Run) -> Iterator[None]:
    """Say whose files they are that hold something else than a run's numbers."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            "checkpoint: must hold a run's settings and numbers, got something else "
            f"({type(error).__name__}: {error}) in {run.folder}"
        ) from error


def _title(runs: Sequence[Run]) -> str:
    """What the runs are about, in a few words."""
    if len(runs) == 1:
        return _run_title(runs[0])
    methods = list(dict.fromkeys(run.method for run in runs))
    data = list(dict.fromkeys(run.dataset for run in runs if run.dataset))
    names = ", ".join(methods[:4]) + ", …" * (len(methods) > 4)
    return f"{names} on {', '.join(data)}" if data else names


def _view(run: Run, name: str) -> View:
    tree_of = family(run.history)
    return View(
        id=name,
        title=_run_title(run),
        folder=str(run.folder),
        summary=", ".join(f"{key} {value}" for key, value in _tiles(run)[:2]),
        notes=[*_unfinished(run), *run.faults, *_short(run), *_lost(run)],
        tiles=_tiles(run),
        losses=losses(run.history),
        courses=courses(run.history),
        family=tree(tree_of) if tree_of else None,
        front=front(run.front, run.folder) if run.front else None,
        table=_table(run.history),
        facts=facts(run),
        settings=settings(run),
        timings=timings(run),
    )


def _run_title(run: Run) -> str:
    data = f" on {run.dataset}" if run.dataset else ""
    seed = "" if run.seed is None else f", seed {run.seed}"
    return f"{run.method}{data}{seed}"


def _unfinished(run: Run) -> list[str]:
    if not run.unfinished:
        return []
    planned, done = run.part("run").get("generations"), 0
    if run.history:
        done = run.history[-1]["generation"]
    where = f"generation {done} of {planned}" if planned else f"generation {done}"
    return [
        f"Unfinished: {where}. Go on with the same gradevo train command and --resume, or the "
        f"same call of fit with checkpoint={str(run.folder)!r}."
    ]


def _short(run: Run) -> list[str]:
    """Why there are no curves."""
    if len(run.history) > 1:
        return []
    if not run.history:
        return ["No generation has ended yet: there is nothing to draw."]
    count = len(run.history[0].get("losses", []))
    members = "one network" if count == 1 else f"{count} networks"
    return [f"{members} trained in one generation: there are no curves to draw.".capitalize()]


def _lost(run: Run) -> list[str]:
    """What was noticed while it learnt."""
    last = run.history[-1] if run.history else {}
    skipped, known = last.get("skipped", 0), [i.get("improved") for i in run.history]
    found = [
        f"{skipped:,} of {last.get('member_steps', 0):,} steps were skipped, as the loss or its "
        "gradient was NaN or infinite."
    ] * bool(skipped)
    told = [better for better in known if better is not None]
    return [*found, *["No member became better by learning."] * bool(told and not any(told))]


def _tiles(run: Run) -> list[tuple[str, str]]:
    """Figures that come first."""
    tiles, outcome = [], run.outcome
    if outcome:
        tiles.append(("test accuracy", wording.percent(outcome["accuracy"])))
        tiles.append(("test loss", wording.number(outcome["loss"])))
    if run.history:
        last = run.history[-1]
        if "best" in last:
            tiles.append(("validation loss", wording.number(last["best"])))
        tiles.append(("generations", f"{last['generation']:,}"))
        if "member_steps" in last:
            tiles.append(("member-steps", f"{last['member_steps']:,}"))
    if outcome:
        tiles.append(("time", wording.duration(outcome["seconds"])))
    return [*tiles, *([("engine", run.engine)] if run.engine else [])]


COLUMNS = (
    "generation", "member_steps", "best", "mean", "adoption", "improved", "skipped", "diversity",
    "front",
)  # fmt: skip


def _table(history: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The generations in numbers, the heads first."""
    names = [name for name in COLUMNS if any(info.get(name) is not None for info in history)]
    heads = [name.replace("member_steps", "member-steps") for name in names]
    return [heads, *([_cell(name, info.get(name)) for name in names] for info in history)]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "adoption":
        return wording.percent(value, 0)
    return f"{value:,}" if isinstance(value, int) else wording.number(value)
