"""How good every member is: its loss on validation rows that all members share (eq. 7)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradevo import trees
from gradevo.engines.batched.losses import of_members
from gradevo.health import sound_members
from gradevo.randomness import generator_from, isolated
from gradevo.structure import evaluating
from gradevo.trees import Tree

if TYPE_CHECKING:
    from gradevo.population import Loss, Population

CHUNK = 512  # rows a forward pass; keeps activations of all members in reach of the cache


@torch.no_grad()
def evaluate(population: "Population", loss: "Loss", x: Tree, y: Tree) -> Tensor:
    """Loss of every member on the same rows, in eval mode, `(g,)`; see `evaluations`."""
    return evaluations(population, [loss], x, y)[0]


@torch.no_grad()
def evaluations(
    population: "Population", losses: Sequence["Loss"], x: Tree, y: Tree
) -> list[Tensor]:
    """Several losses of every member on the same rows, from one pass in eval mode.

    The outputs of all rows are collected first and the loss is taken once, so that losses
    which are not means over rows (F1, AUC) are right as well. A module that draws random
    numbers in eval mode draws the same ones at every evaluation.

    Args:
        population: the members.
        losses: `loss(output, target)` returns a scalar.
        x: `(n, ...)`. y: `(n, ...)`. Tensors or trees of them.

    Returns:
        For every loss `(g,)`, float64 on the CPU; NaN stays NaN. A member whose weights are not
        finite has NaN, whatever a loss makes of its outputs; where a loss is only evaluated, so
        has one whose outputs are NaN.
    """
    with evaluating(population), isolated(generator_from(0), population.device):
        chunks = trees.chunks(x, CHUNK)
        parts = [_outputs(population, chunk) for chunk in chunks]
        outputs = trees.cat_outputs(parts, [trees.length(chunk) for chunk in chunks])  # (g, n, ...)
        found = [_losses(population, loss, outputs, y) for loss in losses]
        sound = sound_members(population)
    return [values.masked_fill(~sound, torch.nan).cpu().double() for values in found]


def _outputs(population: "Population", x: Tree) -> Tree:
    """Without a graph, which a forward that takes gradients by itself makes all the same."""
    with torch.set_grad_enabled(population.differentiates):
        return trees.each(torch.detach, population(x))


def _losses(population: "Population", loss: "Loss", outputs: Tree, y: Tree) -> Tensor:
    """One loss of all members; the next one sees outputs and targets as they were."""
    kind = "evaluation", getattr(loss, "__code__", type(loss))
    with population.watch.over(kind, None, y) as (_, y):
        found = of_members(loss, trees.each(torch.clone, outputs), y, len(population), False)
    if not hasattr(loss, "of_members"):  # NaN goes through whatever has a gradient
        return found
    return found.masked_fill(trees.prediction(outputs).flatten(1).isnan().any(dim=1), torch.nan)
