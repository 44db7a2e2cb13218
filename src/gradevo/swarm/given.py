"""A loss whose gradient is known already, as autograd takes it."""

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor


def refuse_transforms(output: Tensor) -> None:
    """Under vmap or grad of torch.func the swarm's gradient would be lost without a word."""
    if is_functorch_wrapped_tensor(output):
        raise RuntimeError(
            "SwarmLoss: must be called outside of torch.func's transforms, got an output within "
            "one; for stacked members there is of_members"
        )


class Given(torch.autograd.Function):
    """A loss, or one a member, whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("SwarmLoss: has no second derivative, got create_graph=True")
        (gradient,) = ctx.saved_tensors
        factor = upstream[0]
        if factor.dim():
            factor = factor.view(-1, *([1] * (gradient.dim() - 1)))
        return (gradient * factor).to(gradient.dtype), None, None
