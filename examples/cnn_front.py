"""The whole trade-off between loss and sparsity of a small CNN, in one run.

    python examples/cnn_front.py

What to see: a front from networks with some seventy weights to denser ones, from one run. Beside
it gradual magnitude pruning, which takes as many gradient steps for *each* sparsity. Up to 90 %
the two are level; the sparser, the further the front is ahead, at a third of the steps. Then what a
picked network saves: its file shrinks with its weights, but its multiply-adds hardly do, since few
filters have become idle as a whole.

Networks of the front are picked on validation rows and measured on test rows, as pruned ones are.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import gradevo as ge
from gradevo import shrink
from gradevo.datasets import load

SPARSITIES = (0.9, 0.95, 0.98)
BATCH = 64
Rows = tuple[Tensor, Tensor]


def network() -> nn.Module:
    """Two convolutions and two linear layers for rows of 64 pixels, 8 x 8."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def accuracy(model: nn.Module, rows: Rows) -> float:
    with torch.no_grad():
        return float((model.eval()(rows[0]).argmax(1) == rows[1]).float().mean())


# --- the bar: magnitude pruning to one sparsity after another -------------------------------


def weights(model: nn.Module) -> list[tuple[nn.Module, str]]:
    layers = (part for part in model.modules() if isinstance(part, nn.Linear | nn.Conv2d))
    return [(layer, "weight") for layer in layers]


def pruned(sparsity: float, train: Rows, steps: int, seed: int) -> nn.Module:
    """Half of the steps dense, then the smallest weights go in five rounds, with learning between.

    Each round is a tenth of the steps.
    """
    torch.manual_seed(seed)
    model = network()
    learn(model, train, steps // 2, seed)
    for i in range(5):
        share = 1 - (1 - sparsity) ** 0.2  # of the weights that are left
        prune.global_unstructured(weights(model), prune.L1Unstructured, amount=share)
        learn(model, train, steps // 10, seed + 1 + i)
    return model


def learn(model: nn.Module, train: Rows, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = torch.randint(len(train[0]), (BATCH,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train[0][rows]), train[1][rows]).backward()
        optimizer.step()


# --- what a picked network is good for ------------------------------------------------------


def show_small(model: nn.Module, test: Rows) -> None:
    """Idle units removed, zeros left out of the file."""
    row = test[0][:1]
    small = shrink.compact(model, test[0][:8])
    with tempfile.TemporaryDirectory() as folder:
        dense, sparse = Path(folder) / "dense", Path(folder) / "sparse"
        shrink.save(network(), dense)
        shrink.save(model, sparse)
        sizes = dense.stat().st_size, sparse.stat().st_size
    before, after = shrink.flops(network(), row), shrink.flops(small, row)
    print(
        f"multiply-adds of a row {before:,} -> {after:,}; file {sizes[0]:,} -> {sizes[1]:,} bytes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="A front of sparse CNNs beside pruning.")
    parser.add_argument("--quick", action="store_true", help="one seed and fewer steps")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    seeds, generations, steps = (1, 20, 5) if quick else (2, 40, 50)
    algorithm = ge.GEMONN(population=30, generations=generations, steps=steps, batch_size=BATCH)
    fronts, ours, theirs = [], [], []
    start = time.perf_counter()
    for seed in range(seeds):
        data = load("digits", seed=seed)
        given = {"valid": data.valid, "seed": seed}
        front = ge.fit(algorithm, network, nn.CrossEntropyLoss(), data.train, **given)
        ours.append([accuracy(front.best(min_sparsity=s), data.test) for s in SPARSITIES])
        fronts.append(front)
    searched = time.perf_counter() - start
    for seed in range(seeds):
        data = load("digits", seed=seed)
        models = [pruned(s, data.train, algorithm.passes, seed) for s in SPARSITIES]
        theirs.append([accuracy(model, data.test) for model in models])
    took = time.perf_counter() - start - searched
    print(f"The front of seed 0, measured on its validation rows\n\n{fronts[0].table(most=8)}\n")
    print(f"Test accuracy of the network picked at each sparsity, means of {seeds} seed(s)\n")
    head = "".join(f"{s:>9.0%}" for s in SPARSITIES)
    print(f"{'':10}{head} {'gradient steps':>16} {'seconds':>9}")
    for name, found, runs, seconds in (
        ("GEMONN", ours, 1, searched), ("pruning", theirs, len(SPARSITIES), took)
    ):  # fmt: skip
        cells = "".join(f"{statistics.mean(column):9.1%}" for column in zip(*found, strict=True))
        cost = f"{runs * algorithm.passes:,}"
        print(f"{name:10}{cells} {cost:>16} {seconds / seeds:>9.0f}")
    print("\nThe network of seed 0 that is 95 % sparse: ", end="")
    show_small(fronts[0].best(min_sparsity=0.95), load("digits", seed=0).test)


if __name__ == "__main__":
    main()
