"""Products whose backward adds to the gradient buffer itself.

Autograd gives a product's weight gradient a tensor of its own and then adds it to the buffer:
for large layers that is as slow as the product. Here the product adds. Only the engine's own
backward pass does; any other, as of a loss that takes a gradient itself, gets ordinary ones.
"""

from typing import Any

import torch
from torch import Tensor

from gradevo.engines.batched.bank import Bank


def has_sink(bank: Bank, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether weights are leaves with buffers for their gradients, and nothing is special."""
    if not bank.rows or not torch.is_grad_enabled() or weight.is_complex():
        return False
    fits = bias is None or bias.shape == weight.shape[:2]
    leaves = all(t is None or (t.is_leaf and t.grad is not None) for t in (weight, bias))
    return fits and leaves and not torch.is_autocast_enabled(weight.device.type)


def product(bank: Bank, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`(g, B, in)` times `(g, out, in)` plus `(g, out)`."""
    return _Product.apply(bank, rows, weight, bias)  # pyright: ignore[reportReturnType]


class _Product(torch.autograd.Function):
    """A batched product with a bias or none."""

    @staticmethod
    def forward(ctx: Any, bank: Bank, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.bank, ctx.biased = bank, bias is not None
        ctx.sinks = weight.grad, None if bias is None else bias.grad
        if bias is None:
            return torch.bmm(rows, weight.mT)
        return torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight = ctx.saved_tensors
        (delta,) = grads
        back = torch.bmm(delta, weight) if ctx.needs_input_grad[1] else None
        if not ctx.bank.adding or torch.is_grad_enabled():
            biases = delta.sum(dim=1) if ctx.biased else None
            return None, back, torch.bmm(delta.mT, rows), biases
        sink, bias = ctx.sinks
        sink.baddbmm_(delta.mT, rows)
        if bias is not None:
            bias.add_(delta.sum(dim=1))
        return None, back, None, None
