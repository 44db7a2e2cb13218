"""The tied auto-encoder of the GEMONN paper."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class TiedAutoencoder(nn.Module):
    """Sigmoid auto-encoder whose decoder is its encoder turned round: one weight for both.

    The weight is the decoder's, `(inputs, hidden)`, so that a row of it is what an output sees.

    Args:
        inputs: of a row.
        hidden: units between.
        agree: where the encoder's and the decoder's gradient of a weight have opposite signs, it
            gets none, as in the GEMONN paper; else the two are added, as always.

    Example:
        >>> TiedAutoencoder(8, 3)(torch.rand(5, 8)).shape
        torch.Size([5, 8])

    Source: the paper's first experiment, 784-500-784; start uniform on +-6 / sqrt(inputs + hidden).
    """

    def __init__(self, inputs: int = 784, hidden: int = 500, *, agree: bool = False) -> None:
        super().__init__()
        self.agree = agree
        width = 6 / (inputs + hidden) ** 0.5
        self.weight = nn.Parameter(torch.empty(inputs, hidden).uniform_(-width, width))
        self.code = nn.Parameter(torch.zeros(hidden))
        self.bias = nn.Parameter(torch.zeros(inputs))

    def forward(self, x: Tensor) -> Tensor:
        encoder, decoder = self.weight, self.weight
        if self.agree and self.training:
            encoder, decoder = Agreeing.apply(self.weight)
        hidden = functional.linear(x, encoder.t(), self.code).sigmoid()
        return functional.linear(hidden, decoder, self.bias).sigmoid()


class Agreeing(torch.autograd.Function):
    """One tensor for two places; its gradient is their sum where their signs are not opposite.

    Where one of the two is exactly 0, the other is kept.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> tuple[Tensor, Tensor]:
        return tensor.clone(), tensor.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        one, other = gradients
        return torch.where(one * other < 0, 0.0, one + other)
