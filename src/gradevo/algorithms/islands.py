"""Islands: populations that evolve alone, and now and then hand each other their best.

For clusters where a barrier a generation costs too much, and for losses on which one population
settles too soon. Within an exchange period islands do not talk; then each gives copies of its
best to one other island, where they compete with the members that are there.

An island is a part of the algorithm, not of the machine: any number of processes gives the same
bits, with several islands a process or several processes an island.

Source of the model: Cantú-Paz, "A survey of parallel genetic algorithms", 1998.
"""

from dataclasses import KW_ONLY, dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from gradevo.algorithms.base import Info, plain
from gradevo.algorithms.gadam import GADAM, GADAMState, take
from gradevo.batches import Position
from gradevo.checkpoint import storable
from gradevo.distributed.placing import balanced, blocks, rows_at
from gradevo.errors import DivergedError
from gradevo.fields import choice, refuse_unused, settle, unused, whole
from gradevo.health import counted, improvements, told
from gradevo.learning import clone
from gradevo.operators import survival
from gradevo.optimisers import Hyper
from gradevo.phase import Streams
from gradevo.population import Loss
from gradevo.problem import Problem
from gradevo.randomness import drawn_key, generator_from
from gradevo.share import mixed
from gradevo.structure import Tensors

UNUSED = (
    unused(
        "every >= generations", lambda config: config.every >= config.generations,
        "migrants", "topology",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Islands:
    """Several populations of GADAM that exchange their best members.

    Attributes:
        algorithm: of every island; its `population` is that of one.
        islands: how many, at least 2.
        every: generations between two exchanges, at least 1; if there are no more: no exchange.
            History, callbacks and checkpoints come once an exchange.
        migrants: members that an island gives at an exchange, its best; at least 1, and fewer than
            it has.
        topology: "ring", always the next island; or "random", a new ring every time.

    Raises:
        ValueError: a field out of range.

    Example:
        >>> islands = Islands(GADAM(population=5, generations=6), islands=4, every=2)
        >>> islands.population, islands.generations
        (20, 6)
    """

    name: ClassVar[str] = "islands"
    unshared: ClassVar[str] = ""
    planned: ClassVar[bool] = True  # the last exchange is none: a run is not made longer

    algorithm: GADAM
    _: KW_ONLY
    islands: int = 4
    every: int = 2
    migrants: int = 1
    topology: Literal["ring", "random"] = "ring"

    def __post_init__(self) -> None:
        if not isinstance(self.algorithm, GADAM):
            raise ValueError(f"algorithm: must be a GADAM, got {self.algorithm!r}")
        if self.algorithm.theta is not None:
            raise ValueError("theta: must be None on islands, which all have as many generations")
        settle(
            self, islands=whole(2), every=whole(1), migrants=whole(1),
            topology=choice(("ring", "random")),
        )  # fmt: skip
        if self.migrants >= self.algorithm.population:
            raise ValueError(
                f"migrants: must be fewer than an island's members, {self.algorithm.population}, "
                f"got {self.migrants}"
            )
        refuse_unused(self, UNUSED)

    # --- the contract ------------------------------------------------------------------

    @property
    def population(self) -> int:
        """Members of all islands."""
        return self.islands * self.algorithm.population

    @property
    def batch_size(self) -> int | None:
        return self.algorithm.batch_size

    @property
    def generations(self) -> int:
        return self.algorithm.generations

    def criterion(self, loss: Loss) -> Loss:
        """The algorithm's."""
        return self.algorithm.criterion(loss)

    def init(self, problem: Problem, generator: Generator) -> "IslandsState":
        """All members as they were built."""
        return IslandsState(
            key=drawn_key(generator),
            members=clone(problem.population.tensors),
            losses=torch.full((self.population,), torch.inf, dtype=torch.float64),
            homes=self.layout(problem.team.size),
            lost=counted(self.population),
        )

    def step(self, problem: Problem, state: "IslandsState") -> tuple["IslandsState", Info | None]:
        """One slice of an island's; once all have had their generations, an exchange."""
        part, target, failed = self._part(problem), self._target(state), ""
        if not state.running:
            state = self._begun(problem, part, state)
        for i, one in enumerate(state.running):
            if one.generation < target:
                try:
                    state.running[i], _ = self.algorithm.step(part, one)
                except DivergedError as error:
                    failed = str(error)
                break
        if part.population.choice.settled:
            problem.population.choice.resume(part.population.engine)
        if not failed and any(one.generation < target for one in state.running):
            return state, None
        if problem.team.total(int(bool(failed))):  # all stop, at the exchange
            raise DivergedError(failed or "loss: all of an island in another process have diverged")
        return self._exchange(problem, part, state)

    def finished(self, state: "IslandsState") -> bool:
        """After the last generation of all islands."""
        return not state.running and state.generation >= self.generations

    def progress(self, problem: Problem, state: "IslandsState") -> float:
        """Share of the learning steps done, by this process."""
        part = self._part(problem)
        if not state.running:
            return min(1.0, state.phases / self.algorithm.phases)
        done = [self.algorithm.progress(part, one) for one in state.running]
        return sum(done) / len(done)

    def survivors(self, state: "IslandsState") -> tuple[Tensors, Tensor]:
        """All islands' members, best first; in one process."""
        order = survival.top(state.losses, self.population)
        return take(state.members, order), state.losses[order]

    # --- where islands are -------------------------------------------------------------

    def ranks_of(self, island: int, ranks: int) -> list[int]:
        """The ranks that an island is spread over.

        Example:
            >>> three = Islands(GADAM(), islands=3)
            >>> three.ranks_of(0, 4), three.ranks_of(2, 4), three.ranks_of(1, 2)
            ([0, 1], [3], [0])
        """
        if ranks <= self.islands:
            return [island * ranks // self.islands]
        return [rank for rank in range(ranks) if rank * self.islands // ranks == island]

    def layout(self, ranks: int) -> Tensor:
        """The rank of every member at the start, `(g,)`."""
        spread = []
        for island in range(self.islands):
            own = torch.tensor(self.ranks_of(island, ranks))
            spread.append(own[blocks(self.algorithm.population, len(own))])
        return torch.cat(spread)

    def _own(self, problem: Problem) -> list[int]:
        rank, size = problem.team.rank, problem.team.size
        return [i for i in range(self.islands) if rank in self.ranks_of(i, size)]

    def _part(self, problem: Problem) -> Problem:
        """One island's problem: all of a process take turns in it."""
        size = problem.team.size
        groups = [self.ranks_of(i, size) for i in range(self.islands)]
        each = problem.population.size // len(self._own(problem))
        return problem.part(each, groups if size > self.islands else [])

    def _target(self, state: "IslandsState") -> int:
        return min(state.generation + self.every, self.generations)

    # --- alone -------------------------------------------------------------------------

    def _begun(self, problem: Problem, part: Problem, state: "IslandsState") -> "IslandsState":
        """The state in which the islands of this process are under way."""
        running, start = [], 0
        for island in self._own(problem):
            ids = slice(
                island * self.algorithm.population, (island + 1) * self.algorithm.population
            )
            ranks = torch.tensor(self.ranks_of(island, problem.team.size))
            homes = torch.searchsorted(ranks, state.homes[ids])
            count = int((homes == part.team.rank).sum())
            members = {name: t[start : start + count] for name, t in state.members.items()}
            start += count
            # draws begin anew, so that of one island the others need to know little
            fresh = generator_from(mixed(state.key, island, state.generation))
            if state.prints is None or state.epochs is None or state.taken is None:
                part.population.load(members)
                running.append(self.algorithm.init(part, fresh))
                continue
            streams = Streams.start(part, fresh)
            streams.data = Position(state.epochs[island].clone(), int(state.taken[island]))
            running.append(
                GADAMState(
                    streams=streams,
                    members=clone(members),
                    losses=state.losses[ids].clone(),
                    hyper={name: values[ids].clone() for name, values in state.hyper.items()},
                    homes=homes,
                    lost=counted(self.algorithm.population),
                    prints=state.prints[ids].clone(),
                    generation=state.generation,
                    phases=state.phases,
                    breeding=self.algorithm.learners == "children",
                )
            )
        return replace(state, running=running, members={})

    # --- the exchange ------------------------------------------------------------------

    def _exchange(
        self, problem: Problem, part: Problem, state: "IslandsState"
    ) -> tuple["IslandsState", Info]:
        """Everybody's numbers to everybody; the best of each island to another."""
        team, generation = problem.team, self._target(state)
        known = self._told(problem, state)
        homes = known["homes"]
        known["losses"] = self._compared(problem, part, state, known)
        chosen = torch.arange(self.population).view(self.islands, -1)
        if generation < self.generations:
            source = self._source(state.key, generation)
            chosen = torch.stack([
                self._competed(chosen[i], chosen[source[i]], known) for i in range(self.islands)
            ])  # fmt: skip
        now = torch.cat(
            [self._homes_of(i, homes[chosen[i]], team.size) for i in range(self.islands)]
        )
        chosen = chosen.flatten()
        names = state.running[0].members.keys()
        here = {n: torch.cat([one.members[n] for one in state.running]) for n in names}
        wanted = [chosen[rows_at(now, rank)] for rank in range(team.size)]
        hyper = {name: known[f"hyper {name}"] for name in state.running[0].hyper}
        passes = known["passes"].view(self.islands, -1)[:, 0].sum()
        epochs, taken = self._positions(problem, state)
        after = IslandsState(
            key=state.key,
            members=team.fetch(here, homes, wanted),
            losses=known["losses"][chosen],
            homes=now,
            lost=state.lost + known["lost"],
            hyper={name: values[chosen] for name, values in hyper.items()},
            prints=known["prints"][chosen],
            generation=generation,
            passes=state.passes + int(passes),
            phases=state.running[0].phases,
            epochs=epochs,
            taken=taken,
        )
        return after, self._info(after, chosen) | {"improved": improvements(known["improved"])}

    def _compared(
        self, problem: Problem, part: Problem, state: "IslandsState", known: dict[str, Tensor]
    ) -> Tensor:
        """All members' losses on the same rows, `(g,)`: new ones where a batch is compared."""
        fresh = generator_from(mixed(state.key, self._target(state), 2))
        rows = part.validation_rows(self.algorithm.validation_batch, fresh)
        if rows is None:
            return known["losses"]
        losses = [part.evaluate(one.members, rows) for one in state.running]
        return problem.team.gathered(torch.cat(losses), known["homes"])

    def _positions(self, problem: Problem, state: "IslandsState") -> tuple[Tensor, Tensor]:
        """Where each island stands in the data: what its first rank says."""
        size, rank = problem.team.size, problem.team.rank
        leaders = torch.tensor([self.ranks_of(island, size)[0] for island in range(self.islands)])
        own = zip(self._own(problem), state.running, strict=True)
        data = [one.streams.data for island, one in own if leaders[island] == rank]
        width = state.running[0].streams.data.epoch.shape
        epochs = torch.stack([d.epoch for d in data]) if data else torch.empty(0, *width).byte()
        taken = torch.tensor([d.taken for d in data], dtype=torch.int64)
        return problem.team.gathered(epochs, leaders), problem.team.gathered(taken, leaders)

    def _told(self, problem: Problem, state: "IslandsState") -> dict[str, Tensor]:
        """All members' numbers, `(g,)` each, from the islands of this process."""
        size, layout = problem.team.size, self.layout(problem.team.size)
        columns: dict[str, list[Tensor]] = {}
        for island, one in zip(self._own(problem), state.running, strict=True):
            ranks = torch.tensor(self.ranks_of(island, size))
            ids = slice(island * len(one.losses), (island + 1) * len(one.losses))
            rows = rows_at(layout[ids], problem.team.rank)  # who says it, not who has it
            assert one.prints is not None
            numbers = {
                "losses": one.losses, "prints": one.prints, "homes": ranks[one.homes],
                "lost": one.lost, "improved": _known(one.improved, one.losses),
                "passes": torch.full_like(one.prints, one.passes),
                **{f"hyper {name}": values for name, values in one.hyper.items()},
            }  # fmt: skip
            for name, values in numbers.items():
                columns.setdefault(name, []).append(values[rows])
        return {name: problem.team.gathered(torch.cat(c), layout) for name, c in columns.items()}

    def _source(self, key: int, generation: int) -> list[int]:
        """From which island each gets its guests."""
        ring = torch.arange(self.islands)
        if self.topology == "random":
            ring = torch.randperm(self.islands, generator=generator_from(mixed(key, generation, 1)))
        before = dict(zip(ring.tolist(), ring.roll(1).tolist(), strict=True))
        return [before[island] for island in range(self.islands)]

    def _competed(self, ids: Tensor, others: Tensor, known: dict[str, Tensor]) -> Tensor:
        """The best of an island's members and its guests, best first; nobody twice."""
        losses, prints = known["losses"], known["prints"]
        guests = others[survival.top(losses[others], self.migrants)]
        new = ~torch.isin(prints[guests], prints[ids])
        union = torch.cat([ids, guests[new]])
        return union[survival.top(losses[union], len(ids))]

    def _homes_of(self, island: int, homes: Tensor, size: int) -> Tensor:
        """Ranks of an island's members, of whom guests are elsewhere."""
        ranks = torch.tensor(self.ranks_of(island, size))
        place = torch.where(torch.isin(homes, ranks), torch.searchsorted(ranks, homes), -1)
        return ranks[balanced(place, len(ranks))]

    def _info(self, state: "IslandsState", chosen: Tensor) -> Info:
        finite = state.losses.isfinite()
        each, came = state.losses.view(self.islands, -1), chosen.view(self.islands, -1)
        size = self.algorithm.population
        away = came // size != torch.arange(self.islands).unsqueeze(1)
        return {
            "generation": state.generation,
            "best": float(state.losses[finite].min()),
            "mean": float(state.losses[finite].mean()),
            "losses": plain(state.losses),
            "islands": plain(each.min(dim=1).values),
            "guests": away.sum(dim=1).tolist(),
            "member_steps": state.passes,
            **told(state.lost),
            "hyper": {name: plain(values) for name, values in state.hyper.items()},
            "survivors": chosen.tolist(),
        }


def _known(improved: Tensor | None, losses: Tensor) -> Tensor:
    """Who became better by learning; NaN where nobody looked."""
    return torch.full_like(losses, torch.nan) if improved is None else improved


@storable
@dataclass
class IslandsState:
    """Everything of a run on islands that changes. Members are numbered island by island.

    Attributes:
        key: of all random numbers.
        members: stacked tensors, `(n, ...)` each, of the members that are in this process; empty
            while the islands are under way.
        losses: of all members, `(g,)`, as of the last exchange.
        homes: the members' ranks, `(g,)`.
        lost: steps skipped up to the last exchange, by the place of the learner, `(g, 2)`.
        hyper: their own numbers, `(g,)` each.
        prints: their fingerprints, `(g,)`, after the first exchange.
        generation: generations that all islands have completed.
        passes: forward-backward passes so far, of one network each, as of the last exchange.
        phases: learning phases of an island so far.
        epochs: where each island stands in the data, `(islands, ...)`, and draws `taken` since.
        running: this process's islands between two exchanges.
    """

    key: int
    members: Tensors
    losses: Tensor
    homes: Tensor
    lost: Tensor
    hyper: Hyper = field(default_factory=dict)
    prints: Tensor | None = None
    generation: int = 0
    passes: int = 0
    phases: int = 0
    epochs: Tensor | None = None
    taken: Tensor | None = None
    running: list[GADAMState] = field(default_factory=list)

    # --- over processes ----------------------------------------------------------------

    @property
    def within(self) -> bool:
        return bool(self.running)

    def local(self) -> Tensors:
        return self.members

    def with_local(self, tensors: Tensors, homes: Tensor) -> "IslandsState":
        return replace(self, members=tensors, homes=homes)
