"""One generation of evolution in a training loop of your own.

`fit` owns the loop; here the loop is yours, or Lightning's, and members are replaced in place
between two of its steps.

Deviations from GADAM, whose operators these are:

- Everybody goes on learning, the best included: a loop has no phase in which only children learn.
- The worst members make room at once (`replace`), and children show in the next evaluation what
  they are worth. GADAM has children learn first and compares both generations, which needs a
  second set of members. The best member always stays.
- A child goes on with its fitter parent's optimiser moments, where GADAM starts new ones.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from gradevo import trees, validation
from gradevo.algorithms.gadam import GADAM
from gradevo.arrays import tensor_of
from gradevo.heredity import Estate
from gradevo.operators import survival
from gradevo.operators.alignment import Unaligned, align
from gradevo.operators.selection import finite_or_worst
from gradevo.operators.symmetry import find_symmetry
from gradevo.population import Population
from gradevo.probe import check_alike, check_real
from gradevo.randomness import drawn_key
from gradevo.structure import Tensors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Births:
    """Who was replaced by whose child.

    Attributes:
        children: where the children are now, `(n,)` members.
        parents: whose they are, `(n, 2)` members of before, the fitter first; twice the same where
            a child has one parent.
    """

    children: Tensor
    parents: Tensor

    def __len__(self) -> int:
        return len(self.children)


@torch.no_grad()
def evolve(
    population: Population,
    losses: Tensor | np.ndarray | Sequence[float],
    *,
    generator: Generator,
    optimizer: Optimizer | Sequence[Optimizer] = (),
    config: GADAM | None = None,
    replace: float = 0.2,
    example: Any = None,
) -> Births:
    """Replace the worst members of a population by children of the others, in place.

    For a training loop that is already there: train all members for a while, evaluate them on the
    same validation rows, evolve, go on. Parents are drawn by softmax fitness, the second is aligned
    to the first, children are crossed and mutated as in `GADAM`. The best member stays.

    Args:
        population: the members; tensors change in place, so optimisers and views stay valid.
        losses: validation loss of every member, `(g,)` numbers, lower is better; NaN and infinite
            ones rank last, and those members are always replaced.
        generator: a CPU generator; global random state is left untouched.
        optimizer: over `population.parameters()`, or one or several over members' rows. Children
            get the moments of their fitter parent; where members have parameter groups of their
            own, also the numbers that `config.evolve` names, perturbed. Default: none.
        config: the operators' settings: selection, crossover, crossover_rate, align, mutation,
            mutation_rate, evolve, perturb and rate_decay; other fields are not read. Default:
            `GADAM()`.
        replace: share of the members that make room, in [0, 1].
        example: a few inputs of a member, `(B, ...)`. With it the matching of hidden units is
            checked on numbers as well, and more forwards are understood.

    Returns:
        Who was replaced, and by whose child.

    Raises:
        ValueError: fewer than two members, losses not one a member, `replace` out of range, or an
            optimiser of something else.
        DivergedError: no loss is finite.

    Example:
        >>> import torch, gradevo as ge
        >>> pop = ge.Population(lambda: torch.nn.Linear(4, 3), size=4)
        >>> optimizer = torch.optim.Adam(pop.parameters())
        >>> losses = torch.tensor([0.3, 0.1, 0.9, 0.2])
        >>> births = ge.evolve(pop, losses, generator=torch.Generator(), optimizer=optimizer)
        >>> births.children
        tensor([2])
    """
    config, optimizers = _settings(config, optimizer)
    losses = _checked(population, losses, replace, generator, example)
    children = survival.losing(losses, validation.share("replace", replace))
    if not len(children):
        return Births(children, torch.empty(0, 2, dtype=torch.long))
    estate = Estate(population, optimizers)
    parents = config.drawn_parents(losses, len(children), generator)
    born = _bred(population, config, losses, parents, generator, example)
    estate.inherit(config, children, parents[:, 0], generator)
    estate.pass_on(children, parents[:, 0])
    for name, tensor in population.tensors.items():
        tensor[children.to(tensor.device)] = born[name]
    return Births(children, parents)


def _settings(config: Any, optimizer: Any) -> tuple[GADAM, Sequence[Optimizer]]:
    if not isinstance(config, GADAM | None):
        raise TypeError(f"config: must be a GADAM, got {config!r}")
    given = [optimizer] if isinstance(optimizer, Optimizer) else optimizer
    if not isinstance(given, list | tuple) or not all(isinstance(one, Optimizer) for one in given):
        raise TypeError(
            f"optimizer: must be a torch optimiser, or several, got {trees.kind(optimizer)}"
        )
    return config or GADAM(), given


def _checked(population: Any, losses: Any, replace: Any, generator: Any, example: Any) -> Tensor:
    """Losses `(g,)`, float64 on the CPU."""
    if not isinstance(population, Population):
        raise TypeError(f"population: must be a Population, got {trees.kind(population)}")
    validation.at_least("population", population.size, 2)
    check_real(population)
    check_alike(population, example)
    validation.share("replace", replace)
    if not isinstance(generator, Generator) or generator.device.type != "cpu":
        raise TypeError(
            f"generator: must be a torch.Generator on the CPU, got {trees.kind(generator)}"
        )
    losses = tensor_of("losses", losses)
    if losses.is_complex() or losses.dtype == torch.bool:
        raise TypeError(f"losses: must be real numbers, got {losses.dtype}")
    if losses.shape != (population.size,):
        raise ValueError(
            f"losses: must be one a member, ({population.size},), got {tuple(losses.shape)}"
        )
    return losses.detach().cpu().double()


def _bred(
    population: Population, config: GADAM, losses: Tensor, parents: Tensor, generator: Generator,
    example: Any,
) -> Tensors:  # fmt: skip
    """Stacked tensors of the children, `(n, ...)` each."""
    first, second = (
        {name: t[side.to(t.device)] for name, t in population.tensors.items()}
        for side in parents.unbind(1)
    )
    if config.align:
        best = int(finite_or_worst(losses).argmin())  # a member that has diverged shows nothing
        second = _aligned(population.member(best), first, second, example)
    ids, key = torch.arange(len(parents)), drawn_key(generator)
    return config.crossed(population.structure, losses, parents, (first, second), ids, key)


def _aligned(member: nn.Module, first: Tensors, second: Tensors, example: Any) -> Tensors:
    """The second parents with hidden units in the first ones' order, where that is known."""
    try:
        symmetry = find_symmetry(member, example)
    except Unaligned as reason:
        log.info("alignment: not applied, %s", reason)
        return second
    return align(symmetry, first, second)
