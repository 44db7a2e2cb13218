"""GEMONN's published search: children by gradient-guided crossover and zeroing, then fine-tuning.

Of one generation: a new batch that all members share; pairs by binary tournament on front and
crowding; gSBX; an entry becomes zero with probability 1 / entries; the children's losses and
gradients on the batch. At the end all are fine-tuned and compete with what they came from.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from gradevo.learning import clone
from gradevo.members import Members
from gradevo.operators import masks as masking
from gradevo.operators import pareto
from gradevo.operators.coins import rare
from gradevo.operators.gsbx import gsbx, sbx
from gradevo.polish import polish
from gradevo.problem import Problem
from gradevo.randomness import drawing, following, preserved
from gradevo.structure import Tensors

if TYPE_CHECKING:
    from gradevo.algorithms.gemonn import GEMONN, GEMONNState

FEWEST, SPARSE = 20, 0.05  # fine-tuning steps of members below this density


def step(config: "GEMONN", problem: Problem, state: "GEMONNState") -> Members | None:
    """A generation; after the last crossover, one member's fine-tuning a call."""
    if state.children is not None:
        return _fine_tuned(config, problem, state, state.children)
    batch = _batch(problem, state)
    if state.members.gradients is None:
        state.members = _evaluated(config, problem, state, state.members.tensors, batch)
    children = _evaluated(config, problem, state, breed(config, state), batch)
    if config.reevaluate:
        state.members = _evaluated(config, problem, state, state.members.tensors, batch)
    if config.fine_tune and state.generation + 1 == config.generations:
        state.members.compete(children)
        state.children, state.tuned = state.members, 0
        state.batch = _batch(problem, state)
        return None
    return children


def breed(config: "GEMONN", state: "GEMONNState") -> Tensors:
    """Children of the current members, as many."""
    members, generator = state.members, state.streams.choice
    fronts = pareto.fronts(members.objectives)
    crowding = pareto.crowding(members.objectives, fronts)
    pairs = (len(members) + 1) // 2
    parents = pareto.tournament(fronts, crowding, 2 * pairs, generator).view(2, pairs)
    first, second = members.take(parents[0]), members.take(parents[1])
    children = dict(members.take(parents.flatten()[: len(members)]).tensors)
    entries = sum(t[0].numel() for t in cast(Tensors, members.gradients).values())
    for name in cast(Tensors, members.gradients):
        both = _crossed(config, state, first, second, name)
        child = torch.cat(both)[: len(members)]
        bound = config.box[0 if name in members.masks else 1]
        child = child.clamp_(-bound, bound)
        gone = rare(child, 1 / entries, generator) if entries > 1 else torch.arange(0)
        child.view(-1)[gone.to(child.device)] = 0
        children[name] = child
    return children


def _crossed(
    config: "GEMONN", state: "GEMONNState", first: Members, second: Members, name: str
) -> tuple[Tensor, Tensor]:
    """Two children a pair, of one tensor."""
    generator = state.streams.choice
    if config.crossover == "sbx":
        return sbx(first.tensors[name], second.tensors[name], generator, index=config.index)
    slopes = cast(Tensors, first.gradients)[name], cast(Tensors, second.gradients)[name]
    return gsbx(
        first.tensors[name],
        second.tensors[name],
        slopes,
        generator,
        index=config.index,
        low_side=config.low_side,
    )


def _batch(problem: Problem, state: "GEMONNState") -> tuple[Tensor, Tensor]:
    """A new batch that all members share."""
    with preserved(problem.population.device):
        x, y = problem.source.draw(state.streams.data, problem.population.size, shared=True)
    return x.to(problem.population.device), y.to(problem.population.device)


def _evaluated(
    config: "GEMONN",
    problem: Problem,
    state: "GEMONNState",
    tensors: Tensors,
    batch: tuple[Tensor, Tensor],
) -> Members:
    """Members with their losses and gradients on a batch, and the other objectives."""
    population, device = problem.population, problem.population.device
    population.load(tensors)
    population.gradient()
    with preserved(device), drawing(state.streams.noise, range(population.size), device):
        losses = population.accumulate(problem.loss, *batch).cpu().double()
    state.passes += population.size
    gradients = clone(population.gradients())
    tensors = clone(population.tensors)  # with batch statistics as the pass has left them
    masks = masking.of_values(tensors, state.members.masks)
    worth = config.measured(problem, tensors, masks, state.rows, losses)
    return Members(tensors, masks, *worth, gradients)


def _fine_tuned(
    config: "GEMONN", problem: Problem, state: "GEMONNState", children: Members
) -> Members | None:
    """Fine-tune the next member's copy; when all are done, they are the last children."""
    i, densities = state.tuned, children.densities()
    steps = tuning_steps(config.fine_tune, float(densities[i]), float(densities.max()))
    one = children.take(torch.tensor([i]))
    batch = cast(tuple[Tensor, Tensor], state.batch)
    device = problem.population.device
    with preserved(device), following(state.streams.noise, device):
        tuned = polish(problem.alone, one.tensors, one.masks, batch, steps, config.lr)
    tensors = clone(children.tensors)
    for name, tensor in tensors.items():
        tensor[i] = tuned[name][0]
    state.children = replace(children, tensors=tensors)
    state.passes += steps
    state.tuned += 1
    if state.tuned < len(children):
        return None
    state.children, new = None, _batch(problem, state)
    state.members = _evaluated(config, problem, state, state.members.tensors, new)
    return _evaluated(config, problem, state, tensors, new)


def tuning_steps(most: int, density: float, highest: float) -> int:
    """In proportion to density; few for nearly empty members.

    Example:
        >>> tuning_steps(1000, 0.1, 0.2), tuning_steps(1000, 0.01, 0.2)
        (500, 20)
    """
    return min(most, FEWEST) if density < SPARSE else round(most * density / highest)
