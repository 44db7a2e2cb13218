"""Table 4 of the GADAM paper and robustness against the learning rate, as raw rows.

    python benchmarks/papers/gadam_tables.py table4 --data-dir DIR [--jobs 2]
    python benchmarks/papers/gadam_tables.py robustness --data-dir DIR [--jobs 2]
    python benchmarks/papers/gadam_tables.py baselines --data-dir DIR [--jobs 2]

Every method costs the same number of member-steps. Rows are appended to
docs/results/raw/*.jsonl, one a run; `gadam_page.py` makes the page. A seed fixes split, start
and batches, so methods are paired.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from common import RAW, Task, load, network, pooled, run
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

import gradevo as ge

STEPS = 500  # a learning phase of the default; it has 5, with 10 members
ROBUST_STEPS = 300  # as STEPS
TABLE = {"yeast": 10, "letter": 10, "adult": 6}  # seeds
ROBUST = {"yeast": 5, "letter": 3, "adult": 3, "digits": 5}
RATES = (1e-4, 1e-3, 1e-2, 1e-1)


def algorithm(method: str, lr: float | None, steps: int) -> Any:
    """A method at the cost of GADAM's default with `steps` a learning phase."""
    rate = {} if lr is None else {"lr": lr}
    default = ge.GADAM(steps=steps, **rate)
    total = default.phases * steps  # steps of one run among g
    if method == "gadam":
        return default
    if method == "gadam-paper":
        paper = ge.GADAM.paper(generations=default.generations)
        return ge.GADAM.paper(generations=default.generations, steps=total // paper.phases)
    if method == "adam":
        return ge.Independent(population=1, steps=10 * total, checks=50, **rate)
    if method == "adam-best-of":
        return ge.Independent(steps=total, checks=50, **rate)
    if method == "adamw-mean":  # everything that the default has but evolution
        return ge.Independent(steps=total, checks=50, average=0.02, optimizer="AdamW", **rate)
    if method == "adam-random":
        return ge.Independent(steps=total, checks=50, spread=2.0, lr=10**-2.5)
    raise ValueError(f"method: unknown, got {method!r}")


def work(task: Task) -> Task:
    data = load(task["data"], Path(task["dir"]), task["seed"])
    if task["method"] in CLASSICAL:
        return {"task": strip(task), **classical(task["method"], data)}
    chosen = algorithm(task["method"], task.get("lr"), task["steps"])
    build = network(task["data"], data)
    return {"task": strip(task), **run(chosen, data, build, task["seed"], data.test)}


CLASSICAL = {
    "random-forest": lambda: RandomForestClassifier(n_estimators=500, random_state=0),
    "svm-rbf": lambda: SVC(),
    "knn-3": lambda: KNeighborsClassifier(3),
}


def classical(method: str, data: Any) -> dict[str, Any]:
    """A scikit-learn baseline on the same standardised training rows."""
    start = time.perf_counter()
    model = CLASSICAL[method]().fit(data.train[0].numpy(), data.train[1].numpy())
    x, y = (part.numpy() for part in data.test)
    score: dict[str, Any] = {"accuracy": 100 * float(model.score(x, y))}
    if hasattr(model, "predict_proba"):
        score["loss"] = float(log_loss(y, model.predict_proba(x), labels=range(len(data.classes))))
    return {"best": score, "seconds": round(time.perf_counter() - start, 2)}


def strip(task: Task) -> Task:
    """Without the place of the data, which is this machine's business."""
    return {key: value for key, value in task.items() if key != "dir"}


def table4() -> list[Task]:
    methods = [("gadam", None), ("gadam-paper", None), ("adam", 1e-3), ("adam-best-of", 1e-3),
               ("adam-best-of", 1e-2), ("adamw-mean", 1e-2)]  # fmt: skip
    return [
        {"data": d, "seed": s, "method": m, "lr": lr, "steps": STEPS}
        for s in range(10) for d, seeds in TABLE.items() if s < seeds for m, lr in methods
    ]  # fmt: skip


def robustness() -> list[Task]:
    methods = [(m, lr) for lr in RATES for m in ("gadam", "adam-best-of")]
    methods.append(("adam-random", None))  # rates drawn over the range of RATES
    return [
        {"data": d, "seed": s, "method": m, "lr": lr, "steps": ROBUST_STEPS}
        for s in range(5) for d, seeds in ROBUST.items() if s < seeds for m, lr in methods
    ]  # fmt: skip


def baselines() -> list[Task]:
    return [
        {"data": d, "seed": s, "method": m}
        for s in range(10) for d, seeds in TABLE.items() if s < seeds for m in CLASSICAL
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("table4", "robustness", "baselines"))
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RAW)
    args = parser.parse_args()
    tasks = {"table4": table4, "robustness": robustness, "baselines": baselines}[args.part]()
    tasks = [{**task, "dir": args.data_dir} for task in tasks]
    for row in pooled(work, tasks, args.out / f"gadam-{args.part}.jsonl", args.jobs):
        print(row["task"], row["best"], row["seconds"], flush=True)


if __name__ == "__main__":
    main()
