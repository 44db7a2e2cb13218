"""A few rows through the loss before a run: it must be a function of output and target alone."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradevo import trees
from gradevo.attributes import described, difference
from gradevo.guards import differs, fresh, own_copy, same_bits
from gradevo.population import Loss
from gradevo.randomness import generator_from, isolated
from gradevo.snapshots import Snapshot, leaves_of
from gradevo.structure import tensors_of
from gradevo.swarm.loss import SwarmLoss
from gradevo.trees import Tree

HOW = (
    "put it into the module that build returns, whose forward hands it to the loss with the output"
)


def check_loss(loss: Loss, member: nn.Module, x: Tree, y: Tree) -> None:
    """Refuse a loss that would be ignored in part, or couple the members.

    Args:
        loss: the run's.
        member: a module of its own.
        x: some rows.
        y: their targets.

    Raises:
        ValueError: it has no gradient, learns, keeps state, or changes its target.
    """
    _check_parameters(loss)
    with spared(loss) as tried:
        _check(tried, member, x, y)


@contextmanager
def spared(loss: Loss) -> Iterator[Loss]:
    """A block that calls a loss only to try something: afterwards the user's is what it was."""
    known = Snapshot(loss)
    try:
        yield _copied(loss)
    finally:
        known.restore()


def _copied(loss: Any) -> Any:
    """A criterion of the user's, which may count its calls, is not called itself."""
    try:
        return copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss
    except Exception:  # whatever an object that cannot be copied raises
        return loss


def _check(loss: Any, member: nn.Module, x: Tree, y: Tree) -> None:
    given, target = trees.each(own_copy, x), trees.each(own_copy, y)
    with torch.enable_grad(), isolated(generator_from(0), _device(member)):
        output = trees.call(member, given)
        value = loss(trees.each(torch.clone, output), fresh(target))
    if differs(trees.tensors(target), y):
        raise ValueError("loss: must leave its target as it is, got one that changes it in place")
    if isinstance(loss, SwarmLoss) or not isinstance(value, Tensor):
        return  # which always has a gradient, or is refused by whoever asks for a number
    if not value.requires_grad:
        raise ValueError(
            "loss: must have a gradient with respect to the outputs, got one that has none; "
            "wrap it in gradevo.SwarmLoss, which needs its values only"
        )
    _check_leaves(value, [*member.parameters(), *trees.tensors(given), *trees.tensors(target)])
    _check_state(loss, trees.each(torch.detach, output), y)


def _check_parameters(loss: Any) -> None:
    """A loss with weights of its own, as ArcFace has: nobody would train them."""
    if not isinstance(loss, nn.Module):
        return
    for name, parameter in loss.named_parameters():
        if parameter.requires_grad:
            raise ValueError(
                f"loss: must have no parameters that learn, got {name!r} of {type(loss).__name__}; "
                f"{HOW}"
            )


def _check_leaves(value: Tensor, known: list[Tensor]) -> None:
    """The same where a function closes over them."""
    ids = set(map(id, known))
    for leaf in leaves_of(value):
        if id(leaf) not in ids:
            raise ValueError(
                "loss: must reach no parameters but the network's, got one of shape "
                f"{tuple(leaf.shape)} that requires a gradient; {HOW}, or let it not require one"
            )


def _check_state(loss: Any, output: Tree, y: Tree) -> None:
    """Two calls on the same numbers must give the same number, and count nothing."""
    values, states = list[Tensor](), list[dict[str, Any]]()
    for _ in range(2):
        with torch.no_grad(), isolated(generator_from(0), trees.tensors(output)[0].device):
            values.append(loss(trees.each(torch.clone, output), trees.each(torch.clone, y)))
        states.append(_state(loss))
    changed = difference(*states)
    if changed is not None or not same_bits(*values):
        raise ValueError(
            "loss: must depend on output and target alone, got one of which "
            f"{changed or 'something'!r} changes from call to call; members share one loss"
        )


def _state(loss: Any) -> dict[str, Any]:
    """What a criterion keeps; of a function its values tell."""
    if not isinstance(loss, nn.Module):
        return {}
    return {**described(loss), **{n: str(t.tolist()) for n, t in tensors_of(loss).items()}}


def _device(member: nn.Module) -> torch.device:
    return next(member.parameters()).device
