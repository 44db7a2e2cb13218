"""What `fit` checks before the work, so that mistakes show at once, and how it explains NaN."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradevo.batches import TensorSource
from gradevo.data import check_labels
from gradevo.population import Loss
from gradevo.problem import Problem
from gradevo.randomness import generator_from, isolated
from gradevo.swarm.loss import SwarmLoss


def check_arguments(algorithm: Any, build: Any, loss: Any, callbacks: Sequence[Any]) -> None:
    """Refuse mistakes of kind.

    Raises:
        TypeError: an argument that is something else.
    """
    if isinstance(algorithm, type) or not hasattr(algorithm, "step"):
        raise TypeError(f"algorithm: must be a config, GADAM() for example, got {algorithm!r}")
    if isinstance(build, nn.Module) or not callable(build):
        raise TypeError(
            "build: must be a function that returns a new module at every call, "
            f"got a {type(build).__name__}; write `lambda: Net(...)`"
        )
    for name, value in [("loss", loss), *(("callbacks", callback) for callback in callbacks)]:
        if not callable(value):
            raise TypeError(f"{name}: must be callable, got a {type(value).__name__}")


def unwrapped(loss: Loss) -> Loss:
    """The loss itself, where a swarm's criterion or a partial is around it."""
    loss = loss.loss if isinstance(loss, SwarmLoss) else loss
    return loss.func if isinstance(loss, partial) else loss


def is_cross_entropy(loss: Loss) -> bool:
    """Whether targets may be class labels, and outputs are logits or log-probabilities."""
    loss = unwrapped(loss)
    functions = (functional.cross_entropy, functional.nll_loss)
    return isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) or loss in functions


def try_once(problem: Problem) -> None:
    """Run the module and the loss on a few rows, so that mistakes show before the work.

    Raises:
        ValueError: the loss is no scalar or has no gradient, the module writes into its input,
            or labels are not among the module's classes.
    """
    x = problem.valid[0][:8].clone()
    with torch.no_grad(), isolated(generator_from(0), problem.population.device):
        output = problem.population.member(0).eval()(x)
        if x._version > 0:
            raise ValueError(
                "build: must return modules that leave their input as it is, got a "
                f"{type(problem.population.stacked).__name__} that changes it in place"
            )
        if is_cross_entropy(problem.loss):
            _check_labels(problem, output.shape[1])
        problem.evaluate(problem.population.tensors, torch.arange(len(x), device=x.device))
        if not isinstance(problem.loss, SwarmLoss):  # which always has one
            _check_gradient(problem, x)


def _check_gradient(problem: Problem, x: Tensor) -> None:
    """A loss that only compares or rounds gives backpropagation nothing to go back through."""
    with torch.enable_grad():
        value = problem.loss(problem.population.member(0).eval()(x), problem.valid[1][:8])
    if not value.requires_grad:
        raise ValueError(
            "loss: must have a gradient with respect to the outputs, got one that has none; "
            "wrap it in gradevo.SwarmLoss, which needs its values only"
        )


def _check_labels(problem: Problem, classes: int) -> None:
    loss, source = unwrapped(problem.loss), problem.source
    ignored = loss.ignore_index if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) else -100
    targets = {"valid": problem.valid[1]}
    if isinstance(source, TensorSource):
        targets["train"] = source.y
    for name, y in targets.items():
        if not y.is_floating_point():
            check_labels(name, y, classes, ignored)


def not_finite(problem: Problem) -> str:
    """Names the data that hold NaN or infinity; looks through training batches, two passes."""
    source = problem.source
    position, count = source.start(generator_from(0)), 2 * source.rows // source.batch_size
    batches = {
        "train": (source.draw(position, 1, True) for _ in range(count)),
        "valid": [problem.valid],
    }
    return " and ".join(name for name, pairs in batches.items() if not all(map(_finite, pairs)))


def _finite(pair: Sequence[Tensor]) -> bool:
    return all(bool(part.isfinite().all()) for part in pair)
