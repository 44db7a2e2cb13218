"""GEMONN's default search: one network walks down a ladder of densities and learns on every rung.

Source of gradual magnitude pruning: Zhu and Gupta, "To prune, or not to prune", 2017; here the
rungs are equal factors, not a cubic curve, and every one of them is kept.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradevo.learning import Phase, clone, learn, same_for_all
from gradevo.members import Members
from gradevo.operators import masks as masking
from gradevo.operators.masks import Masks
from gradevo.operators.selection import finite_or_worst
from gradevo.problem import Problem
from gradevo.structure import Tensors

if TYPE_CHECKING:
    from gradevo.algorithms.gemonn import GEMONN, GEMONNState


def rung(generation: int, generations: int, dense: float, lowest: float) -> float:
    """Density of a generation's child: 1 at first, then down by equal factors.

    Example:
        >>> [rung(i, 4, dense=0.5, lowest=0.01) for i in range(4)]
        [1.0, 1.0, 0.1, 0.01]
    """
    first = math.ceil(dense * generations)
    down = max(0, generation + 1 - first) / max(1, generations - first)
    return round(lowest**down, 12)


def step(config: "GEMONN", problem: Problem, state: "GEMONNState") -> Members | None:
    """One slice of the walker's learning; at its end, what is offered to the population."""
    recipe = config.recipe(problem)
    if state.phase is None or state.phase.step >= recipe.steps:
        state.phase = next_rung(config, problem, state)
    learn(problem.alone, recipe, state.phase, state.streams)
    if state.phase.step < recipe.steps:
        return None
    state.passes += state.phase.passes
    return _offered(config, problem, state, state.phase)


def next_rung(config: "GEMONN", problem: Problem, state: "GEMONNState") -> Phase:
    """The walker before it learns at its next density."""
    density = rung(state.generation, config.generations, config.dense, config.lowest)
    tensors, masks, optimizer = _walker(state)
    keep = torch.tensor([round(density * masking.total(masks))])
    masks = masking.thin(tensors, masks, keep, free=masking.gates(masks))
    tensors = masking.masked(tensors, masks)
    hyper = same_for_all(config.start_values(), 1)
    hyper["lr"] = hyper["lr"] * density**-config.rate_power
    unknown = torch.full((1,), torch.inf, dtype=torch.float64)
    mean = clone(tensors) if config.average else None
    return Phase(tensors, hyper, unknown, mean=mean, masks=masks, optimizer=optimizer)


def _walker(state: "GEMONNState") -> tuple[Tensors, Masks, Any]:
    """The last child; at first the densest member, and after divergence the best."""
    phase, losses = state.phase, finite_or_worst(state.members.losses)
    if phase is not None and phase.masks is not None and _finite(phase.tensors):
        return clone(phase.tensors), phase.masks, phase.optimizer
    start = torch.arange(len(losses) - 1, len(losses)) if phase is None else losses.argsort()[:1]
    member = state.members.take(start)
    return member.tensors, member.masks, None


def _finite(tensors: Tensors) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors.values())


def _offered(config: "GEMONN", problem: Problem, state: "GEMONNState", phase: Phase) -> Members:
    """The walker as it is, or the running mean of its weights, whichever is better."""
    assert phase.masks is not None
    phase.tensors = clone(phase.tensors)
    found: list[Members] = []
    for tensors in filter(None, (phase.tensors, phase.mean)):
        worth = config.measured(problem.alone, tensors, phase.masks, state.rows)
        found.append(Members(clone(tensors), phase.masks, *worth))
    return min(found, key=lambda one: _first(finite_or_worst(one.losses)))


def _first(losses: Tensor) -> float:
    return float(losses[0])
