"""GEMONN's published search: children by gradient-guided crossover and zeroing, then fine-tuning.

Of one generation: a new batch that all members share; pairs by binary tournament on front and
crowding; gSBX; an entry becomes zero with probability 1 / entries; the children's losses and
gradients on the batch. At the end all are fine-tuned and compete with what they came from.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Generator, Tensor

from gradevo import trees
from gradevo.batches import Pair
from gradevo.distributed.placing import near_parents, rows_at
from gradevo.health import GRADIENT, add, counted, say, sound_steps
from gradevo.learning import clone
from gradevo.members import Members, rows, told
from gradevo.operators import masks as masking
from gradevo.operators import pareto
from gradevo.operators.coins import rare
from gradevo.operators.gsbx import gsbx, sbx
from gradevo.polish import polish
from gradevo.problem import Problem
from gradevo.randomness import drawing, drawn_key, following, generator_from, preserved
from gradevo.share import mixed
from gradevo.structure import Structure, Tensors, keep_still

if TYPE_CHECKING:
    from gradevo.algorithms.gemonn import GEMONN, GEMONNState

FEWEST, SPARSE = 20, 0.05  # fine-tuning steps of members below this density
TRIES = 20  # batches, of which one must have a finite loss for somebody


def step(config: "GEMONN", problem: Problem, state: "GEMONNState") -> Members | None:
    """A generation; after the last crossover, one member's fine-tuning a call."""
    if state.children is not None:
        return _fine_tuned(config, problem, state, state.children)
    members = state.members
    if members.gradients is None:
        state.members, batch = _compared(config, problem, state, members.tensors, members.homes)
    else:
        batch = _batch(problem, state)
    children = _evaluated(config, problem, state, *breed(config, problem, state), batch)
    if config.reevaluate and bool(children.losses.isfinite().any()):
        members = state.members
        state.members = _evaluated(config, problem, state, members.tensors, members.homes, batch)
    if config.fine_tune and state.generation + 1 == config.generations:
        state.members.compete(children, problem.team)
        _plan(config, problem, state)
        return None
    return children


def breed(config: "GEMONN", problem: Problem, state: "GEMONNState") -> tuple[Tensors, Tensor]:
    """Children of the current members, as many: of this process, and the ranks of all `(g,)`.

    Children 2p and 2p + 1 are of pair p, and are computed where its first parent is, if there is
    room.
    """
    members, generator, team = state.members, state.streams.choice, problem.team
    fronts = pareto.fronts(members.objectives)
    crowding = pareto.crowding(members.objectives, fronts)
    count = (len(members) + 1) // 2
    parents = pareto.tournament(fronts, crowding, 2 * count, generator).view(2, count)
    key, pair_of = drawn_key(generator), torch.arange(len(members)) // 2
    homes = near_parents(parents.T[pair_of], members.homes, team.size)
    mine = [rows_at(homes, rank) for rank in range(team.size)]
    pairs = [pair_of[ids].unique() for ids in mine]
    wanted = [parents[:, own].flatten() for own in pairs]
    both = members.arrived(team.fetch(members.travelling(), members.homes, wanted))
    own = mine[team.rank].tolist(), pairs[team.rank].tolist()
    weights, structure = members.masks.keys(), problem.population.structure
    return _children(config, structure, both, weights, *own, key), homes


