"""Members whose tensors are reached otherwise than by their names in the module.

A graph over all members calls a member with slices of the stacked leaves in place of its tensors.
A forward that keeps tensors in a list of its own, or computes a part again during backward, never
sees them, and its gradient would be wrong without a word. Such members are called as they are.
"""

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gradevo import trees
from gradevo.guards import own_copy
from gradevo.randomness import generator_from, isolated
from gradevo.structure import Tensors, tensors_of

if TYPE_CHECKING:
    from gradevo.population import Population

NEAR = 1e-3  # of the largest number of a gradient


def reached_by_name(population: "Population", batches: list[Any]) -> bool:
    """Whether gradients of called members are those of members called with tensors by name.

    Args:
        population: left as it was.
        batches: one a member. One member speaks for all that differ in tensors alone.
    """
    several = population.shells.differs is not None
    return all(_agrees(population, i, batches[i]) for i in range(population.size if several else 1))


def _agrees(population: "Population", i: int, x: Any) -> bool:
    one, other = population.member(i), population.member(i)
    named = {name: t.requires_grad_(name in population.leaves) for name, t in _own(other).items()}
    first, second = (trees.each(own_copy, x) for _ in range(2))
    own, given = dict(one.named_parameters()), trees.arguments(second)
    with warnings.catch_warnings():  # the user will see them by himself
        warnings.simplefilter("ignore")
        direct = _gradients(population, own, lambda: trees.call(one, first))
        by_name = _gradients(population, named, lambda: functional_call(other, named, *given))
    return all(_near(direct[name], by_name[name]) for name in population.leaves)


def _own(member: nn.Module) -> Tensors:
    return {name: t.clone() for name, t in tensors_of(member).items()}


def _gradients(population: "Population", tensors: Any, call: Any) -> dict[str, Tensor | None]:
    """Of some number made of all outputs, with the same draws every time."""
    with isolated(generator_from(0), population.device):
        outputs = [t for t in trees.tensors(trees.entered(call())) if t.requires_grad]
        if outputs:
            torch.stack([_mixed(t) for t in outputs]).sum().backward()
    return {name: tensors[name].grad for name in population.leaves}


def _mixed(output: Tensor) -> Tensor:
    """A number that every entry has another part in."""
    real = torch.view_as_real(output) if output.is_complex() else output
    parts = torch.arange(real.numel(), device=real.device, dtype=torch.float32).cos()
    return (real.reshape(-1).float() * parts).sum()


def _near(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        mine = one if other is None else other
        return mine is None or not bool(mine.any())
    distance = (one - other).abs().max() if one.numel() else torch.zeros(())
    return not bool(distance > NEAR * (other.abs().max() + 1e-12)) if one.numel() else True


def bridge(parameter: nn.Parameter, leaf: nn.Parameter, i: int) -> None:
    """From here on gradients that a member's parameter gets go to its row of the stacked leaf."""

    @torch.no_grad()
    def hand_over(own: Tensor) -> None:
        if leaf.grad is None:
            leaf.grad = torch.zeros_like(leaf)
        row = leaf.grad[i]
        if own.grad is not None and own.grad.data_ptr() != row.data_ptr():
            row += own.grad
            own.grad = None

    if parameter.requires_grad:
        parameter.register_post_accumulate_grad_hook(hand_over)
