"""GEMONN's default search: one network walks a ladder of densities and learns on every rung.

Down it loses its smallest weights; up again it regains weights where the gradient is largest, as
zeros, so that every denser network starts from a sparser one that is better trained than any
before. A front from one walk has few networks that are no better than sparser ones. At the end
neighbours on the ladder are crossed.

Source of gradual magnitude pruning: Zhu and Gupta, "To prune, or not to prune", 2017; here the
rungs are equal factors, not a cubic curve, and every one of them is kept.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradevo import trees
from gradevo.distributed.placing import blocks
from gradevo.health import check_learning, counted, is_lost
from gradevo.learning import FEW, clone, learn, same_for_all
from gradevo.members import Members
from gradevo.operators import masks as masking
from gradevo.operators import units
from gradevo.operators.alignment import Symmetry
from gradevo.operators.masks import Masks
from gradevo.operators.selection import finite_or_worst
from gradevo.phase import Phase
from gradevo.problem import Problem
from gradevo.randomness import following, preserved
from gradevo.share import Share
from gradevo.structure import Tensors

if TYPE_CHECKING:
    from gradevo.algorithms.gemonn import GEMONN, GEMONNState

SPARE, NARROW = 1.25, 0.5
"""Weights at the foot for every unit that stays, and for every hidden one that may go whole."""


def rung(generation: int, generations: int, dense: float, climb: float, lowest: float) -> float:
    """Density of a generation's child: 1 at first, then down by equal factors, and up again.

    Example:
        >>> [rung(i, 6, dense=0.3, climb=0.5, lowest=0.01) for i in range(6)]
        [1.0, 1.0, 0.1, 0.01, 0.1, 1.0]
    """
    first = math.ceil(dense * generations)
    up = math.floor(climb * (generations - first))
    bottom = generations - up  # the first generation of the climb
    if generation < bottom:
        depth = max(0, generation + 1 - first) / max(1, bottom - first)
    else:
        depth = 1 - (generation + 1 - bottom) / up
    return float(f"{lowest**depth:.12g}")


def foot(masks: Masks, lowest: float | None, symmetry: Symmetry | None) -> float:
    """Lowest density of the ladder: no less than a weight a unit, below which rungs would repeat.

    Example:
        >>> masks = {"w": torch.ones(1, 4, 80, dtype=torch.bool)}
        >>> foot(masks, 0.1, None), foot(masks, 0.001, None), foot(masks, None, None)
        (0.1, 0.0125, 0.015625)
    """
    stay, weights = units.lasting(masks, symmetry), masking.total(masks)
    if lowest is not None:
        return max(lowest, stay / weights)
    hidden = masking.units(masks, free=masking.gates(masks)) - stay
    return min(1.0, (SPARE * stay + NARROW * hidden) / weights)


def step(config: "GEMONN", problem: Problem, state: "GEMONNState") -> Members | None:
    """One slice of the walker's learning; at its end, what is offered to the population."""
    recipe = config.recipe(problem)
    if state.phase is None or state.phase.step >= recipe.steps:
        state.phase = next_rung(config, problem, state)
    learn(problem.alone, recipe, state.phase, state.streams, strict=False)
    if state.phase.step < recipe.steps:
        return None
    state.passes += state.phase.passes
    state.lost = state.lost + state.phase.lost.cpu()
    if state.generation and is_lost(state.phase.lost, recipe.steps):  # from the best, too
        check_learning(state.lost, max(FEW, (state.generation + 1) * recipe.steps))
    children = _offered(config, problem, state, state.phase)
    if state.generation + 1 == config.generations:
        for apart in (1, 2) if config.blend else ():
            state.members.compete(children, problem.team)
            children = blended(config, problem, state, apart)
    return children


