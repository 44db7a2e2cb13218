"""MNIST with LeNet-5 (table 1) and the ORL faces (table 3) of the GADAM paper, as raw rows.

    python benchmarks/papers/gadam_images.py mnist --data-dir DIR --method gadam --steps 2000
    python benchmarks/papers/gadam_images.py orl --data-dir DIR [--jobs 2]

MNIST runs save to a run folder and go on from it when started again.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RAW, Task, pooled, score
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import nn

import gradevo as ge
from gradevo import datasets
from gradevo.models import FaceNet, LeNet5

IMAGES = (5, 7, 9)  # of ten a person, for training
SPLITS = 10
FACE_STEPS = 60  # a learning phase of the default
SIDE = 32  # faces are halved in height and width, so that ten splits take an hour


def mnist(args: argparse.Namespace) -> None:
    """One run of one method; the row is appended when it is done."""
    data = datasets.load(Path(args.data_dir) / "mnist", seed=0, valid_share=1 / 12)
    default = ge.GADAM(
        population=args.population, generations=args.generations, steps=args.steps, checks=5
    )
    algorithm: Any = default
    if args.method == "adam":
        total = default.phases * default.population * default.steps
        algorithm = ge.Independent(population=1, steps=total, checks=50)
    if args.method == "adam-best-of":
        algorithm = ge.Independent(
            population=args.population, steps=default.phases * default.steps, checks=20
        )
    start = time.perf_counter()
    result = ge.fit(
        algorithm, LeNet5, nn.CrossEntropyLoss(), data.train, valid=data.valid, seed=0,
        checkpoint=ge.Checkpoint(args.run, seconds=120),
    )  # fmt: skip
    row = {
        "task": {"data": "mnist", "method": args.method, "population": args.population,
                 "generations": args.generations, "steps": args.steps},
        "seconds": round(time.perf_counter() - start),
        **_scores(result, data.test),
    }  # fmt: skip
    _append(row, RAW / "gadam-mnist.jsonl")
    print(row, flush=True)


def _scores(result: ge.Result, test: Any) -> dict[str, Any]:
    networks = {"best": result.best, "ensemble": result.ensemble, "soup": result.soup}
    scores = {name: _score_in_parts(network, test) for name, network in networks.items()}
    return {**scores, "member_steps": result.member_steps, "engine": result.engine,
            "valid_loss": float(result.losses[0])}  # fmt: skip


def _score_in_parts(network: nn.Module, test: Any, size: int = 1000) -> dict[str, float]:
    parts = [score(network, part) for part in zip(test[0].split(size), test[1].split(size),
                                                  strict=True)]  # fmt: skip
    weights = [len(part) for part in test[1].split(size)]
    return {
        name: float(np.average([part[name] for part in parts], weights=weights))
        for name in ("loss", "accuracy")
    }


def faces(folder: Path, images: int, split: int) -> tuple[Any, Any, Any]:
    """Training, validation and test rows: `images` of ten pictures a person, drawn by split.

    One of the training pictures of each person is the validation row, so the test pictures
    touch nothing.
    """
    with np.load(folder / "orl" / "orl_faces.npz") as file:
        x = torch.from_numpy(file["images"]).float().unsqueeze(1)
        x = nn.functional.avg_pool2d(x, x.shape[-1] // SIDE)
        y = torch.from_numpy(file["labels"]).long()
    generator = torch.Generator().manual_seed(split)
    order = torch.stack([torch.randperm(10, generator=generator) + 10 * p for p in range(40)])
    train, valid, test = order[:, 1:images], order[:, :1], order[:, images:]
    x = (x - x[train.flatten()].mean()) / x[train.flatten()].std()
    return tuple((x[part.flatten()], y[part.flatten()]) for part in (train, valid, test))


def face_work(task: Task) -> Task:
    train, valid, test = faces(Path(task["dir"]), task["images"], task["split"])
    start = time.perf_counter()
    if task["method"] in CLASSICAL:
        x = torch.cat([train[0], valid[0]]).flatten(1).numpy()
        model = CLASSICAL[task["method"]]().fit(x, torch.cat([train[1], valid[1]]).numpy())
        accuracy = 100 * float(model.score(test[0].flatten(1).numpy(), test[1].numpy()))
        scores: dict[str, Any] = {"best": {"accuracy": accuracy}}
    else:
        result = ge.fit(
            _face_algorithm(task["method"]), lambda: FaceNet(side=SIDE), nn.CrossEntropyLoss(),
            train, valid=valid, seed=task["split"], engine="loop",
        )  # fmt: skip
        scores = _scores(result, test)
    seconds = round(time.perf_counter() - start, 1)
    return {"task": {k: v for k, v in task.items() if k != "dir"}, "seconds": seconds, **scores}


def _face_algorithm(method: str) -> Any:
    common: dict[str, Any] = {"batch_size": 20, "lr": 1e-3}
    default = ge.GADAM(population=4, generations=2, steps=FACE_STEPS, spread=1.0, **common)
    if method == "gadam":
        return default
    total = default.phases * FACE_STEPS
    if method == "adam":
        return ge.Independent(population=1, steps=4 * total, checks=24, **common)
    return ge.Independent(population=4, steps=total, checks=6, **common)


CLASSICAL = {
    "random-forest": lambda: RandomForestClassifier(n_estimators=500, random_state=0),
    "svm-rbf": lambda: SVC(),
    "knn-3": lambda: KNeighborsClassifier(3),
}


def orl(args: argparse.Namespace) -> None:
    methods = ["gadam", "adam", "adam-best-of", *CLASSICAL]
    tasks = [
        {"data": "orl", "images": n, "split": s, "method": m, "dir": args.data_dir}
        for s in range(args.splits) for n in IMAGES for m in methods
    ]  # fmt: skip
    for row in pooled(face_work, tasks, RAW / "gadam-orl.jsonl", args.jobs):
        print(row["task"], row["best"], row["seconds"], flush=True)


def _append(row: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("mnist", "orl"))
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--method", default="gadam")
    parser.add_argument("--population", type=int, default=5)
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--run", default="runs/mnist")
    args = parser.parse_args()
    (mnist if args.part == "mnist" else orl)(args)


if __name__ == "__main__":
    main()