def _children(
    config: "GEMONN", structure: Structure, parents: tuple[Tensors, Tensors],
    weights: Collection[str], ids: list[int], pairs: list[int], key: int,
) -> Tensors:  # fmt: skip
    """Children by their numbers, each with random numbers of its own.

    Args:
        config: how.
        structure: of a member.
        parents: tensors and gradients of all first parents of the pairs, then all second ones.
        weights: names of tensors with weights.
        ids: which children.
        pairs: of which pairs they are.
        key: of the generation.
    """
    tensors, gradients = parents
    n = len(pairs)
    streams = [generator_from(mixed(key, pair)) for pair in pairs]
    chances = [generator_from(mixed(key, child, 1)) for child in ids]
    places = torch.tensor([pairs.index(child // 2) + n * (child % 2) for child in ids])
    entries = sum(t[0].numel() for t in gradients.values())
    like = rows(tensors, places)
    children = dict(like)
    for name, slopes in gradients.items():
        both = torch.cat(_crossed(config, tensors[name], slopes, streams))
        child = both[places.to(both.device)]
        bound = config.box[0 if name in weights else 1]
        child = child.clamp_(-bound, bound)
        for row, chance in zip(child, chances, strict=True):
            gone = rare(row, 1 / entries, chance) if entries > 1 else torch.arange(0)
            row.view(-1)[gone.to(row.device)] = 0
        children[name] = child
    keep_still(structure, children, like)
    return children


def _crossed(
    config: "GEMONN", parents: Tensor, gradients: Tensor, streams: Sequence[Generator]
) -> tuple[Tensor, Tensor]:
    """Two children a pair, of one tensor of all first parents, then all second ones."""
    first, second = parents.chunk(2)
    if config.crossover == "sbx":
        return sbx(first, second, streams, index=config.index)
    slopes = gradients[: len(first)], gradients[len(first) :]
    return gsbx(first, second, slopes, streams, index=config.index, low_side=config.low_side)


def _batch(problem: Problem, state: "GEMONNState") -> Pair:
    """A new batch that all members share."""
    device = problem.population.device
    with preserved(device):
        x, y = problem.source.draw(state.streams.data, problem.population.size, shared=True)
    return trees.to(x, device), trees.to(y, device)


def _compared(
    config: "GEMONN", problem: Problem, state: "GEMONNState", tensors: Tensors, homes: Tensor
) -> tuple[Members, Pair]:
    """Members on a new batch, or on the first one of which anybody has a finite loss."""
    batch = _batch(problem, state)
    members = _evaluated(config, problem, state, tensors, homes, batch)
    for _ in range(TRIES - 1):
        if bool(members.losses.isfinite().any()):
            break
        batch = _batch(problem, state)
        members = _evaluated(config, problem, state, tensors, homes, batch)
    return members, batch


def _evaluated(
    config: "GEMONN",
    problem: Problem,
    state: "GEMONNState",
    tensors: Tensors,
    homes: Tensor,
    batch: Pair,
) -> Members:
    """Members with their losses and gradients on a batch, and the other objectives."""
    population, device, ids = problem.population, problem.population.device, problem.share_at(homes)
    population.load(tensors)
    population.gradient()
    with preserved(device), drawing(state.streams.noise, ids.ids, device):
        if not population.choice.settled:
            with population.computing():
                problem.settle(*batch, per_member=False)
        losses = population.accumulate(problem.loss, *batch)
    state.passes += len(homes)
    _count(problem, state, losses, homes, batch)
    losses = losses.cpu().double()
    gradients = {n: t.nan_to_num(0.0, 0.0, 0.0) for n, t in population.gradients().items()}
    tensors = clone(population.tensors)  # with batch statistics as the pass has left them
    masks = masking.of_values(tensors, state.members.masks)
    worth = config.measured(problem, tensors, masks, state.rows, losses)
    return Members(tensors, masks, *told(problem.team, worth, homes), homes, gradients)


def _count(
    problem: Problem, state: "GEMONNState", losses: Tensor, homes: Tensor, batch: Pair
) -> None:
    """Count gradients that are not finite, which then do not guide a crossover."""
    population = problem.population
    sound = sound_steps(population, population.gradient_buffer(), losses)
    counts = counted(population.size)
    if sound is not None:
        counts = add(counts, sound).cpu()
        say(problem.said, sound, problem.share_at(homes).ids, *batch)
    state.lost = state.lost + problem.team.gathered(counts, homes)


def _plan(config: "GEMONN", problem: Problem, state: "GEMONNState") -> None:
    """From here on the members are fine-tuned."""
    state.children, state.tuned = state.members, 0
    densities = state.members.densities(problem.team).tolist()
    state.plan = [tuning_steps(config.fine_tune, d, max(densities)) for d in densities]
    state.batch, state.key = _batch(problem, state), drawn_key(state.streams.choice)


def _fine_tuned(
    config: "GEMONN", problem: Problem, state: "GEMONNState", children: Members
) -> Members | None:
    """Fine-tune this process's next member; when all are done, they are the last children."""
    row, ids = state.tuned, problem.share_at(children.homes).ids
    steps, noise = state.plan[ids[row]], generator_from(mixed(state.key, ids[row]))
    one = rows(children.tensors, torch.tensor([row])), rows(children.masks, torch.tensor([row]))
    device = problem.population.device
    x, y = (trees.to(part, device) for part in cast(Pair, state.batch))
    with preserved(device), following(noise, device):
        tuned, left = polish(problem.alone, *one, (x, y), steps, config.lr)
    tensors = clone(children.tensors)
    for name, tensor in tensors.items():
        tensor[row] = tuned[name][0]
    state.children = replace(children, tensors=tensors)
    state.lost[ids[row], GRADIENT] += left
    state.passes += steps
    state.tuned += 1
    if state.tuned < len(ids):
        return None
    state.passes += sum(state.plan) - sum(state.plan[i] for i in ids)  # by other processes
    state.lost = problem.team.gathered(state.lost[list(ids)], children.homes)
    members, state.children = state.members, None
    state.members, new = _compared(config, problem, state, members.tensors, members.homes)
    return _evaluated(config, problem, state, tensors, children.homes, new)


def tuning_steps(most: int, density: float, highest: float) -> int:
    """In proportion to density; few for nearly empty members.

    Example:
        >>> tuning_steps(1000, 0.1, 0.2), tuning_steps(1000, 0.01, 0.2)
        (500, 20)
    """
    return min(most, FEWEST) if density < SPARSE else round(most * density / highest)
