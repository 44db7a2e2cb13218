"""Writes docs/results/swarm.md from the raw rows that the other scripts left.

python benchmarks/papers/swarm_page.py --targets shared/papers/targets.csv
"""

import argparse
import csv
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import swarm_cost
import swarm_quality
import swarm_unwrap
from common import RAW
from gadam_page import table
from swarm_data import NAMES
from swarm_tables import BATCH, CHOICES, CHOSEN_ON, HIDDEN, OPTIMISERS

from gradevo.compare import paired_p

Row = dict[str, Any]
Printed = dict[tuple[str, str, str, str], str]  # table, data set, metric, method: value
PAGE = RAW.parent / "swarm.md"
LOSSES = {"bce": "BCE", "mse": "MSE", "mae": "MAE"}
ACCURACY = {"bce": "supplement 5 (BCE)", "mse": "IV (MSE)", "mae": "V (MAE)"}
EPOCHS = {"bce": "supplement 6 (BCE)", "mse": "supplement 7 (MSE)", "mae": "supplement 8 (MAE)"}
IMBALANCED = ("haberman", "indian_liver_patient", "car_evaluation", "yeast")
CONTROL = "Adam on MSE"
TOLERANCE = "0.01"  # of a function's value


# --- tables I to III, and the supplement's functions ---------------------------------------


def emulation(rows: list[Row]) -> str:
    """One table a start set, then how many functions each method settles on."""
    mine = [row for row in rows if row["part"] == "emulate"]
    starts = list(dict.fromkeys((wide(row), row["particles"]) for row in mine))
    parts = []
    for start, particles in starts:
        at = [row for row in mine if (wide(row), row["particles"]) == (start, particles)]
        parts.append(f"### Started on {start}, {particles} particles\n\n{_functions(at)}")
    notes = dict.fromkeys(f"- `{row['function']}`: {row['note']}." for row in mine if row["note"])
    return "\n\n".join([*parts, "\n".join(notes), _settling(mine, starts)])


def wide(row: Row) -> str:
    """The start set; a function with a smaller domain is in the table of the whole set."""
    low, high = row["start"]
    return f"[{-high:g}, {high:g}]" if high > 2 else f"[{low:g}, {high:g}]"


def _functions(rows: list[Row]) -> str:
    methods = ("GD", "emulated GD", "SGD with momentum", "emulated SGD with momentum")
    body = []
    for function in dict.fromkeys(row["function"] for row in rows):
        found = {row["method"]: row for row in rows if row["function"] == function}
        cells = [f"`{function}`", f"{found['GD']['minimum']:.4g}"]
        for name in methods:
            cells += [_descent(found[name]), _by_print(found[name])]
        body.append(cells)
    return table(["function", "minimum", *[h for m in methods for h in (m, "paper")]], body)


def _descent(row: Row) -> str:
    """Median value reached, iterations to the first hit and to settling, share that settles."""
    counts = row["within"][TOLERANCE]
    moves = " / ".join(
        "never" if n is None else f"{n:g}" for n in (counts["hit"], counts["settled"])
    )
    value = "none" if row["value"] is None else f"{round(row['value'], 6):.4g}"
    return f"{value}: {moves}, {100 * counts['share_settled']:.0f} %"


def _by_print(row: Row) -> str:
    """The printed value and iterations; the share of our seeds that settle as early."""
    if row["printed_iterations"] is None:
        return ""
    share = 100 * row["within"][TOLERANCE]["share_settled_by_printed"]
    return f"{row['printed_value']:g}: {row['printed_iterations']}, {share:.0f} %"


def _settling(rows: list[Row], starts: Sequence[tuple[str, int]]) -> str:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    body = [[m, *[_settled(rows, m, *start) for start in starts]] for m in methods]
    head = [f"{start}, {particles} particles" for start, particles in starts]
    return "Functions on which at least 95 % of seeds settle:\n\n" + table(["method", *head], body)


def _settled(rows: list[Row], method: str, start: str, particles: int) -> str:
    mine = [r["within"][TOLERANCE]["share_settled"] for r in rows
            if (r["method"], wide(r), r["particles"]) == (method, start, particles)]  # fmt: skip
    return f"{sum(share >= 0.95 for share in mine)} of {len(mine)}"


