"""A population against Adam at equal cost, on digits of 8 x 8 pixels.

    python examples/digits.py [--plot digits.png]

What to see: the table has a column for each learning rate that training starts from. One Adam run
is as good as any at the two rates in the middle, and simpler: ten times as many steps in one
place. The population, whose rates evolve, is nearly the same from all four, so its worst column is
the best. Ten short Adam runs have too few steps where the rate is low. All methods of a column
take the same number of gradient steps, keep their best weights on the same validation rows, and
are measured on the same test rows, which nothing is chosen by.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import gradevo as ge
from gradevo.datasets import load
from gradevo.models import mlp

RATES = (1e-4, 1e-3, 1e-2, 1e-1)
MEMBERS = 10


def methods(steps: int, lr: float) -> dict[str, ge.GADAM | ge.Independent]:
    """Algorithms that all cost as much as a population with so many steps a phase."""
    population = ge.GADAM(population=MEMBERS, steps=steps, lr=lr)
    alone = population.phases * steps
    return {
        "one Adam run": ge.Independent(population=1, steps=MEMBERS * alone, lr=lr),
        "best of 10 Adam runs": ge.Independent(population=MEMBERS, steps=alone, lr=lr),
        "GADAM, its best member": population,
    }


def accuracy(network: nn.Module, rows: tuple[Tensor, Tensor]) -> float:
    x, y = rows
    with torch.no_grad():
        return float((network(x).argmax(1) == y).float().mean())


def run(steps: int, seeds: range, rates: tuple[float, ...]) -> dict[str, list[float]]:
    """Mean test accuracy of every method at every rate."""
    found: dict[str, list[float]] = {}
    for lr in rates:
        scores: dict[str, list[float]] = {}
        for seed in seeds:
            data = load("digits", seed=seed)
            for name, algorithm in methods(steps, lr).items():
                given = {"valid": data.valid, "seed": seed}
                result = ge.fit(
                    algorithm, mlp(64, 64, 10), nn.CrossEntropyLoss(), data.train, **given
                )
                scores.setdefault(name, []).append(accuracy(result.best, data.test))
                if name.startswith("GADAM"):
                    averaged = accuracy(result.ensemble, data.test)
                    scores.setdefault("GADAM, ensemble of all", []).append(averaged)
        for name, values in scores.items():
            found.setdefault(name, []).append(statistics.mean(values))
    return found


def plot(found: dict[str, list[float]], rates: tuple[float, ...], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, values in found.items():
        axis.plot(rates, [100 * value for value in values], marker="o", label=name)
    axis.set(xscale="log", xlabel="learning rate at the start", ylabel="test accuracy, %")
    axis.legend()
    figure.savefig(path, dpi=120)
    print(f"Figure: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description="A population against Adam.")
    parser.add_argument("--quick", action="store_true", help="one seed, two rates, fewer steps")
    parser.add_argument("--plot", type=Path, help="draw the table into this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps, seeds, rates = (10, range(1), RATES[::2]) if args.quick else (40, range(3), RATES)
    cost = MEMBERS * steps * ge.GADAM(steps=steps).phases
    print(f"Test accuracy, {cost:,} gradient steps a run, means of {len(seeds)} seed(s)\n")
    start = time.perf_counter()
    found = run(steps, seeds, rates)
    print(f"{'start rate':24}" + "".join(f"{lr:>9g}" for lr in rates) + "    worst")
    for name, values in found.items():
        cells = "".join(f"{value:9.1%}" for value in [*values, min(values)])
        print(f"{name:24}{cells}")
    print(f"\n{time.perf_counter() - start:.0f} seconds")
    if args.plot is not None:
        plot(found, rates, args.plot)


if __name__ == "__main__":
    main()
