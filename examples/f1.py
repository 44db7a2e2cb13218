"""Training on F1 itself, which has no gradient, where one class in twenty-five is rare.

    python examples/f1.py

What to see: cross-entropy has a low F1, since it learns how likely the classes are, not where to
draw the line, and one half is no good line; weighting the classes draws it too generously. A swarm
around the outputs trains on 1 - F1 of each batch as it is, and draws the line where F1 is highest.

The bar beside it is cheap: train on cross-entropy, then take the threshold with the highest F1 on
validation rows. With one rare class that is as good. Train on F1 where no threshold is at hand.

The width of the swarm (0.2) was chosen on validation rows of seeds 0 to 3; the table has others.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.preprocessing import scale
from torch import Tensor, nn
from torch.nn import functional

import gradevo as ge

Rows = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
COLUMNS = 20
HALF = 0.5


def data(seed: int, rows: int) -> tuple[Rows, Rows, Rows]:
    """Training, validation and test rows; about 4 % are of the rare class."""
    x, y = make_classification(
        n_samples=rows, n_features=COLUMNS, n_informative=6, n_redundant=2, weights=[0.97],
        flip_y=0.02, class_sep=0.8, random_state=seed,
    )  # fmt: skip
    x, y = torch.tensor(scale(x)).float(), torch.tensor(y)
    first, second = rows // 2, rows * 3 // 4
    return (x[:first], y[:first]), (x[first:second], y[first:second]), (x[second:], y[second:])


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(COLUMNS, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())


def missed_f1(output: Tensor, y: Tensor) -> Tensor:
    """1 - F1 of the rare class over the batch, a number."""
    found, true = output.squeeze(-1) > HALF, y == 1
    hits = (found & true).sum()
    return 1 - 2 * hits / (found.sum() + true.sum()).clamp(min=1)


def cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy(output.squeeze(-1), y.float())


def weighted(train: Rows) -> Loss:
    """Cross-entropy in which both classes count as much."""
    rare = train[1].float().mean()

    def loss(output: Tensor, y: Tensor) -> Tensor:
        weight = torch.where(y == 1, 0.5 / rare, 0.5 / (1 - rare))
        return functional.binary_cross_entropy(output.squeeze(-1), y.float(), weight)

    return loss


def f1(model: nn.Module, rows: Rows, threshold: float = HALF) -> float:
    with torch.no_grad():
        return 1 - float(missed_f1(model(rows[0]) - threshold + HALF, rows[1]))


def best_threshold(model: nn.Module, valid: Rows) -> float:
    """The one with the highest F1 on validation rows."""
    return float(max(np.linspace(0.05, 0.95, 91), key=lambda t: f1(model, valid, t)))


def compare(seed: int, rows: int, steps: int) -> dict[str, float]:
    """Test F1 of every way of training, on the same rows and from the same start."""
    train, valid, test = data(seed, rows)
    adam = ge.Independent(population=1, steps=steps, batch_size=512, lr=1e-2)
    swarm = ge.AdaSwarm(
        steps=steps, batch_size=512, lr=1e-2, scope="batch", bounds=(0.0, 1.0), spread=0.2
    )

    def fitted(algorithm: ge.Independent | ge.AdaSwarm, loss: Loss) -> nn.Module:
        return ge.fit(algorithm, network, loss, train, valid=valid, seed=seed).best

    plain, balanced = fitted(adam, cross_entropy), fitted(adam, weighted(train))
    direct = fitted(swarm, missed_f1)
    return {
        "cross-entropy": f1(plain, test),
        "cross-entropy, classes weighted": f1(balanced, test),
        "cross-entropy, threshold tuned": f1(plain, test, best_threshold(plain, valid)),
        "F1 by a swarm": f1(direct, test),
        "F1 by a swarm, threshold tuned": f1(direct, test, best_threshold(direct, valid)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Training on F1 itself.")
    parser.add_argument("--quick", action="store_true", help="one seed and fewer steps")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    seeds, rows, steps = (range(10, 11), 2000, 60) if quick else (range(10, 18), 8000, 600)
    start = time.perf_counter()
    runs = [compare(seed, rows, steps) for seed in seeds]
    print(f"F1 of the rare class on test rows, {len(seeds)} seed(s), {steps} steps\n")
    print(f"{'':34} {'mean':>7} {'least':>7} {'most':>7}")
    for name in runs[0]:
        values = [run[name] for run in runs]
        mean = statistics.mean(values)
        print(f"{name:34} {mean:7.3f} {min(values):7.3f} {max(values):7.3f}")
    print(f"\n{time.perf_counter() - start:.0f} seconds")


if __name__ == "__main__":
    main()
