"""Networks of the papers, as functions that `fit` can call to build members."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from gradevo.validation import at_least, share


def mlp(*sizes: int, dropout: float = 0.0) -> Callable[[], nn.Module]:
    """A builder of multi-layer perceptrons with ReLU between the layers.

    Args:
        sizes: inputs, hidden layers, outputs; at least two numbers.
        dropout: share of hidden units dropped in training.

    Example:
        >>> mlp(4, 10, 3)()
        Sequential(
          (0): Linear(in_features=4, out_features=10, bias=True)
          (1): ReLU()
          (2): Linear(in_features=10, out_features=3, bias=True)
        )
    """
    widths = [at_least("sizes", size, 1) for size in sizes]
    if len(widths) < 2:
        raise ValueError(f"sizes: must be at least two positive numbers, got {sizes}")
    dropped = share("dropout", dropout)

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
            layers += [nn.Dropout(dropped)] if dropped else []
        return nn.Sequential(*layers[: -2 if dropped else -1])

    return build


class LeNet5(nn.Module):
    """LeNet-5 for 28 x 28 images, with ReLU and dropout on the fully connected layers.

    Pooling comes before the activation: for ReLU and maximum that is the same function at a
    quarter of the cost.

    Args:
        classes: outputs.
        channels: of the input.
        dropout: share dropped on the fully connected layers (0.2 in the GADAM paper).

    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998.
    """

    def __init__(self, classes: int = 10, *, channels: int = 1, dropout: float = 0.2) -> None:
        super().__init__()
        classes, channels = at_least("classes", classes, 1), at_least("channels", channels, 1)
        dropout = share("dropout", dropout)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Linear(400, 120), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(120, 84), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(84, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))  # (B, classes)


class FaceNet(nn.Module):
    """The GADAM paper's network for the ORL faces: two 5 x 5 convolutions, two dense layers.

    Args:
        classes: persons.
        side: height and width of the images.
        dropout: share dropped before the last layer.
    """

    def __init__(self, classes: int = 40, *, side: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        classes, dropout = at_least("classes", classes, 1), share("dropout", dropout)
        if at_least("side", side, 4) % 4:
            raise ValueError(f"side: must be a multiple of 4, got {side!r}")
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(16, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Linear(32 * (side // 4) ** 2, 1024), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(1024, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))  # (B, classes)
