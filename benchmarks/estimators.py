"""Every check that scikit-learn has, of the estimators as their constructors make them.

OMP_NUM_THREADS=1 SCIPY_ARRAY_API=1 python benchmarks/estimators.py
"""

import json
import platform
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import make_classification
from sklearn.utils.estimator_checks import check_estimator

from gradevo.sklearn import (
    AdaSwarmClassifier,
    GADAMClassifier,
    GADAMRegressor,
    GEMONNClassifier,
)

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PAGE, RAW = RESULTS / "sklearn.md", RESULTS / "raw" / "sklearn.jsonl"
ESTIMATORS = (GADAMClassifier, GADAMRegressor, AdaSwarmClassifier, GEMONNClassifier)
ROWS, COLUMNS, TIMES = 1000, 20, 3
Row = dict[str, Any]
TEXT = """# scikit-learn's checks of the estimators

`sklearn.utils.estimator_checks.check_estimator` on each estimator of `gradevo.sklearn` with its
default constructor, no check expected to fail: {passed} of {total} passed, {failed} failed,
{skipped} were skipped. A number is the seconds of a check, all its variants together, of which
there are as many as it says. {versions}, one thread.

Command: `OMP_NUM_THREADS=1 SCIPY_ARRAY_API=1 python benchmarks/estimators.py`. Without that
variable scikit-learn skips its check of array API input. The raw rows are in
[raw/sklearn.jsonl](raw/sklearn.jsonl).

## A default fit

Seconds of processor time of `fit` on {rows:,} rows of {columns} columns (`make_classification`, the
regressor on the same labels as numbers), least and most of {times} runs.

{fits}

## The checks

{checks}
"""


def checked(estimator: Any) -> Iterator[Row]:
    """A row a check: its status and seconds."""
    found: list[Row] = []
    began = time.perf_counter()

    def note(check_name: str, status: str, **_: Any) -> None:
        nonlocal began
        seconds = round(time.perf_counter() - began, 3)
        found.append({"check": check_name, "status": status, "seconds": seconds})
        began = time.perf_counter()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(estimator, on_fail=None, on_skip=None, callback=note)
    yield from found


def fits(kind: Any) -> Iterator[Row]:
    """Seconds of default fits, of processor time."""
    x, y = make_classification(ROWS, COLUMNS, n_informative=8, random_state=0)
    for seed in range(TIMES):
        began = time.process_time()
        kind(random_state=seed).fit(x, y)
        yield {"fit": seed, "seconds": round(time.process_time() - began, 3)}


def cell(rows: list[Row]) -> str:
    """All variants of a check of one estimator."""
    if not rows:
        return ""
    many = f" x{len(rows)}" if len(rows) > 1 else ""
    seconds = sum(row["seconds"] for row in rows)
    return f"{'/'.join(sorted({row['status'] for row in rows}))}{many}, {seconds:.2f}"


def timed(rows: list[Row]) -> str:
    seconds = [row["seconds"] for row in rows if "fit" in row]
    return f"{min(seconds):.1f} to {max(seconds):.1f}"


def table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def versions() -> str:
    names = ("scikit-learn", "torch", "numpy", "pandas")
    return f"Python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in names)


def page(rows: list[Row], versions: str) -> str:
    every = {k.__name__: [r for r in rows if r["estimator"] == k.__name__] for k in ESTIMATORS}
    names = sorted({row["check"] for row in rows if "check" in row})
    states = [row["status"] for row in rows if "check" in row]
    body = [
        [name, *(cell([r for r in own if r.get("check") == name]) for own in every.values())]
        for name in names
    ]
    return TEXT.format(
        **{status: states.count(status) for status in ("passed", "failed", "skipped")},
        total=len(states), versions=versions, rows=ROWS, columns=COLUMNS, times=TIMES,
        fits=table(["", "seconds"], [[f"`{name}()`", timed(own)] for name, own in every.items()]),
        checks=table(["check", *every], body),
    )  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    rows = [
        {"estimator": kind.__name__, **row}
        for kind in ESTIMATORS
        for row in (*fits(kind), *checked(kind()))
    ]
    RAW.write_text("".join(json.dumps(row) + "\n" for row in rows))
    PAGE.write_text(page(rows, versions()))


if __name__ == "__main__":
    main()
