"""What `fit` checks before the work, so that mistakes show at once, and how it explains NaN."""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradevo import trees
from gradevo.batches import Pair, TensorSource
from gradevo.data import check_labels
from gradevo.losses import OnLogits
from gradevo.population import Loss
from gradevo.problem import Problem
from gradevo.randomness import generator_from, isolated
from gradevo.swarm.loss import SwarmLoss
from gradevo.trees import Tree


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
    """The loss itself, where a swarm's criterion, `OnLogits` or a partial is around it."""
    while isinstance(loss, SwarmLoss | OnLogits):
        loss = loss.loss
    return loss.func if isinstance(loss, partial) else loss


def is_cross_entropy(loss: Loss) -> bool:
    """Whether targets may be class labels, and outputs are logits or log-probabilities."""
    loss = unwrapped(loss)
    functions = (functional.cross_entropy, functional.nll_loss)
    return isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) or loss in functions


def try_once(problem: Problem) -> None:
    """Run the module and the loss on a few rows, so that mistakes show before the work.

    Raises:
        TypeError: the module does not take such inputs.
        ValueError: it returns no tensor, or writes into its input; the loss is no scalar or has
            no gradient, or labels are not among the module's classes.
    """
    x, y = trees.each(torch.clone, problem.rows(slice(8)))
    with torch.no_grad(), isolated(generator_from(0), problem.population.device):
        member = problem.population.member(0).eval()
        _check_inputs(member, x)
        output = trees.call(member, x)
        if any(part._version > 0 for part in trees.tensors(x)):
            raise ValueError(
                "build: must return modules that leave their input as it is, got a "
                f"{type(problem.population.stacked).__name__} that changes it in place"
            )
        prediction = trees.prediction(output)
        if _sees(problem.loss, output) and prediction.dim() > 1:
            _check_labels(problem, prediction.shape[1])
        rows = torch.arange(trees.length(x), device=problem.population.device)
        problem.evaluate(problem.population.tensors, rows)
        if not isinstance(problem.loss, SwarmLoss):  # which always has one
            _check_gradient(problem, x, y)


def _check_inputs(member: nn.Module, x: Tree) -> None:
    """Say at once which names a module's forward does not take, or misses."""
    if isinstance(x, Tensor):
        return
    inputs, named = trees.arguments(x)
    signature = inspect.signature(member.forward)
    try:
        signature.bind(*inputs, **named)
    except TypeError as error:
        given = ", ".join(named) or f"{len(inputs)} tensors by position"
        raise TypeError(
            f"train: x must be what {type(member).__name__}.forward takes, got {given}: {error}"
        ) from None


def _sees(loss: Loss, output: Any) -> bool:
    """Whether a loss is cross-entropy of the prediction as it is.

    One of the user's own class may make something else of an output that is no tensor.
    """
    plain = unwrapped(loss)
    own = isinstance(plain, nn.Module) and not type(plain).__module__.startswith("torch.")
    return is_cross_entropy(loss) and (isinstance(output, Tensor) or not own)


def _check_gradient(problem: Problem, x: Tree, y: Tree) -> None:
    """A loss that only compares or rounds gives backpropagation nothing to go back through."""
    with torch.enable_grad():
        value = problem.loss(trees.call(problem.population.member(0).eval(), x), y)
    if not value.requires_grad:
        raise ValueError(
            "loss: must have a gradient with respect to the outputs, got one that has none; "
            "wrap it in gradevo.SwarmLoss, which needs its values only"
        )


def _ignored(loss: Loss) -> int:
    """The label that does not count."""
    while isinstance(loss, SwarmLoss | OnLogits):
        loss = loss.loss
    given = loss.keywords if isinstance(loss, partial) else {}
    return given.get("ignore_index", getattr(loss, "ignore_index", -100))


def _check_labels(problem: Problem, classes: int) -> None:
    source, ignored = problem.source, _ignored(problem.loss)
    targets = {"valid": problem.valid[1]}
    if isinstance(source, TensorSource):
        targets["train"] = source.y
    for name, y in targets.items():
        if isinstance(y, Tensor) and not y.is_floating_point():
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


def _finite(pair: Pair) -> bool:
    return all(bool(part.isfinite().all()) for part in trees.tensors(pair))
