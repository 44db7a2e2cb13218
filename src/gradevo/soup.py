"""One network from many: survivors aligned to the best and averaged in weight space."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradevo.distributed.placing import NOBODY
from gradevo.fitness import evaluate
from gradevo.operators.alignment import align
from gradevo.population import Population
from gradevo.problem import Problem
from gradevo.structure import Tensors


@torch.no_grad()
def greedy_soup(problem: Problem, members: Tensors, homes: Tensor) -> Tensors:
    """Mean weights of those survivors that do not raise the validation loss.

    Starts from the best member and tries the others in order of their loss (Wortsman et al.,
    "Model soups", 2022, recipe 1), each aligned to the best first.

    Args:
        problem: its population says what the members are.
        members: stacked tensors of the members that are in this process, best first.
        homes: every member's rank, best first, `(g,)`.

    Returns:
        Tensors of one module, on every rank. Rank 0 makes it, from one member after another.
    """
    team = problem.team

    def row(i: int) -> Tensors:
        wanted = [torch.tensor([i]), *[NOBODY] * (team.size - 1)]
        team.total(0)  # nobody waits in the next exchange for longer than one member takes
        return team.fetch(members, homes, wanted)

    if team.rank == 0:
        soup = _mixed(problem, row, len(homes))
    else:
        for i in range(len(homes)):
            row(i)
        soup = {name: t[0] for name, t in members.items()}
    given = {name: t.unsqueeze(0) for name, t in soup.items()}
    kept = team.fetch(given, torch.zeros(1, dtype=torch.int64), [torch.tensor([0])] * team.size)
    return {name: t[0] for name, t in kept.items()}


def _mixed(problem: Problem, row: Callable[[int], Tensors], count: int) -> Tensors:
    """The soup of so many members, `row(i)` the tensors of one, `(1, ...)` each."""
    one = Population.from_modules([problem.population.member(0)], engine="loop")
    first = row(0)
    soup = {name: t[0] for name, t in first.items()}
    best, used = _loss(problem, one, soup), 1
    for i in range(1, count):
        trial, other = dict(soup), row(i)
        if problem.symmetry is not None:
            other = align(problem.symmetry, first, other)
        for name in problem.population.structure.trainable:
            trial[name] = soup[name] + (other[name][0] - soup[name]) / (used + 1)
        loss = _loss(problem, one, trial)
        if loss <= best:
            soup, best, used = trial, loss, used + 1
    return soup


def _loss(problem: Problem, one: Population, tensors: Tensors) -> float:
    """Validation loss of one network, computed in a population of one."""
    one.load({name: tensor.unsqueeze(0) for name, tensor in tensors.items()})
    return float(evaluate(one, problem.loss, *problem.valid)[0])
