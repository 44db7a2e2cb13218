"""What a run's saved states are held against before anything of them is used."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradevo import trees
from gradevo.distributed.rows import fingerprints
from gradevo.fitness import evaluate
from gradevo.forms import Form, Misfit, exactly, mapping, misfit, stacked, tensor
from gradevo.population import Population
from gradevo.problem import Problem
from gradevo.randomness import generator_from, isolated
from gradevo.structure import Tensors

LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Plan:
    """Sizes, names, shapes and types of a run.

    Attributes:
        problem: the run's.
        population: its own, or that of a part that learns alone.
        members: of all processes, g.
        own: those whose tensors are there: all, a process's, or none in the head of several.
        ranks: processes that have saved it.
    """

    problem: Problem
    population: Population
    members: int
    own: Tensor
    ranks: int = 1

    def part(self, members: int) -> "Plan":
        """Of a part that has so many members of one process."""
        population = self.population.select(range(members))
        return Plan(self.problem, population, members, torch.arange(members))

    @property
    def rows(self) -> int:
        """Members whose tensors are there."""
        return len(self.own)

    @property
    def tensors(self) -> Form:
        """Stacked tensors of the members."""
        return stacked(self.population.tensors, self.rows)

    @property
    def gradients(self) -> Form:
        """Of the members' losses."""
        return stacked(self.population.leaves, self.rows)

    def masks(self, names: Iterable[str]) -> Form:
        """Which weights of the members are there."""
        shapes = {name: self.population.tensors[name].shape[1:] for name in names}
        return mapping({n: tensor((self.rows, *s), torch.bool) for n, s in shapes.items()})

    def numbers(self, dtype: torch.dtype = torch.float64) -> Form:
        """One a member, of all."""
        return tensor((self.members,), dtype)

    def hyper(self, names: Iterable[str]) -> Form:
        """The members' own numbers of their optimiser."""
        return mapping(
            {name: tensor((self.members,), torch.float64, 0.0, LARGEST) for name in names}
        )

    @property
    def homes(self) -> Form:
        """The members' ranks."""
        return tensor((self.members,), torch.int64, 0, self.ranks - 1)

    def validation_rows(self, count: int | None) -> Form:
        """So many drawn ones of all validation rows; None: all, which are not listed."""
        total = trees.length(self.problem.valid[0])
        if count is None or count >= total:
            return exactly(None)
        return tensor((count,), torch.int64, 0, total - 1)

    def batch(self, value: Any, where: str) -> None:
        """A training batch: tensors of the axes that validation rows have, and with a loss."""
        if not isinstance(value, tuple) or len(value) != 2:
            misfit(where, "inputs and targets", value)
        for part, example in zip(value, self.problem.valid, strict=True):
            mine, theirs = trees.tensors(example), trees.tensors(part)
            shapes = [(self.problem.source.batch_size, *t.shape[1:]) for t in mine]
            if shapes != [tuple(t.shape) for t in theirs]:
                misfit(where, f"a batch of shapes {shapes}", [])
        own = self.population
        with isolated(generator_from(0), own.device):
            try:
                here = (trees.to(part, own.device) for part in value)
                losses = evaluate(own, self.problem.loss, *here)
            except Exception as error:  # whatever labels that are no classes make a loss raise
                raise Misfit(f"{where} must be a batch that the loss takes, got {error}") from error
        if not bool(losses.isfinite().any()):
            misfit(where, "a batch of which a loss is finite", [])

    def unlike(self, tensors: Tensors, prints: Tensor | None) -> str:
        """Which member has another fingerprint than its own; empty if none has."""
        if prints is None:
            return ""
        wrong = self.own[fingerprints(tensors) != prints[self.own]].tolist()
        return f"member {wrong[0]} is not as it was when it had learnt" if wrong else ""

    def unsound(self, tensors: Tensors, losses: Tensor) -> str:
        """Which member has a loss but weights that are not numbers; empty if none has."""
        wrong = not_numbers(tensors) & losses[self.own].isfinite()
        found = self.own[wrong].tolist()
        return f"member {found[0]} has a loss, but NaN in its tensors" if found else ""


def not_numbers(tensors: Mapping[str, Tensor], members: int = 0) -> Tensor:
    """Which members' tensors have NaN, `(n,)`; where there are none, so many have not."""
    count = len(next(iter(tensors.values()))) if tensors else members
    found = torch.zeros(count, dtype=torch.bool)
    for t in tensors.values():
        real = torch.view_as_real(t) if t.is_complex() else t
        if real.is_floating_point() and real.numel():
            flat = real.reshape(count, -1)
            flat = flat.float() if flat.element_size() == 1 else flat
            found |= flat.amax(dim=1).isnan().cpu()  # NaN is the largest, and no copy is made
    return found
