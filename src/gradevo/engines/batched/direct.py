"""Products whose backward adds to the gradient buffer itself.

Autograd gives a product's weight gradient a tensor of its own and then adds it to the buffer:
for large layers that is as slow as the product. Here the product adds.
"""

from typing import Any

import torch
from torch import Tensor


def has_sink(*tensors: Tensor | None) -> bool:
    """Whether all are leaves with a buffer for their gradients, to be added to just now."""
    plain = not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
    return plain and all(t is None or (t.is_leaf and t.grad is not None) for t in tensors)


def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`(g, B, in)` times `(g, out, in)` plus `(g, out)`; gradients go where `grad` is."""
    return _Product.apply(rows, weight, bias)  # pyright: ignore[reportReturnType]


class _Product(torch.autograd.Function):
    """Its weights are leaves, and whoever calls backward wants their `grad`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.sinks = weight.grad, None if bias is None else bias.grad
        if bias is None:
            return torch.bmm(rows, weight.mT)
        return torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight = ctx.saved_tensors
        (delta,), (sink, bias) = grads, ctx.sinks
        sink.baddbmm_(delta.mT, rows)
        if bias is not None:
            bias.add_(delta.sum(dim=1))
        back = torch.bmm(delta, weight) if ctx.needs_input_grad[0] else None
        return back, None, None
