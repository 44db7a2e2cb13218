"""Settings of GEMONN's default compared on training rows alone, as raw rows.

    python benchmarks/papers/gemonn_tuning.py --data-dir DIR [--networks letter,autoencoder]

Of the training rows a part is held out to score on; validation rows play the usual part, and test
rows are not touched. LETTER's perceptron with 10,000 steps, the tied auto-encoder with 7,500.
Rows go to docs/results/raw/gemonn-tuning.jsonl; a row that is there is not run again.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gemonn_autoencoder
import gemonn_networks
import torch
from common import RAW, Task, pooled
from torch import Tensor, nn

import gradevo as ge
from gradevo import datasets
from gradevo.autoencoder import TiedAutoencoder
from gradevo.models import mlp

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "dense 0.07": {"dense": 0.07},
    "dense 0.3": {"dense": 0.3},
    "climb 0": {"climb": 0.0},
    "climb 0.25": {"climb": 0.25},
    "no crossing of neighbours": {"blend": False},
    "no running mean": {"average": 0.0},
    "same rate at every density": {"rate_power": 0.0},
    "rate 1e-3": {"lr": 1e-3},
    "rate 1e-2": {"lr": 1e-2},
}
PASSES = {"letter": 10_000, "autoencoder": 7_500}


def letter(folder: Path, seed: int, algorithm: ge.GEMONN) -> float:
    """Hypervolume of density and error on held-out rows."""
    data = datasets.load(folder / "tabular" / "letter.csv", seed=seed)
    cut = len(data.train[0]) - len(data.valid[0])
    train, held = ((data.train[0][part], data.train[1][part])
                   for part in (slice(cut), slice(cut, None)))  # fmt: skip
    front = ge.fit(algorithm, mlp(16, 70, 50, 26), nn.CrossEntropyLoss(), train,
                   valid=data.valid, seed=seed, engine="loop")  # fmt: skip
    members = map(front.members.member, range(len(front)))
    found = [vars(gemonn_networks.measured(one, data.valid, held)) for one in members]
    return gemonn_networks.hypervolume(found)


def autoencoder(folder: Path, seed: int, algorithm: ge.GEMONN) -> float:
    """Hypervolume of density and squared error on held-out training images."""
    whole: Tensor = gemonn_autoencoder.images(folder / "mnist")[0]
    train, valid, held = whole[:38_000], whole[38_000:40_000], whole[40_000:]
    front = ge.fit(algorithm, TiedAutoencoder, nn.MSELoss(), (train, train),
                   valid=(valid, valid), seed=seed, engine="loop")  # fmt: skip
    members = map(front.members.member, range(len(front)))
    points = [(float((one.weight != 0).double().mean()), gemonn_autoencoder.score(one, held))
              for one in members]  # fmt: skip
    return gemonn_autoencoder.hypervolume(points)


NETWORKS = {"letter": letter, "autoencoder": autoencoder}


def work(task: Task) -> Task:
    torch.set_num_threads(1)
    name, start = task["network"], time.perf_counter()
    algorithm = ge.GEMONN(generations=PASSES[name] // 50, **SETTINGS[task["setting"]])
    volume = NETWORKS[name](Path(task["dir"]), task["seed"], algorithm)
    plain = {k: v for k, v in task.items() if k != "dir"}
    return {"task": plain, "hypervolume": volume, "seconds": round(time.perf_counter() - start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="folder with mnist/ and tabular/")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--settings", help="names separated by semicolons; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RAW / "gemonn-tuning.jsonl")
    args = parser.parse_args()
    settings = args.settings.split(";") if args.settings else SETTINGS
    tasks = [
        {"network": network, "setting": setting, "seed": seed, "dir": args.data_dir}
        for network in args.networks.split(",") for seed in range(args.seeds)
        for setting in settings
    ]  # fmt: skip
    for row in pooled(work, tasks, args.out, args.jobs):
        task = row["task"]
        print(f"{task['network']:12} {task['setting']:28} {task['seed']} "
              f"{row['hypervolume']:.4f} {row['seconds']} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
