"""One network from many: survivors aligned to the best and averaged in weight space."""

import torch

from gradevo.fitness import evaluate
from gradevo.operators.alignment import align
from gradevo.population import Population
from gradevo.problem import Problem
from gradevo.structure import Tensors


@torch.no_grad()
def greedy_soup(problem: Problem, members: Tensors) -> Tensors:
    """Mean weights of those survivors that do not raise the validation loss.

    Starts from the best member and tries the others in order of their loss (Wortsman et al.,
    "Model soups", 2022, recipe 1), each aligned to the best first.

    Args:
        problem: its population says what the members are.
        members: stacked tensors, `(g, ...)` each, best member first.

    Returns:
        Tensors of one module.
    """
    one = Population.from_modules([problem.population.member(0)], engine="loop")
    if problem.symmetry is not None:
        first = {name: t[:1].expand_as(t) for name, t in members.items()}
        members = align(problem.symmetry, first, members)
    soup = {name: t[0].clone() for name, t in members.items()}
    best, used = _loss(problem, one, soup), 1
    for i in range(1, problem.population.size):
        trial = dict(soup)
        for name in problem.population.structure.trainable:
            trial[name] = soup[name] + (members[name][i] - soup[name]) / (used + 1)
        loss = _loss(problem, one, trial)
        if loss <= best:
            soup, best, used = trial, loss, used + 1
    return soup


def _loss(problem: Problem, one: Population, tensors: Tensors) -> float:
    """Validation loss of one network, computed in a population of one."""
    one.load({name: tensor.unsqueeze(0) for name, tensor in tensors.items()})
    return float(evaluate(one, problem.loss, *problem.valid)[0])
