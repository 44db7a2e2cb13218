"""Which setting is the default: variants compared on rows that are neither validation nor test.

    python benchmarks/papers/tune.py --data-dir DIR --out FILE [--seeds 3] [--variants a,b]

Test rows are set aside and never looked at. Of the training rows a quarter is held out as
tuning rows; validation rows do what they do in a run (early stopping, survival).
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import Task, load, network, pooled, run

import gradevo as ge

STEPS = 500  # a learning phase; a run costs 10 x 5 x STEPS member-steps whatever the variant
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "checks5": {"checks": 5},
    "cosine": {"schedule": "cosine"},
    "cosine-checks5": {"schedule": "cosine", "checks": 5},
    "linear-checks5": {"schedule": "linear", "checks": 5},
    "no-mutation": {"mutation_rate": 0.0},
    "generations2": {"generations": 2},
    "generations9": {"generations": 9},
    "clones": {"crossover_rate": 0.0},
    "always-crossover": {"crossover_rate": 1.0},
    "no-align": {"align": False},
    "uniform": {"crossover": "uniform"},
    "paper-learners": {"learners": "both"},
    "no-evolve": {"evolve": (), "spread": 0.0},
    "decay1": {"rate_decay": 1.0},
    "decay.5": {"rate_decay": 0.5},
    "spread1": {"spread": 1.0},
}
BASELINES: dict[str, dict[str, Any]] = {
    "adam-1e-3": {"lr": 1e-3},
    "adam-1e-2": {"lr": 1e-2},
    "adam-random": {"lr": 1e-2, "spread": 2.0},
    "adamw-random": {"lr": 1e-2, "spread": 2.0, "optimizer": "AdamW", "weight_decay": 1e-2},
    "adamw-cosine": {"lr": 1e-2, "optimizer": "AdamW", "weight_decay": 1e-2, "schedule": "cosine"},
}


def algorithm(task: Task) -> Any:
    """A variant at the common cost."""
    if task["variant"] in BASELINES:
        setting = {"population": 10, "checks": 25, **BASELINES[task["variant"]]}
        return ge.Independent(steps=5 * STEPS, **setting)
    changes = {"lr": task["lr"], **VARIANTS[task["variant"]]}
    chosen = ge.GADAM(steps=STEPS, **changes)
    return replace(chosen, steps=5 * STEPS // chosen.phases)


def work(task: Task) -> Task:
    data = load(task["data"], Path(task["dir"]), task["seed"])
    x, y = data.train
    held = len(x) // 4  # rows are in random order
    reduced = replace(data, train=(x[held:], y[held:]))
    outcome = run(
        algorithm(task), reduced, network(task["data"], data), task["seed"], (x[:held], y[:held])
    )
    return {"task": task, **outcome}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--data", default="yeast,letter,adult")
    parser.add_argument("--variants", default=",".join([*VARIANTS, *BASELINES]))
    args = parser.parse_args()
    names, sets = args.variants.split(","), args.data.split(",")
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    tasks = [
        {"variant": v, "data": d, "seed": s, "lr": args.lr, "dir": args.data_dir}
        for s in seeds for d in sets for v in names
    ]  # fmt: skip
    rows = list(pooled(work, tasks, args.out, args.jobs))
    print(f"{'variant':20}", *[f"{d + ' loss, accuracy':>28}" for d in sets])
    for name in names:
        cells = []
        for d in sets:
            mine = [r for r in rows if r["task"]["variant"] == name and r["task"]["data"] == d]
            means = [statistics.mean(r["best"][m] for r in mine) for m in ("loss", "accuracy")]
            soup = statistics.mean(r["soup"]["loss"] for r in mine)
            cells.append(f"{means[0]:.4f} {means[1]:.2f} soup {soup:.4f}")
        print(f"{name:20}", *[f"{cell:>28}" for cell in cells], flush=True)


if __name__ == "__main__":
    main()
