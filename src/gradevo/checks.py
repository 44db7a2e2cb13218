"""What `fit` checks before the work, so that mistakes show at once, and how it explains NaN."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradevo import trees
from gradevo.batches import Pair, TensorSource
from gradevo.criteria import ignored, is_cross_entropy, of_torch, unwrapped
from gradevo.data import check_labels
from gradevo.guards import own_copy
from gradevo.population import Loss
from gradevo.probe import check_members, needs_gradients
from gradevo.probe_loss import check_loss
from gradevo.problem import Problem
from gradevo.randomness import generator_from, isolated
from gradevo.trees import Tree

BATCHES = 20  # that are looked at for a cause


def try_once(problem: Problem, modules: Sequence[nn.Module]) -> None:
    """Run the modules and the loss on a few rows, so that mistakes show before the work.

    Args:
        problem: of the run.
        modules: what its population was made of.

    Raises:
        TypeError: the module does not take such inputs.
        ValueError: it returns no tensor, writes into its input, or holds what a copy cannot; the
            loss is no scalar, writes into its target, has no gradient or learns itself; or labels
            are not among the module's classes.
    """
    x, y = trees.each(torch.clone, problem.rows(slice(8)))
    population = problem.population
    member = population.member(0).eval()
    check_inputs("train", member, x)
    population.differentiates = needs_gradients(member, x)
    check_members(population, modules, x)
    with torch.set_grad_enabled(population.differentiates), isolated(generator_from(0)):
        output = trees.call(member, trees.each(own_copy, x))
    prediction = trees.prediction(output)
    if _sees(problem.loss, output) and prediction.dim() > 1:
        _check_labels(problem, prediction.shape[1])
    check_loss(problem.loss, member, x, y)
    rows = torch.arange(trees.length(x), device=population.device)
    problem.evaluate(population.tensors, rows)


def check_inputs(name: str, member: nn.Module, x: Tree) -> None:
    """Say at once which names a module's forward does not take, or misses.

    Raises:
        TypeError: says which, of the data `name`.
    """
    if isinstance(x, Tensor):
        return
    inputs, named = trees.arguments(x)
    signature = inspect.signature(member.forward)
    try:
        signature.bind(*inputs, **named)
    except TypeError as error:
        given = ", ".join(named) or f"{len(inputs)} tensors by position"
        raise TypeError(
            f"{name}: x must be what {type(member).__name__}.forward takes, got {given}: {error}"
        ) from None


def _sees(loss: Loss, output: Any) -> bool:
    """Whether a loss is cross-entropy of the prediction as it is.

    One of the user's own class may make something else of an output that is no tensor.
    """
    plain = unwrapped(loss)
    own = isinstance(plain, nn.Module) and not of_torch(plain)
    return is_cross_entropy(loss) and (isinstance(output, Tensor) or not own)


def _check_labels(problem: Problem, classes: int) -> None:
    source, left_out = problem.source, ignored(problem.loss)
    targets = {"valid": problem.valid[1]}
    if isinstance(source, TensorSource):
        targets["train"] = source.y
    for name, y in targets.items():
        if isinstance(y, Tensor) and not y.is_floating_point():
            check_labels(name, y, classes, left_out)


def likely_cause(problem: Problem) -> str:
    """Why nobody learns, as far as data and a network that has not learnt tell."""
    if culprits := not_finite(problem):
        return f"NaN or infinity in {culprits}"
    source, values = problem.source, list[Tensor]()
    position, device = source.start(generator_from(0)), problem.population.device
    for _ in range(BATCHES):
        x, y = (trees.to(part, device) for part in source.draw(position, 1, True))
        with isolated(generator_from(0), device):
            output = trees.each(torch.detach, trees.call(problem.first, x))
            values.append(problem.loss(output, y))
    undefined = sum(not bool(value.isfinite()) for value in values)
    if undefined:
        return (
            f"a loss that is undefined on some batches: with new weights it is NaN or infinite on "
            f"{undefined} of {BATCHES}"
        )
    return "a learning rate that is too high (try lr / 10)"


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
