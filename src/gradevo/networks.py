"""Networks that fit a data set, for the command line; described by plain values."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from gradevo.losses import with_sigmoid
from gradevo.models import FaceNet, LeNet5, mlp


@dataclass(frozen=True)
class Network:
    """A builder of networks for rows of a shape, which can be written down.

    LeNet-5 for images of 28 x 28, the face network for larger square ones, else a
    perceptron with one hidden layer of 64 unless `hidden` says otherwise.

    Attributes:
        inputs: shape of one row.
        classes: outputs.
        hidden: sizes of hidden layers; asks for a perceptron.
        sigmoid: whether outputs are probabilities, by a sigmoid.

    Example:
        >>> Network((4,), 3, (10,))()
        Sequential(
          (0): Linear(in_features=4, out_features=10, bias=True)
          (1): ReLU()
          (2): Linear(in_features=10, out_features=3, bias=True)
        )
        >>> Network.of(Network((4,), 3).written) == Network((4,), 3)
        True
    """

    inputs: tuple[int, ...]
    classes: int
    hidden: tuple[int, ...] | None = None
    sigmoid: bool = False

    def __call__(self) -> nn.Module:
        build = self._logits
        return with_sigmoid(build)() if self.sigmoid else build()

    @property
    def _logits(self) -> Callable[[], nn.Module]:
        image = len(self.inputs) == 3 and self.hidden is None
        if image and self.inputs[1:] == (28, 28):
            return lambda: LeNet5(self.classes, channels=self.inputs[0])
        side = self.inputs[-1]
        if image and self.inputs == (1, side, side) and side >= 32 and side % 4 == 0:
            return lambda: FaceNet(self.classes, side=side)
        perceptron = mlp(math.prod(self.inputs), *(self.hidden or (64,)), self.classes)
        if len(self.inputs) == 1:
            return perceptron
        return lambda: nn.Sequential(nn.Flatten(), *perceptron().children())

    # --- as plain values ---------------------------------------------------------------

    @property
    def written(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, written: dict[str, Any]) -> "Network":
        """From what `written` gave, also after a way through JSON."""
        sizes = {
            name: None if written[name] is None else tuple(written[name])
            for name in ("inputs", "hidden")
        }
        return cls(**{**written, **sizes})
