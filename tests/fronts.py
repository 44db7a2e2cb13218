"""Short runs of GEMONN in both searches, and what is looked at on the way."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gradevo.algorithms.gemonn import GEMONN
from gradevo.randomness import generator_from

LADDER = GEMONN(
    population=6, generations=10, steps=12, batch_size=16, lr=0.02, lowest=0.25, dense=0.15,
    climb=0.5, validation_batch=None, blend=False,
)  # fmt: skip
PAPER = GEMONN.paper(population=6, generations=8, batch_size=16, lr=0.02, fine_tune=12)
WHOLE = replace(LADDER, blend=True)
BOTH = pytest.mark.parametrize("algorithm", [WHOLE, PAPER], ids=["ladder", "paper"])


def counting(loss=F.cross_entropy):
    """A loss, and the list of its calls with gradients."""
    calls = []

    def counted(output, target):
        if torch.is_grad_enabled():
            calls.append(target)
        return loss(output, target)

    return counted, calls


def spoil(problem, *rows):
    for leaf in problem.population.leaves.values():
        leaf.data[list(rows)] = math.nan
    return problem


def states(algorithm, problem, seed=0):
    """The state before every step, and the last one."""
    state = algorithm.init(problem, generator_from(seed))
    while not algorithm.finished(state):
        yield state
        state = algorithm.step(problem, state)[0]
    yield state


def walked(algorithm, problem):
    """The walker after every rung."""
    state = algorithm.init(problem, generator_from(0))
    while not algorithm.finished(state):
        state = algorithm.step(problem, state)[0]
        yield state.phase


def sound(members):
    """Weights are zero exactly where the masks say that they are gone."""
    return all(torch.equal(members.tensors[n] != 0, mask) for n, mask in members.masks.items())


def clean(tensors, masks):
    """Weights are zero where the masks say that they are gone."""
    return not any(bool(tensors[name][~mask].any()) for name, mask in masks.items())
