"""Losses by name, for the command line: what a classifier is trained on.

All take outputs `(rows, classes)` and class labels `(rows,)`, so that one data set serves them
all. `zero-one` and `f1` can only be evaluated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradevo.trees import prediction
from gradevo.validation import function, one_of


@dataclass(frozen=True)
class Named:
    """A loss and what goes with it.

    Attributes:
        loss: `loss(output, label)`.
        probabilities: the network's outputs are probabilities, by a sigmoid; else logits.
        scope: of a swarm that evaluates it.
        differentiable: whether it has a gradient of its own.
        meaning: one line for `--help`.
    """

    loss: Callable[[Any, Any], Tensor]
    probabilities: bool
    scope: str
    differentiable: bool
    meaning: str


class OneHot(nn.Module):
    """A criterion between outputs and labels as one-hot rows.

    Args:
        criterion: a function of `torch.nn.functional` that compares entry by entry.
        reduction: "mean", or "none" for a value an entry.

    Example:
        >>> OneHot(functional.l1_loss)(torch.tensor([[0.0, 1.0]]), torch.tensor([1])).item()
        0.0
    """

    def __init__(self, criterion: Callable[..., Tensor], reduction: str = "mean") -> None:
        super().__init__()
        self.criterion = function("criterion", criterion)
        self.reduction = one_of("reduction", reduction, ("mean", "sum", "none"))

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        target = functional.one_hot(label, output.shape[-1]).to(output.dtype)
        return self.criterion(output, target, reduction=self.reduction)

    def extra_repr(self) -> str:
        return f"{self.criterion.__name__}, reduction={self.reduction}"


@dataclass(frozen=True)
class OnLogits:
    """A loss of a network's prediction, for networks that return more than it.

    The prediction is a mapping's `logits`, as models of Hugging Face have them, else the first
    tensor. Unlike a function of your own it lets `fit` see the loss inside: class labels are
    checked, and an ensemble averages probabilities.

    Args:
        loss: `loss(logits, target)`.

    Example:
        >>> loss = OnLogits(nn.CrossEntropyLoss())
        >>> loss({"logits": torch.zeros(1, 2), "state": torch.ones(1, 9)}, torch.tensor([1]))
        tensor(0.6931)
    """

    loss: Callable[[Any, Any], Tensor]

    def __post_init__(self) -> None:
        function("loss", self.loss)

    def __call__(self, output: Any, target: Any) -> Tensor:
        return self.loss(prediction(output), target)


def zero_one(output: Tensor, label: Tensor) -> Tensor:
    """1 for each row whose largest output is not the label's, or that has a NaN; `(rows,)`."""
    return ((output.argmax(dim=-1) != label) | output.isnan().any(dim=-1)).to(output.dtype)


def f1(output: Tensor, label: Tensor) -> Tensor:
    """1 minus the macro-averaged F1 of a batch, over the classes that are in it.

    A row with a NaN is of no class.

    Example:
        >>> f1(torch.eye(3), torch.tensor([0, 1, 2])).item()
        0.0
    """
    classes = torch.arange(output.shape[-1], device=output.device)
    found = output.argmax(dim=-1, keepdim=True) == classes  # (rows, classes)
    found &= ~output.isnan().any(dim=-1, keepdim=True)
    true = label.unsqueeze(-1) == classes
    hits = (found & true).sum(dim=0)
    total = found.sum(dim=0) + true.sum(dim=0)
    score = 2 * hits / total.clamp(min=1)
    return 1 - score.sum() / (total > 0).sum()


LOSSES = {
    "cross-entropy": Named(nn.CrossEntropyLoss(), False, "row", True, "of the softmax"),
    "bce": Named(OneHot(functional.binary_cross_entropy), True, "auto", True, "a class at a time"),
    "mse": Named(
        OneHot(functional.mse_loss), True, "auto", True, "squared error of one-hot labels"
    ),
    "mae": Named(
        OneHot(functional.l1_loss), True, "auto", True, "absolute error of one-hot labels"
    ),
    "zero-one": Named(zero_one, True, "row", False, "share of rows that are wrong"),
    "f1": Named(f1, True, "batch", False, "1 - macro F1 of the batch"),
}


def with_sigmoid(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A builder of the same networks with a sigmoid on their outputs.

    Example:
        >>> with_sigmoid(lambda: nn.Linear(2, 3))()(torch.zeros(1, 2)).shape
        torch.Size([1, 3])
    """
    if isinstance(build, nn.Module) or not callable(build):
        raise TypeError(f"build: must be a function, got a {type(build).__name__}")

    def built() -> nn.Module:
        network = build()
        layers = network if type(network) is nn.Sequential else [network]  # no subclass of it
        return nn.Sequential(*layers, nn.Sigmoid())

    return built
