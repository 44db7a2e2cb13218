"""The result of a population that is spread over processes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gradevo.distributed.placing import NOBODY, rows_at
from gradevo.distributed.team import Team
from gradevo.front import Front
from gradevo.population import Population
from gradevo.result import Result
from gradevo.structure import Tensors, with_tensors


@dataclass(repr=False)
class SharedResult(Result):
    """The outcome of `fit` in a process group: `best` and `soup` are on every rank.

    Besides what `Result` has, of which `members` are the survivors that are in this process:

    Attributes:
        team: the processes.
        homes: rank of each survivor, best first, `(g,)`.
        best_tensors: weights of `best`.
    """

    team: Team
    homes: Tensor
    best_tensors: Tensors

    @property
    def best(self) -> nn.Module:
        """The member with the lowest validation loss, an ordinary module in eval mode."""
        tensors = {name: t.clone() for name, t in self.best_tensors.items()}
        return with_tensors(self.members.member(0), tensors).eval()

    @property
    def ensemble(self) -> nn.Module:
        """Needs all members in one process.

        Raises:
            RuntimeError: always; `gather()` returns a result that has them.
        """
        raise RuntimeError(
            "ensemble: must have all members in one process, got those of one of several; call "
            "result.gather().ensemble on every rank"
        )

    def gather(self) -> Result:
        """The result with all members, on every rank; every rank must call it."""
        whole = self._at([torch.arange(len(self.homes))] * self.team.size)
        assert whole is not None
        return whole

    def save(self, folder: str | Path) -> None:
        """As `Result.save`: every rank must call it; rank 0 gathers the members and writes."""
        everyone = torch.arange(len(self.homes))
        whole = self._at([everyone, *[NOBODY] * (self.team.size - 1)])
        if whole is not None:
            whole.save(folder)
        self.team.agree(True)  # nobody goes on before it is there

    def _at(self, wanted: list[Tensor]) -> Result | None:
        """The whole result at those ranks that want the members."""
        population = _at(self.members, self.homes, self.team, wanted)
        if population is None:
            return None
        return Result(
            population, self.losses, self.history, self.member_steps, self.engine,
            self.probabilities, self.soup_tensors,
        )  # fmt: skip


@dataclass(repr=False)
class SharedFront(Front):
    """The outcome of `fit` with `GEMONN` in a process group: its numbers are on every rank.

    Besides what `Front` has, of which `members` are all survivors that are in this process:

    Attributes:
        team: the processes.
        homes: rank of each survivor, best first, `(g,)`.
        chosen: which of them are on the front, sparsest first.
    """

    team: Team
    homes: Tensor
    chosen: Tensor

    def _network(self, i: int) -> nn.Module:
        raise RuntimeError(
            "front: must have its networks in one process to pick one, got those of one of "
            "several; call result.gather() on every rank"
        )

    def gather(self) -> Front:
        """The front with all its networks, on every rank; every rank must call it."""
        whole = self._at([self.chosen] * self.team.size)
        assert whole is not None
        return whole

    def save(self, folder: str | Path) -> None:
        """As `Front.save`: every rank must call it; rank 0 gathers the networks and writes."""
        whole = self._at([self.chosen, *[NOBODY] * (self.team.size - 1)])
        if whole is not None:
            whole.save(folder)
        self.team.agree(True)  # nobody goes on before it is there

    def _at(self, wanted: list[Tensor]) -> Front | None:
        population = _at(self.members, self.homes, self.team, wanted)
        if population is None:
            return None
        return Front(population, self.points, self.history, self.member_steps, self.engine)


def _at(members: Population, homes: Tensor, team: Team, wanted: list[Tensor]) -> Population | None:
    """A population of the members that this rank wants, in eval mode; None if it wants none."""
    tensors, count = team.fetch(members.tensors, homes, wanted), len(wanted[team.rank])
    if not count:
        return None
    modules = [members.member(0) for _ in range(count)]
    population = Population.from_modules(modules, engine=members.choice.requested)
    population.load(tensors)
    return population.eval()


def shared(result: Result, team: Team, homes: Tensor) -> Result:
    """A result whose `members` are those of this process, best first; alone it is as it is."""
    if team.size == 1:
        return result
    tensors = result.members.tensors
    best = team.fetch(tensors, homes, [torch.tensor([0])] * team.size)
    fields = {name: value for name, value in vars(result).items()}
    return SharedResult(
        **fields, team=team, homes=homes, best_tensors={n: t[0] for n, t in best.items()}
    )


def in_order(tensors: Tensors, homes: Tensor, order: Tensor, rank: int) -> Tensors:
    """This rank's members in the order of all: row i is the i-th that is here."""
    mine = order[homes[order] == rank]
    rows = torch.searchsorted(rows_at(homes, rank), mine)
    return {name: t[rows.to(t.device)] for name, t in tensors.items()}