def supplement(rows: list[Row]) -> str:
    """EMPSO against momentum PSO."""
    mine = [row for row in rows if row["part"] == "supplement"]
    body = []
    for name in dict.fromkeys(row["problem"] for row in mine):
        a, b = (next(r for r in mine if (r["problem"], r["method"]) == (name, m))
                for m in ("EMPSO", "momentum PSO"))  # fmt: skip
        body.append([
            name, _pair(a, b, "mean_iterations", ".0f"), _p(a["p_iterations"]),
            f"{a['known_minimum']:.4g}", _pair(a, b, "mean_minimum", ".4g"),
            _p(a["p_minimum"]), _pair(a, b, "share_reached", ".0%"),
        ])  # fmt: skip
    head = ["function", "mean iterations, EMPSO / momentum PSO", "p", "known minimum",
            "mean minimum", "p", "runs within 0.01 of it"]  # fmt: skip
    return table(head, body)


def _pair(a: Row, b: Row, name: str, form: str) -> str:
    return f"{a[name]:{form}} / {b[name]:{form}}"


# --- tables IV and V -----------------------------------------------------------------------


def accuracies(rows: list[Row], printed: Printed) -> str:
    """A table for each scale and loss, and its goals."""
    parts = []
    for scale in dict.fromkeys(row["task"]["scale"] for row in rows):
        for loss, title in LOSSES.items():
            found = _by(rows, "optimiser", scale=scale, loss=loss)
            if not found:
                continue
            if loss == "mae":
                control = _by(rows, "optimiser", scale=scale, loss="mse")
                found |= {(d, CONTROL): r for (d, o), r in control.items() if o == "Adam"}
            body = [_accuracy(found, d, loss, printed) for d in NAMES if (d, "Adam") in found]
            parts.append(f"### {title}, {scale} inputs\n\n{table(_heads(loss), body)}\n\n"
                         + _goals(found, scale, loss))  # fmt: skip
    return "\n\n".join(parts)


def _by(rows: list[Row], name: str, **wanted: str) -> dict[tuple[str, str], Row]:
    """Rows by data set and method."""
    return {
        (row["task"]["data"], row["task"][name]): row
        for row in rows if all(row["task"][k] == v for k, v in wanted.items())
    }  # fmt: skip


def _heads(loss: str) -> list[str]:
    control = [CONTROL] if loss == "mae" else []
    return ["data set", *OPTIMISERS, *control, "paper", "running", "check", "paper: epoch",
            "wins (paper)", "p"]  # fmt: skip


def _accuracy(found: dict[Any, Row], data: str, loss: str, printed: Printed) -> list[str]:
    """One data set: means over splits, and AdaSwarm beside Adam."""
    names = [*OPTIMISERS, *([CONTROL] if loss == "mae" else [])]
    adam, ours = found[data, "Adam"], found.get((data, "AdaSwarm"))

    def paper(source: str, metric: str) -> str:
        both = [printed.get((source, NAMES[data], metric, m)) for m in ("Adam", "AdaSwarm")]
        return " / ".join(f"{float(value):.3g}" for value in both if value is not None)

    cells = [NAMES[data], *[_mean(found.get((data, name))) for name in names]]
    cells.append(paper(ACCURACY[loss], "accuracy"))
    if ours is None:
        return cells + [""] * 5
    wins = paper(f"supplement 9 ({LOSSES[loss]})", "runs of 10 at least as accurate as Adam")
    return [
        *cells, f"{_mean(adam, 'running')} / {_mean(ours, 'running')}",
        f"{_reaches(adam, adam)} / {_reaches(ours, adam)}",
        paper(EPOCHS[loss], "epochs to Adam's saturated accuracy"),
        f"{_wins(ours, adam)} ({wins})", _p(paired_p(ours["accuracy"], adam["accuracy"])),
    ]  # fmt: skip


