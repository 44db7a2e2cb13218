"""One network from many: survivors aligned to the best and averaged in weight space."""

import torch

from gradevo.operators.alignment import align
from gradevo.problem import Problem
from gradevo.structure import Tensors


@torch.no_grad()
def greedy_soup(problem: Problem, members: Tensors) -> Tensors:
    """Mean weights of those survivors that do not raise the validation loss.

    Starts from the best member and tries the others in order of their loss (Wortsman et al.,
    "Model soups", 2022, recipe 1), each aligned to the best first.

    Args:
        problem: its population is used to evaluate.
        members: stacked tensors, `(g, ...)` each, best member first.

    Returns:
        Tensors of one module.
    """
    structure, count = problem.population.structure, problem.population.size
    if problem.symmetry is not None:
        first = {name: t[:1].expand_as(t) for name, t in members.items()}
        members = align(problem.symmetry, first, members)
    soup = {name: t[0].clone() for name, t in members.items()}
    best, used = _loss(problem, soup), 1
    for i in range(1, count):
        trial = dict(soup)
        for name in structure.trainable:
            trial[name] = soup[name] + (members[name][i] - soup[name]) / (used + 1)
        loss = _loss(problem, trial)
        if loss <= best:
            soup, best, used = trial, loss, used + 1
    return soup


def _loss(problem: Problem, tensors: Tensors) -> float:
    """Validation loss of one network; the population computes it g times over."""
    count = problem.population.size
    stacked = {name: t.unsqueeze(0).expand(count, *t.shape) for name, t in tensors.items()}
    return float(problem.evaluate(stacked)[0])
