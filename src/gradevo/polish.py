"""Fine-tuning of one sparse network on one batch."""

import torch

from gradevo.batches import Pair
from gradevo.health import say, sound_steps
from gradevo.learning import clone
from gradevo.operators.masks import Masks
from gradevo.problem import Problem
from gradevo.structure import Tensors


def polish(
    problem: Problem,
    tensors: Tensors,
    masks: Masks,
    batch: Pair,
    steps: int,
    rate: float,
) -> tuple[Tensors, int]:
    """Adam steps on the weights that are there; the snapshot with the lowest loss on the batch.

    Args:
        problem: of one network.
        tensors: the network, `(1, ...)` each.
        masks: which weights are there.
        batch: inputs and targets.
        steps: how many.
        rate: learning rate.

    Returns:
        New tensors, and how many steps were left out: all from the first whose loss or gradient is
        not finite, as nothing changes from there on.
    """
    population = problem.population
    population.load(tensors)
    gradient, there = population.gradient(), population.spread(masks)
    best, lowest, left = clone(tensors), torch.inf, 0
    optimizer = torch.optim.Adam(population.parameters(), rate, fused=True)
    for step in range(steps):
        gradient.zero_()
        losses = population.accumulate(problem.loss, *batch)
        if (sound := sound_steps(population, gradient, losses)) is not None:
            say(problem.said, sound, [0], *batch)
            left = steps - step
            break
        if (loss := float(losses[0])) < lowest:
            best, lowest = clone(population.tensors), loss
        gradient.mul_(there)
        optimizer.step()
    with torch.no_grad():
        loss = float(population.losses(problem.loss, *batch)[0])
    return (clone(population.tensors) if loss < lowest else best), left
