"""One network from many: survivors aligned to the best and averaged in weight space."""

import torch
from torch import Tensor

from gradevo.distributed.placing import rows_at
from gradevo.fitness import evaluate
from gradevo.members import rows
from gradevo.operators.alignment import align
from gradevo.problem import Problem
from gradevo.structure import Tensors

FIRST = torch.tensor([0])


@torch.no_grad()
def greedy_soup(problem: Problem, members: Tensors, homes: Tensor) -> Tensors:
    """Mean weights of those survivors that do not raise the validation loss.

    Starts from the best member and tries the others in order of their loss (Wortsman et al.,
    "Model soups", 2022, recipe 1), each aligned to the best first. Every process tries its own, and
    what it finds counts as long as nobody before has changed the soup.

    Args:
        problem: its population says what the members are.
        members: stacked tensors of the members that are in this process, best first.
        homes: every member's rank, best first, `(g,)`.

    Returns:
        Tensors of one module, on every rank.
    """
    team = problem.team
    cook = _Cook(problem, members, rows_at(homes, team.rank))
    cook.first = cook.soup = team.fetch(members, homes, [FIRST] * team.size)
    best, known, i = cook.loss(cook.soup), dict[int, float](), 1
    while i < len(homes):
        tried = torch.tensor([cook.next(i, known)], dtype=torch.float64)
        every = team.gathered(tried, torch.arange(team.size)).tolist()
        known |= {int(place): loss for place, loss in every if place > 0}
        while i in known:
            loss, home = known[i], int(homes[i])
            i += 1
            if loss <= best:
                given = cook.trial(i - 1) if home == team.rank else cook.soup
                cook.soup = team.fetch(given, torch.tensor([home]), [FIRST] * team.size)
                cook.used, best = cook.used + 1, loss
                known.clear()
    return {name: t[0] for name, t in cook.soup.items()}


class _Cook:
    """The soup so far, `(1, ...)` each, and what would become of it with one of this process's.

    Args:
        problem: says what the members are.
        members: stacked tensors of those in this process.
        places: of them among all, ascending.
    """

    first: Tensors
    soup: Tensors

    def __init__(self, problem: Problem, members: Tensors, places: Tensor) -> None:
        self.problem, self.members, self.places = problem, members, places.tolist()
        self.one = problem.population.alone()
        self.used = 1  # members in the soup

    def next(self, start: int, known: dict[int, float]) -> tuple[int, float]:
        """This process's next member that nobody knows about, and its loss; 0 without one."""
        for place in self.places:
            if place >= start and place not in known:
                return place, self.loss(self.trial(place))
        return 0, 0.0

    def trial(self, place: int) -> Tensors:
        """The soup with one more member."""
        other = rows(self.members, torch.tensor([self.places.index(place)]))
        if self.problem.symmetry is not None:
            other = align(self.problem.symmetry, self.first, other)
        trial = dict(self.soup)
        for name in self.problem.population.structure.trainable:
            trial[name] = self.soup[name] + (other[name] - self.soup[name]) / (self.used + 1)
        return trial

    def loss(self, tensors: Tensors) -> float:
        """Validation loss of one network, computed in a population of one."""
        self.one.load(tensors)
        return float(evaluate(self.one, self.problem.loss, *self.problem.valid)[0])
