"""Networks that the simd engine has kernels for, one of each of their layers."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradevo.models import mlp
from layers import row

INPUTS, CLASSES = 5, 3


class Written(nn.Module):
    """The same layers called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, 9)
        self.middle = nn.Linear(9, 6)
        self.last = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(torch.flatten(x, 1)))
        return self.last(F.gelu(self.middle(x)).relu())


def half_frozen() -> nn.Module:
    network = nn.Sequential(nn.Linear(INPUTS, 4), nn.ReLU(), nn.Linear(4, 1), nn.Linear(1, CLASSES))
    network[0].requires_grad_(False)
    network[2].bias.requires_grad_(False)
    return network


def resting() -> nn.Module:
    network = norms()
    network[1].eval()
    return network


norms = row(lambda: nn.Linear(INPUTS, 30), lambda: nn.BatchNorm1d(30, momentum=0.3), nn.ReLU,
            lambda: nn.Linear(30, 4, bias=False), lambda: nn.BatchNorm1d(4), nn.Tanh,
            lambda: nn.Linear(4, CLASSES))  # fmt: skip
CHAINS: dict[str, Callable[[], nn.Module]] = {
    "relu": mlp(INPUTS, 7, CLASSES),
    "deep and wide": mlp(INPUTS, 26, 1, 31, 6, CLASSES),
    "one layer": lambda: nn.Linear(INPUTS, CLASSES),
    "without bias": row(lambda: nn.Linear(INPUTS, 7, bias=False), nn.Tanh,
                        lambda: nn.Linear(7, CLASSES, bias=False)),
    "sigmoid": row(nn.Flatten, lambda: nn.Linear(INPUTS, 8), nn.Sigmoid, nn.Identity,
                   lambda: nn.Linear(8, CLASSES)),
    "gelu": row(lambda: nn.Linear(INPUTS, 8), nn.GELU, lambda: nn.Linear(8, CLASSES)),
    "norms": norms,
    "a norm in eval mode": resting,
    "begins with a norm": row(lambda: nn.BatchNorm1d(INPUTS), nn.ReLU,
                              lambda: nn.Linear(INPUTS, CLASSES)),
    "functions": Written,
    "frozen parts": half_frozen,
    "ends with relu": row(lambda: nn.Linear(INPUTS, 8), nn.ReLU, nn.ReLU,
                          lambda: nn.Linear(8, CLASSES), nn.ReLU),
}  # fmt: skip
DROPPING = row(lambda: nn.Dropout(0.2), lambda: nn.Linear(INPUTS, 12), nn.ReLU,
               lambda: nn.Dropout(0.5), lambda: nn.Linear(12, CLASSES))  # fmt: skip
