"""What else was written down: data, network, versions, machine, settings, engines' times."""

import math
from dataclasses import dataclass
from typing import Any

from gradevo.report.reading import Run
from gradevo.report.wording import duration, setting

NOT_SETTINGS = {"architecture", "algorithm"}
MOST_CLASSES = 12


@dataclass(frozen=True)
class Timing:
    """An engine that was a candidate.

    Attributes:
        name: of the engine.
        chosen: whether the run used it.
        time: of a step of all members; empty where it was not timed.
        share: of the slowest time, in per cent, for a bar.
        why: it was not timed.
    """

    name: str
    chosen: bool
    time: str
    share: float
    why: str


def timings(run: Run) -> list[Timing]:
    """The engines that were measured, the fastest first, then those that were not and why."""
    measured = run.part("engine").get("measured")
    found: dict[str, Any] = measured if isinstance(measured, dict) else {}
    seconds = {n: float(v) for n, v in found.items() if isinstance(v, int | float)}
    slowest = max(seconds.values(), default=math.inf)
    timed = [
        Timing(name, name == run.engine, duration(value), 100 * value / slowest, "")
        for name, value in sorted(seconds.items(), key=lambda item: item[1])
    ]
    rest = [
        Timing(n, n == run.engine, "", 0.0, str(v)) for n, v in found.items() if n not in seconds
    ]
    return [*timed, *rest]


def settings(run: Run) -> list[tuple[str, str]]:
    """The algorithm's settings, as the record has them."""
    found = run.part("run").items()
    return [(name, setting(value)) for name, value in found if name not in NOT_SETTINGS]


def facts(run: Run) -> list[tuple[str, str]]:
    """Data, network, versions and machine, each a line."""
    lines = [
        ("method", _joined(run.method, run.part("method").get("meaning"))),
        ("data", _data(run.part("data"))),
        ("network", _network(run.part("run").get("architecture"))),
        ("versions", ", ".join(f"{name} {v}" for name, v in run.part("versions").items())),
        ("machine", _machine(run.part("machine"))),
        ("started", str(run.record.get("started") or "").replace("T", " ").replace("Z", " UTC")),
        ("folder", str(run.folder)),
    ]
    return [(name, text) for name, text in lines if text]


def _joined(*parts: Any) -> str:
    return ": ".join(str(part) for part in parts if part)


def _data(data: dict[str, Any]) -> str:
    classes, rows = data.get("classes") or [], data.get("rows") or {}
    parts = [str(data["name"])] if data.get("name") else []
    if data.get("inputs"):
        parts.append(" × ".join(map(str, data["inputs"])) + " inputs")  # noqa: RUF001
    if classes:
        names = ", ".join(map(str, classes[:MOST_CLASSES])) + ", …" * (len(classes) > MOST_CLASSES)
        parts.append(f"{len(classes)} classes ({names})")
    parts += [f"{count:,} {part} rows" for part, count in rows.items()]
    return ", ".join(parts)


def _network(architecture: Any) -> str:
    """Its size and tensors; empty where the record has none."""
    if not isinstance(architecture, list):
        return ""
    shapes = {str(name): shape for name, shape, _ in architecture}
    total = sum(math.prod(shape) for shape in shapes.values())
    tensors = "; ".join(f"{n} {' × '.join(map(str, s)) or '1'}" for n, s in shapes.items())  # noqa: RUF001
    return f"{total:,} numbers in {len(shapes)} tensors: {tensors}"


def _machine(machine: dict[str, Any]) -> str:
    kind = " ".join(str(machine[name]) for name in ("system", "processor") if machine.get(name))
    counts = [f"{name}: {machine[name]}" for name in ("cores", "threads") if machine.get(name)]
    return ", ".join([kind, *counts] if kind else counts)