def _p(p: float | None) -> str:
    return "" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _mean(row: Row | None, measure: str = "accuracy") -> str:
    return "" if row is None else f"{statistics.mean(row[measure]):.1f}"


def _reaches(row: Row, adam: Row) -> str:
    """The first check at which the held-out accuracy is Adam's last."""
    return next((str(i) for i, a in enumerate(row["path"], 1) if a >= adam["path"][-1]), "never")


def _wins(ours: Row, adam: Row) -> int:
    return sum(a >= b for a, b in zip(ours["accuracy"], adam["accuracy"], strict=True))


def _goals(found: dict[Any, Row], scale: str, loss: str) -> str:
    """Counted over the data sets that have both."""
    pairs = [(found[d, "AdaSwarm"], found[d, "Adam"]) for d in NAMES
             if (d, "AdaSwarm") in found and (d, "Adam") in found]  # fmt: skip
    gaps = [round(_gap(*pair, "accuracy"), 6) for pair in pairs]
    ps = [paired_p(a["accuracy"], b["accuracy"]) for a, b in pairs]
    clear = [gap for gap, p in zip(gaps, ps, strict=True) if p is not None and p < 0.05]
    equal, near = sum(g >= 0 for g in gaps), sum(g >= -0.5 for g in gaps)
    better, worse = sum(g > 0 for g in clear), sum(g < 0 for g in clear)
    if loss == "mae" and scale == "raw":
        met, goal = equal == 15 and better >= 9, "at least as accurate on 15, better on 9"
    else:
        met, goal = near >= 13 and worse == 0, "within half a point on 13, none worse"
    return (f"AdaSwarm against Adam on {len(gaps)} sets: at least as accurate on {equal}, better "
            f"at p < 0.05 on {better}, within half a point or better on {near}, worse at p < 0.05 "
            f"on {worse}. Goal ({goal} at p < 0.05): {_word(met, len(gaps))}.")  # fmt: skip


def _word(met: bool, sets: int) -> str:
    return "open, not all sets have run" if sets < len(NAMES) else "yes" if met else "no"


def _gap(ours: Row, other: Row, measure: str) -> float:
    return statistics.mean(ours[measure]) - statistics.mean(other[measure])


def choices(rows: list[Row]) -> str:
    """Settings of the swarm on tuning rows: means over data sets and splits."""
    columns = [(scale, loss) for scale in ("raw", "standardised") for loss in LOSSES]
    heads = ["setting", *[f"{LOSSES[loss]}, {scale}" for scale, loss in columns]]
    body = []
    for method in CHOICES:
        cells = []
        for scale, loss in columns:
            found = _by(rows, "method", scale=scale, loss=loss)
            mine = [found[d, method] for d in CHOSEN_ON if (d, method) in found]
            whole = len(mine) == len(CHOSEN_ON)
            cells.append(f"{statistics.mean(statistics.mean(row['accuracy']) for row in mine):.1f}"
                         if whole else "")  # fmt: skip
        body.append([method, *cells])
    return table(heads, body)


# --- losses without a gradient -------------------------------------------------------------


def without_gradient(rows: list[Row]) -> str:
    """Accuracy, then macro-F1, one table each for each scale; the goals."""
    parts = []
    for scale in dict.fromkeys(row["task"]["scale"] for row in rows):
        found = _by(rows, "method", scale=scale)
        methods = list(dict.fromkeys(method for _, method in found))
        ce = methods[0] if methods[0].startswith("cross") else "cross-entropy, Adam"
        f1 = [m for m in methods if "F1" in m]
        other = [m for m in methods if m not in (ce, *f1)]
        parts.append(f"### Accuracy, {scale} inputs\n\n" + _values(found, [ce, *other], "accuracy"))
        parts.append("\n".join(_within(found, m, ce) for m in other))
        parts.append(f"### Macro-F1, {scale} inputs\n\n" + _values(found, [ce, *f1], "f1"))
        parts.append("\n".join(_f1(found, m, ce) for m in f1))
    return "\n\n".join(parts)