def blended(config: "GEMONN", problem: Problem, state: "GEMONNState", apart: int) -> Members:
    """Children of neighbours on the ladder: means of their weights, where the denser has any.

    Neighbours are one network at two times, so their units need no alignment. What the sparser
    one lacks is halved.

    Args:
        apart: how many members further down the sparser one is.
    """
    order = state.members.densities().argsort(stable=True)
    below = order[(torch.arange(len(order)) - apart).clamp(min=0)]
    one, other = state.members.take(order), state.members.take(below)
    means = {
        name: (t + other.tensors[name]) / 2 if t.is_floating_point() else t
        for name, t in one.tensors.items()
    }
    means = masking.masked(means, one.masks)
    worth, losses = config.measured(problem, means, one.masks, state.rows)
    worth[:apart] = torch.nan  # nobody is below: they would be copies
    return Members(means, one.masks, worth, losses, one.homes)


def next_rung(config: "GEMONN", problem: Problem, state: "GEMONNState") -> Phase:
    """The walker before it learns at its next density."""
    tensors, masks, optimizer = _walker(state)
    shape = config.dense, config.climb, foot(masks, config.lowest, problem.symmetry)
    density = rung(state.generation, config.generations, *shape)
    keep = torch.tensor([round(density * masking.total(masks))])
    if int(keep) > int(masking.count(masks)):
        masks = masking.grow(masks, _slopes(problem, state, tensors), keep)
    else:
        masks = units.thin(tensors, masks, keep, problem.symmetry)
        tensors = masking.masked(tensors, masks)
    hyper = same_for_all(config.start_values(), 1)
    hyper["lr"] = hyper["lr"] * masking.density(masks) ** -config.rate_power
    unknown = torch.full((1,), torch.inf, dtype=torch.float64)
    nothing = counted(1), torch.full_like(unknown, torch.nan)
    mean = clone(tensors) if config.average else None
    kept = clone(tensors) if config.backoff else None
    more = {"rows": state.rows, "masks": masks, "optimizer": optimizer}
    return Phase(tensors, hyper, unknown, Share.whole(1), *nothing, kept, mean, **more)


def _slopes(problem: Problem, state: "GEMONNState", tensors: Tensors) -> Tensors:
    """The gradient of all weights on a new batch, of those that are gone as well."""
    population, device = problem.alone.population, problem.population.device
    population.load(tensors)
    population.gradient()
    with preserved(device):
        x, y = problem.source.draw(state.streams.data, 1, shared=True)
        with following(state.streams.noise, device):
            population.accumulate(problem.loss, trees.to(x, device), trees.to(y, device))
    state.passes += 1
    gradients = population.gradients()
    return {name: t.nan_to_num(0.0, 0.0, 0.0) for name, t in gradients.items()}


def _walker(state: "GEMONNState") -> tuple[Tensors, Masks, Any]:
    """The last child; at first the densest member, and after one that did not learn the best."""
    phase, losses = state.phase, finite_or_worst(state.members.losses)
    learnt = phase is not None and not is_lost(phase.lost, phase.step)
    if phase is not None and learnt and phase.masks is not None and _finite(phase.tensors):
        return clone(phase.tensors), phase.masks, phase.optimizer
    start = torch.arange(len(losses) - 1, len(losses)) if phase is None else losses.argsort()[:1]
    member = state.members.take(start)
    return member.tensors, member.masks, None


def _finite(tensors: Tensors) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors.values())


def _offered(config: "GEMONN", problem: Problem, state: "GEMONNState", phase: Phase) -> Members:
    """The walker as it is, the running mean of its weights, or its best at a check."""
    assert phase.masks is not None
    phase.tensors = clone(phase.tensors)
    valued = phase.kept or phase.mean or phase.tensors  # by the phase's last check
    found: list[Members] = []
    for tensors in filter(None, (phase.tensors, phase.mean, phase.kept)):
        losses = phase.losses if tensors is valued else None
        problem.alone.population.load(tensors)
        worth = config.measured(problem.alone, tensors, phase.masks, state.rows, losses)
        found.append(Members(clone(tensors), phase.masks, *worth, blocks(1, 1)))
    return min(found, key=lambda one: _first(finite_or_worst(one.losses)))


def _first(losses: Tensor) -> float:
    return float(losses[0])
