"""Writes docs/results/gadam.md from the raw rows that the other scripts left.

python benchmarks/papers/gadam_page.py --targets shared/papers/targets.csv
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

from common import RAW
from gadam_tables import RATES
from tune import BASELINES, VARIANTS

from gradevo.compare import paired_p

PAGE = RAW.parent / "gadam.md"
Row = dict[str, Any]
NAMES = {
    "gadam": "**GADAM, default**",
    "gadam-paper": "GADAM, paper setting",
    "adam": "one Adam run, rate 1e-3",
    "adam-best-of 0.001": "best of 10 Adam, rate 1e-3",
    "adam-best-of 0.01": "best of 10 Adam, rate 1e-2",
    "adamw-mean": "best of 10 AdamW 1e-2, decay 0.3, running mean",
    "random-forest": "random forest (500 trees)",
    "svm-rbf": "SVM (rbf)",
    "knn-3": "kNN (k=3)",
}
PRINTED = {
    "gadam": "MLP (GADAM)", "gadam-paper": "MLP (GADAM)", "adam": "MLP (Adam)",
    "random-forest": "Random Forest", "svm-rbf": "SVM (rbf)", "knn-3": "kNN (k=3)",
}  # fmt: skip


def rows_of(name: str) -> list[Row]:
    path = RAW / f"gadam-{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def values(rows: list[Row], pick: str, measure: str) -> dict[int, float]:
    """Seed to value."""
    seeds = {row["task"].get("seed", row["task"].get("split")): row for row in rows}
    return {seed: row[pick][measure] for seed, row in sorted(seeds.items()) if measure in row[pick]}


def cell(found: dict[int, float], digits: int) -> str:
    if not found:
        return ""
    numbers = list(found.values())
    if len(numbers) == 1:
        return f"{numbers[0]:.{digits}f}"
    deviation = statistics.stdev(numbers)
    return f"{statistics.mean(numbers):.{digits}f} ± {deviation:.{digits}f}"


def against(mine: dict[int, float], reference: dict[int, float]) -> str:
    """Paired Wilcoxon p-value over the seeds that both have."""
    seeds = [seed for seed in mine if seed in reference]
    p = paired_p([mine[s] for s in seeds], [reference[s] for s in seeds])
    return "" if p is None else f"{p:.3f}"


# --- table 4 -------------------------------------------------------------------------------


def label(task: Row) -> str:
    return f"{task['method']} {task['lr']}" if task["method"] == "adam-best-of" else task["method"]


def table4(targets: Path) -> str:
    rows = rows_of("table4") + rows_of("baselines")
    with targets.open() as file:
        printed = {(r["dataset"], r["method"]): r["value"] for r in csv.DictReader(file)
                   if r["paper"] == "GADAM" and r["table"] == "4"}  # fmt: skip
    parts = []
    for data in ("yeast", "adult", "letter"):
        mine = [row for row in rows if row["task"]["data"] == data]
        groups = {name: [r for r in mine if label(r["task"]) == name] for name in NAMES}
        best = groups["gadam"]
        entries = [(NAMES[n], n, g, "best") for n, g in groups.items() if g]
        entries.append(("ensemble of 10 Adam, rate 1e-3", "", groups["adam-best-of 0.001"],
                        "ensemble"))  # fmt: skip
        entries.append(("ensemble of 10 Adam, rate 1e-2", "", groups["adam-best-of 0.01"],
                        "ensemble"))  # fmt: skip
        entries.append(("GADAM, default: ensemble", "", best, "ensemble"))
        entries.append(("GADAM, default: soup", "", best, "soup"))
        body = [_line(*entry, best, printed.get((data.upper(), PRINTED.get(entry[1], "")), ""))
                for entry in entries]  # fmt: skip
        head = ["method", "accuracy %", "p", "loss", "p", "member-steps", "s", "paper's accuracy"]
        parts.append(f"### {data.upper()}, {len(best)} seeds\n\n{table(head, body)}")
    return "\n\n".join(parts)


def _line(
    name: str, method: str, rows: list[Row], pick: str, best: list[Row], printed: str
) -> list[str]:
    accuracy, loss = values(rows, pick, "accuracy"), values(rows, pick, "loss")
    same = rows is best and pick == "best"
    ours = values(best, "best", "accuracy"), values(best, "best", "loss")
    steps = f"{rows[0]['member_steps']:,}" if "member_steps" in rows[0] else ""
    seconds = f"{statistics.mean(row['seconds'] for row in rows):.1f}"
    ps = ["", ""] if same else [against(accuracy, ours[0]), against(loss, ours[1])]
    return [name, cell(accuracy, 2), ps[0], cell(loss, 4), ps[1], steps, seconds, printed]


# --- robustness ----------------------------------------------------------------------------


def robustness() -> str:
    rows = rows_of("robustness")
    parts = []
    for data in dict.fromkeys(row["task"]["data"] for row in rows):
        mine = [row for row in rows if row["task"]["data"] == data]
        body = [_rate(mine, lr) for lr in RATES]
        random = [row for row in mine if row["task"]["method"] == "adam-random"]
        body.append(["rates drawn from 1e-4 to 1e-1", "", "", *_both(random)])
        head = ["start rate", "default: accuracy %", "loss", "best of 10 Adam: accuracy %", "loss"]
        parts.append(f"### {data.upper()}, {len(random)} seeds\n\n{table(head, body)}\n\n"
                     + _verdict(mine, random))  # fmt: skip
    return "\n\n".join(parts)


def _rate(rows: list[Row], lr: float) -> list[str]:
    at = [row for row in rows if row["task"]["lr"] == lr]
    ours = [row for row in at if row["task"]["method"] == "gadam"]
    adam = [row for row in at if row["task"]["method"] == "adam-best-of"]
    return [f"{lr:g}", *_both(ours), *_both(adam)]


def _both(rows: list[Row]) -> list[str]:
    return [cell(values(rows, "best", "accuracy"), 2), cell(values(rows, "best", "loss"), 4)]


def _verdict(rows: list[Row], random: list[Row]) -> str:
    """The two goals, in numbers."""

    def mean(chosen: list[Row]) -> float:
        return statistics.mean(row["best"]["accuracy"] for row in chosen)

    def at(method: str, lr: float) -> list[Row]:
        return [r for r in rows if r["task"]["method"] == method and r["task"]["lr"] == lr]

    ours = {lr: mean(at("gadam", lr)) for lr in RATES}
    fixed = max(mean(at("adam-best-of", lr)) for lr in RATES)
    worst = min(ours, key=lambda lr: ours[lr])
    return (
        f"Best fixed rate {fixed:.2f} %; the default's worst start, {worst:g}, is "
        f"{ours[worst] - fixed:+.2f} points from it (goal: not below -1). Ten random rates "
        f"{mean(random):.2f} %; the default from 1e-2 is {ours[1e-2] - mean(random):+.2f} points "
        "from it (goal: not below 0)."
    )


# --- the rest ------------------------------------------------------------------------------


def tuning() -> str:
    rows = rows_of("tuning")
    seeds = {row["task"]["seed"] for row in rows}
    return f"At most {len(seeds)} seeds.\n\n{_variants(rows)}"


def _variants(rows: list[Row]) -> str:
    done = {row["task"]["variant"] for row in rows}
    names = [name for name in (*VARIANTS, *BASELINES) if name in done]
    sets = list(dict.fromkeys(row["task"]["data"] for row in rows))
    body = []
    for name in names:
        mine = {d: [r for r in rows if r["task"]["variant"] == name and r["task"]["data"] == d]
                for d in sets}  # fmt: skip
        body.append([name, *[c for d in sets for c in reversed(_both(mine[d]))]])
    head = ["variant", *[f"{d}: {m}" for d in sets for m in ("loss", "accuracy %")]]
    return table(head, body)


def yeast() -> str:
    """Ways to choose less on few validation rows, by start rate."""
    rows = rows_of("yeast")
    rates = sorted({row["task"]["lr"] for row in rows})
    body = []
    for name in dict.fromkeys(row["task"]["variant"] for row in rows):
        mine = [row for row in rows if row["task"]["variant"] == name]
        at = [[row for row in mine if row["task"]["lr"] == lr] for lr in rates]
        body.append([name, *[c for found in at for c in reversed(_both(found))]])
    head = ["variant", *[f"{lr:g}: {m}" for lr in rates for m in ("loss", "accuracy %")]]
    return table(head, body)


def surface() -> str:
    body = [[r["method"], f"{r['reached']} of {r['of']}", f"{r['mean_value']:.3f}",
             f"{r['member_steps']:,}"] for r in rows_of("surface")]  # fmt: skip
    return table(["method", "reach the global minimum", "mean value", "member-steps"], body)


def mnist() -> str:
    body = [[r["task"]["method"], pick, f"{r[pick]['accuracy']:.2f}", f"{r[pick]['loss']:.4f}",
             f"{r['member_steps']:,}", f"{r['seconds']:,}"]
            for r in rows_of("mnist") for pick in ("best", "ensemble", "soup")]  # fmt: skip
    body.append(["paper: GADAM", "", "99.37", "0.0396", "800,000 or more", ""])
    body.append(["paper: Adam", "", "99.18", "0.0662", "80,000", ""])
    return table(["method", "network", "accuracy %", "loss", "member-steps", "s"], body)


def orl(targets: Path) -> str:
    """Accuracy by pictures a person, the paper's figures below."""
    rows = rows_of("orl")
    body = []
    for method in dict.fromkeys(row["task"]["method"] for row in rows):
        cells = [
            cell(values([r for r in rows if r["task"]["method"] == method
                         and r["task"]["images"] == n], "best", "accuracy"), 2)
            for n in (5, 7, 9)
        ]  # fmt: skip
        body.append([NAMES.get(method, method), *cells])
    with targets.open() as file:
        printed = [
            r for r in csv.DictReader(file) if r["paper"] == "GADAM" and r["dataset"] == "ORL"
        ]
    for method in dict.fromkeys(r["method"] for r in printed):
        numbers = {r["table"][3]: r["value"] for r in printed if r["method"] == method}
        body.append([f"paper: {method}", *[numbers.get(str(n), "") for n in (5, 7, 9)]])
    return table(["method", "5 images", "7 images", "9 images"], body)


def section(name: str, make: Callable[[], str]) -> str:
    """A part, or the plain statement that it has not been run."""
    return make() if rows_of(name) else "Not run yet."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=Path, required=True)
    args = parser.parse_args()
    template = (Path(__file__).parent / "gadam_page.md").read_text()
    parts = {
        "versions": f"Python {platform.python_version()}, torch {version('torch')}, scikit-learn "
                    f"{version('scikit-learn')}, {platform.machine()}, 2 cores",
        "table4": section("table4", lambda: table4(args.targets)),
        "robustness": section("robustness", robustness),
        "tuning": section("tuning", tuning),
        "yeast": section("yeast", yeast),
        "surface": section("surface", surface),
        "settings": section("settings", lambda: "![settings](figures/gadam-settings.png)"),
        "mnist": section("mnist", mnist),
        "orl": section("orl", lambda: orl(args.targets)),
    }  # fmt: skip
    for name, text in parts.items():
        template = template.replace("{" + name + "}", text)
    PAGE.write_text(template)


if __name__ == "__main__":
    main()
