"""A network that fits a data set, for the command line."""

import math
from collections.abc import Callable, Sequence

from torch import nn

from gradevo.models import FaceNet, LeNet5, mlp


def network_for(
    inputs: tuple[int, ...], classes: int, hidden: Sequence[int] | None = None
) -> Callable[[], nn.Module]:
    """A builder of networks for rows of a shape.

    LeNet-5 for images of 28 x 28, the face network for larger square ones, else a
    perceptron with one hidden layer of 64 unless `hidden` says otherwise.

    Args:
        inputs: shape of one row.
        classes: outputs.
        hidden: sizes of hidden layers; asks for a perceptron.

    Example:
        >>> network_for((4,), 3, [10])()
        Sequential(
          (0): Linear(in_features=4, out_features=10, bias=True)
          (1): ReLU()
          (2): Linear(in_features=10, out_features=3, bias=True)
        )
    """
    image = len(inputs) == 3 and hidden is None
    if image and inputs[1:] == (28, 28):
        return lambda: LeNet5(classes, channels=inputs[0])
    if image and inputs[0] == 1 and inputs[1] == inputs[2] >= 32 and inputs[1] % 4 == 0:
        return lambda: FaceNet(classes, side=inputs[1])
    perceptron = mlp(math.prod(inputs), *(hidden or (64,)), classes)
    if len(inputs) == 1:
        return perceptron
    return lambda: nn.Sequential(nn.Flatten(), *perceptron().children())
