"""What hidden units learn at several densities: the figure of docs/results/gemonn.md.

    python benchmarks/papers/gemonn_features.py --data-dir DIR [--seed 0]

One run of the default at 7,500 passes. For the network nearest to each density, the weights of the
hidden units whose contribution varies most over test images, as pictures of 28 x 28; red is
negative, blue positive, each on its own scale.
"""

import argparse
from pathlib import Path

import matplotlib
import torch
from common import RAW
from gemonn_autoencoder import METHODS, images, score
from matplotlib import pyplot
from torch import Tensor, nn

import gradevo as ge
from gradevo.autoencoder import TiedAutoencoder

FIGURE = RAW.parent / "figures" / "gemonn-features.png"
DENSITIES, UNITS = (1.0, 0.2, 0.05, 0.01, 0.004, 0.0025), 14


def trained(folder: Path, seed: int) -> list[tuple[float, float, Tensor]]:
    """Density, test error and some units' weights `(n, 784)` of the network nearest to each."""
    train, valid, held = images(folder / "mnist")
    front = ge.fit(METHODS["default, 7,500 passes"](), TiedAutoencoder, nn.MSELoss(),
                   (train, train), valid=(valid, valid), seed=seed, engine="loop")  # fmt: skip
    found = []
    for wanted in DENSITIES:
        logs = (front.points.nonzeros / front.points.weights / wanted).log().abs()
        network = front.members.member(int(logs.argmin()))
        weight = network.weight.detach()
        codes = (held[:2000] @ weight + network.code.detach()).sigmoid()
        most = (codes.std(dim=0) * weight.norm(dim=0)).topk(UNITS).indices
        density = float((weight != 0).double().mean())
        found.append((density, score(network, held), weight.t()[most]))
    return found


def draw(found: list[tuple[float, float, Tensor]], path: Path) -> None:
    matplotlib.use("Agg")
    figure, axes = pyplot.subplots(
        len(found), UNITS, figsize=(UNITS * 0.62, len(found) * 0.78), layout="constrained"
    )
    for row, (density, error, weight) in zip(axes, found, strict=True):
        for axis, unit in zip(row, weight, strict=True):
            limit = float(unit.abs().max())
            axis.imshow(unit.view(28, 28), cmap="RdBu", vmin=-limit, vmax=limit)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(f"{density:.2%}\n{error:.4f}", fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with mnist/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FIGURE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    draw(trained(args.data_dir, args.seed), args.out)


if __name__ == "__main__":
    main()
