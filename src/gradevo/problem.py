"""What an algorithm works on: a population to compute with, a loss, and data."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gradevo import trees
from gradevo.batches import Pair, Source
from gradevo.distributed.placing import rows_at
from gradevo.distributed.team import ALONE, Team
from gradevo.engines import Choice
from gradevo.engines.choose import Practice
from gradevo.fitness import evaluate
from gradevo.operators.alignment import Symmetry, Unaligned
from gradevo.operators.diversity import mean_distance
from gradevo.operators.symmetry import find_symmetry
from gradevo.population import Loss, Population
from gradevo.share import Share
from gradevo.structure import Tensors

log = logging.getLogger(__name__)


@dataclass
class Problem:
    """Everything that stays the same during a run.

    Attributes:
        population: a workplace: its tensors are overwritten by whatever is computed next.
        loss: `loss(output, target)` returns a scalar for one member's batch.
        source: training batches.
        valid: validation rows `(x, y)` that all members share; tensors or trees of them.
        slice_seconds: how long a step of an algorithm may last before it returns.
        team: the processes that share the members; `population` has this one's.
        council: those that choose an engine together; None: the team.
        said: warnings that were given already, once a run.
        symmetry: hidden units that may be permuted; None where alignment does not apply,
            and `unaligned` says why.
        first: a member as it was in the beginning.
    """

    population: Population
    loss: Loss
    source: Source
    valid: Pair
    slice_seconds: float = 0.5
    team: Team = ALONE
    council: Team | None = None
    said: set[str] = field(default_factory=set)
    symmetry: Symmetry | None = field(init=False, default=None)
    unaligned: str | None = field(init=False, default=None)
    first: nn.Module = field(init=False, repr=False)
    _part: "Problem | None" = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        self.first = self.population.member(0)
        try:
            self.symmetry = find_symmetry(self.population.member(0), self.rows(slice(2))[0])
        except Unaligned as reason:
            self.unaligned = str(reason)
            log.info("alignment: not applied, %s", reason)

    def evaluate(self, tensors: Tensors, rows: Tensor | None = None) -> Tensor:
        """Validation loss of every member, `(g,)`, on all rows or on those given."""
        self.population.load(tensors)
        return evaluate(self.population, self.loss, *self.rows(rows))

    def rows(self, rows: Tensor | slice | None) -> Pair:
        """Validation rows `(x, y)`: all, or those given."""
        x, y = self.valid
        return self.valid if rows is None else (trees.take(x, rows), trees.take(y, rows))

    def settle(self, x: Any, y: Any, per_member: bool, practice: Practice | None = None) -> None:
        """Choose an engine on a batch; of several processes the first does it for all.

        Args:
            x, y: the batch, as `Population.accumulate` takes it.
            per_member: whether it is one a member.
            practice: steps to time engines by; None: gradients alone.
        """
        choice, team = self.population.choice, self.council or self.team
        if team.rank == 0 or choice.requested != "auto":
            choice.settle(self.population, self.loss, x, y, per_member, practice)
        if choice.requested == "auto":
            choice.resume(team.agree(choice.name))

    def share_at(self, homes: Tensor) -> Share:
        """The members that are in this process, by every member's rank."""
        return Share(tuple(rows_at(homes, self.team.rank).tolist()), len(homes))

    @cached_property
    def alone(self) -> "Problem":
        """The same problem for one network: where members learn one after another."""
        return replace(self, population=self.population.alone(), team=ALONE)

    def part(self, members: int, groups: Sequence[Sequence[int]]) -> "Problem":
        """The same problem for fewer members, and for the processes of one group; made once.

        Args:
            members: how many there is room for.
            groups: ranks of the groups into which the team falls apart; none: each for itself.
                Every process must call with the same ones.
        """
        if self._part is None:
            known = self.population
            own = known if members == known.size else known.select(range(members))
            if known.choice.settled:
                own.choice.resume(known.engine)
            self._part = replace(
                self, population=own, team=self.team.split(groups), council=self.team
            )
        return self._part

    @property
    def choice(self) -> Choice:
        """The engine in use where members learn: all together, or one after another."""
        together = self.workplace.choice
        alone = self.__dict__.get("alone")  # made, if anybody learnt there
        return together if together.settled or alone is None else alone.population.choice

    @property
    def workplace(self) -> Population:
        """Where members learn: the population, or that of the part."""
        return self.population if self._part is None else self._part.population

    def validation_rows(self, count: int | None, generator: torch.Generator) -> Tensor | None:
        """A new shared validation batch: `count` rows drawn without replacement; None: all."""
        total = trees.length(self.valid[0])
        if count is None or count >= total:
            return None
        return torch.randperm(total, generator=generator)[:count].to(self.population.device)

    def diversity(self, members: Tensors) -> float | None:
        """Mean distance of two members; None where they are not all in one process."""
        if self.team.size > 1:
            return None
        return mean_distance(members, self.population.structure.trainable, self.symmetry)
