"""Which setting is the default: variants compared on rows that are neither validation nor test.

    python benchmarks/papers/tune.py --data-dir DIR [--seeds 3] [--variants "default,decay 1"]

Test rows are set aside and never looked at. Of the training rows a quarter is held out as
tuning rows; validation rows do what they do in a run (early stopping, survival).
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import RAW, Task, load, network, pooled, run

import gradevo as ge

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no running mean": {"average": 0.0},
    "no mean and one check": {"average": 0.0, "checks": 1},
    "decay 0.01": {"weight_decay": 0.01},
    "decay 1": {"weight_decay": 1.0},
    "spread 1": {"spread": 1.0},
    "spread 4": {"spread": 4.0},
    "perturb 0.25": {"perturb": 0.25},
    "rate falls by 0.8": {"rate_decay": 0.8},
    "2 generations": {"generations": 2},
    "9 generations": {"generations": 9},
    "copies only": {"crossover_rate": 0.0},
    "always crossover": {"crossover_rate": 1.0},
    "no alignment": {"align": False},
    "uniform crossover": {"crossover": "uniform"},
    "no mutation": {"mutation_rate": 0.0},
    "no back-off": {"backoff": False},
    "parents learn too": {"learners": "both"},
    "nothing evolves": {"evolve": ()},
    "cosine": {"schedule": "cosine"},
    "one check": {"checks": 1},
    "long mean": {"average": 0.3},
    "fresh 128 validation rows": {"validation_batch": 128},
}
BASELINES: dict[str, dict[str, Any]] = {
    "Adam 1e-3": {"lr": 1e-3},
    "Adam 1e-2": {"lr": 1e-2},
    "Adam at random rates": {"lr": 10**-2.5, "spread": 2.0},
    "AdamW 1e-2 with mean": {"lr": 1e-2, "optimizer": "AdamW", "average": 0.02},
}


def algorithm(task: Task) -> Any:
    """A variant at the common cost."""
    if task["variant"] in BASELINES:
        setting = {"population": 10, "checks": 25, **BASELINES[task["variant"]]}
        return ge.Independent(steps=5 * task["steps"], **setting)
    changes = {"lr": task["lr"], **VARIANTS[task["variant"]]}
    chosen = ge.GADAM(**changes)
    return replace(chosen, steps=5 * task["steps"] // chosen.phases)


def work(task: Task) -> Task:
    data = load(task["data"], Path(task["dir"]), task["seed"])
    x, y = data.train
    held = len(x) // 4  # rows are in random order
    reduced = replace(data, train=(x[held:], y[held:]))
    outcome = run(
        algorithm(task), reduced, network(task["data"], data), task["seed"], (x[:held], y[:held])
    )
    return {"task": {k: v for k, v in task.items() if k != "dir"}, **outcome}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", type=Path, default=RAW / "gadam-tuning.jsonl")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--steps", type=int, default=300, help="a phase; a run costs 50 times it")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--data", default="yeast,letter,adult")
    parser.add_argument("--variants", default=",".join([*VARIANTS, *BASELINES]))
    args = parser.parse_args()
    names, sets = args.variants.split(","), args.data.split(",")
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    tasks = [
        {"variant": v, "data": d, "seed": s, "lr": args.lr, "steps": args.steps,
         "dir": args.data_dir}
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