def _values(found: dict[Any, Row], methods: list[str], measure: str) -> str:
    sets = dict.fromkeys(data for data, _ in found)
    body = [[NAMES.get(d, d.upper()), *[_mean(found.get((d, m)), measure) for m in methods]]
            for d in sets]  # fmt: skip
    return table(["data set", *methods], body)


def _within(found: dict[Any, Row], method: str, ce: str) -> str:
    """How often a method is within 1 point of cross-entropy's accuracy."""
    gaps = [_gap(found[d, method], found[d, ce], "accuracy") for d in NAMES
            if (d, method) in found and (d, ce) in found]  # fmt: skip
    near = sum(round(gap, 6) >= -1 for gap in gaps)
    has_goal = "zero-one" in method and not method.endswith("Adam")
    met = f" Goal (15): {_word(near == 15, len(gaps))}." if has_goal else ""
    worst = f"{min(gaps):+.1f}" if gaps else "none"
    return (f"- {method}: within 1 point of cross-entropy or better on {near} of {len(gaps)}, at "
            f"worst {worst} points.{met}")  # fmt: skip


def _f1(found: dict[Any, Row], method: str, ce: str) -> str:
    """Above cross-entropy's F1 where classes are imbalanced, within 1 point elsewhere."""
    sets = [d for d, m in found if m == method and (d, ce) in found]
    gaps = {d: round(_gap(found[d, method], found[d, ce], "f1"), 6) for d in sets}
    above = [d for d in sets if d in IMBALANCED and gaps[d] > 0]
    others = [d for d in sets if d not in IMBALANCED]
    near = [d for d in others if gaps[d] >= -1]
    met = len(above) == len(IMBALANCED) and len(near) == len(NAMES) - 3
    return (f"- {method}: above cross-entropy's on {len(above)} of {len(IMBALANCED)} imbalanced "
            f"sets, within 1 point or better on {len(near)} of {len(others)} others. Goal (all): "
            f"{_word(met, len(set(sets) & set(NAMES)))}.")  # fmt: skip


# --- the page ------------------------------------------------------------------------------


def rows_of(folder: Path, name: str) -> list[Row]:
    path = folder / f"swarm-{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def setting(folder: Path) -> tuple[str, str]:
    """Steps and checks of the runs of the tables, as their rows say."""
    rows = rows_of(folder, "tables") or rows_of(folder, "values")
    steps = sorted({row["task"]["steps"] for row in rows})
    checks = sorted({len(row["path"]) for row in rows})
    words = [" or ".join(f"{n:,}" for n in found) or "?" for found in (steps, checks)]
    return words[0], words[1]


def targets(path: Path) -> Printed:
    """What the paper prints."""
    with path.open() as file:
        return {(r["table"], r["dataset"], r["metric"], r["method"]): r["value"]
                for r in csv.DictReader(file) if r["paper"] == "AdaSwarm"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=Path, required=True)
    parser.add_argument("--raw", type=Path, default=RAW, help="folder of the rows")
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    printed = targets(args.targets)
    text = (Path(__file__).parent / "swarm_page.md").read_text()
    parts: dict[str, tuple[str, Callable[[list[Row]], str]]] = {
        "emulation": ("functions", emulation),
        "supplement": ("functions", supplement),
        "quality": ("quality", swarm_quality.section),
        "accuracies": ("tables", lambda rows: accuracies(rows, printed)),
        "choices": ("choices", choices),
        "values": ("values", without_gradient),
        "unwrap": ("unwrap", swarm_unwrap.section),
        "cost": ("cost", swarm_cost.section),
    }
    made = {name: make(rows) if (rows := rows_of(args.raw, source)) else "Not run yet."
            for name, (source, make) in parts.items()}  # fmt: skip
    steps, checks = setting(args.raw)
    made |= {"steps": steps, "checks": checks, "batch": str(BATCH), "hidden": str(HIDDEN),
             "versions": f"Python {platform.python_version()}, torch {version('torch')}, "
                         f"scikit-learn {version('scikit-learn')}, {platform.machine()}, "
                         "2 cores"}  # fmt: skip
    for name, part in made.items():
        text = text.replace("{" + name + "}", part)
    args.out.write_text(text)


if __name__ == "__main__":
    main()
