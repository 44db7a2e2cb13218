"""Outputs, targets, and the gradient that a criterion gives them."""

import torch

from gradevo.randomness import generator_from
from gradevo.swarm import SwarmLoss

ROWS, CLASSES = 6, 3


def rows(seed=0, shape=(ROWS, CLASSES), dtype=torch.float32):
    return torch.randn(shape, generator=generator_from(seed), dtype=dtype)


def labels(shape=(ROWS,), seed=1):
    return torch.randint(CLASSES, shape, generator=generator_from(seed))


def gradient(criterion, output, target, upstream=1.0):
    output = output.clone().requires_grad_()
    (upstream * criterion(output, target)).backward()
    return output.grad


def fine(loss, **more):
    """Enough near points for a plane through them to be the tangent."""
    return SwarmLoss(loss, estimator="regression", particles=60, spread=0.01, **more)
