"""GEMONN: gradient-guided evolution towards sparse networks, with several objectives at once.

A population is kept on the front between density (the share of weights that are there) and loss
by the survival of NSGA-II. `GEMONN.paper()` is the published method: children by a crossover that
the signs of both parents' gradients guide (`search="crossover"`), and single entries set to zero.

Deviations of the default from the paper, each an argument:

- One network walks down a ladder of densities (`search="ladder"`): after some dense training it
  loses its smallest weights, little by little, then regains weights where the gradient is largest,
  and learns in between by an optimiser whose moments are zero where a weight is gone. Every rung is
  offered to the population. Crossover trains every density from nothing; a walker has all the
  steps before behind it. At the end members are crossed with their neighbours on the ladder.
- The sparser it is, the larger its learning rate (`rate_power`): fewer weights must carry more.
- No zeroing empties a unit that is read; a hidden one that nothing reads goes whole.
- Members are compared on the same validation rows for the whole run, so that none is kept for a
  lucky batch.

docs/results/gemonn.md has the measurements. The paper's text leaves much open; what is built here
is written at each place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from gradevo import health
from gradevo import objectives as measures
from gradevo.algorithms import guided, ladder
from gradevo.algorithms.base import Info, LearningConfig, plain
from gradevo.batches import Pair
from gradevo.checkpoint import storable
from gradevo.distributed.placing import blocks, rows_at
from gradevo.errors import DivergedError
from gradevo.fields import choice, optional, refuse_unused, settle, unused, whole
from gradevo.learning import clone
from gradevo.members import Members, told
from gradevo.objectives import Objective
from gradevo.operators import masks as masking
from gradevo.operators import pareto
from gradevo.operators.selection import finite_or_worst
from gradevo.phase import Phase, Streams
from gradevo.problem import Problem
from gradevo.randomness import drawn_key, generator_from
from gradevo.share import mixed
from gradevo.structure import Tensors
from gradevo.validation import flag, not_negative, positive, share

SEARCHES = {"ladder": ladder.step, "crossover": guided.step}
UNUSED = (
    unused(
        'search="ladder"', lambda config: config.search == "ladder",
        "crossover", "index", "low_side", "reevaluate", "box", "fine_tune", "shared_batch",
    ),
    unused(
        'search="crossover"', lambda config: config.search == "crossover",
        "steps", "epochs", "optimizer", "options", "schedule", "clip", "checks", "backoff",
        "average", "dense", "climb", "lowest", "blend", "rate_power",
        weight_decay=0.0, shared_batch=True,
    ),
    unused(
        'search="crossover" and without the objective "error"',
        lambda config: config.search == "crossover" and "error" not in config.objectives,
        "validation_batch",
    ),
    unused('crossover="sbx"', lambda config: config.crossover == "sbx", "low_side"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GEMONN(LearningConfig):
    """A front of networks from nearly empty to dense, in one run.

    For someone who must ship a small network: instead of one sparsity chosen beforehand, all of
    them, and the choice afterwards. Besides the fields of `LearningConfig`, of which `steps`
    counts for one child of the ladder, and learning otherwise:

    Attributes:
        population: members N, at least 2.
        generations: T, at least 1. A generation of the ladder is one child.
        objectives: two or more of "density", "loss", "error", "flops", "bytes", or functions of
            a module that return a number; all are minimised.
        search: "ladder", or "crossover" (the paper).
        dense: ladder: share of the generations before the first weight goes.
        climb: ladder: share of the other generations in which it goes up again.
        lowest: ladder: density at its foot; None: half a weight for every hidden unit, and
            five for every four units that cannot go.
        blend: ladder: whether neighbours are crossed at the end, which costs no passes.
        rate_power: ladder: the learning rate at density d is `lr` d^-`rate_power`.
        validation_batch: ladder: validation rows that members are compared on, drawn once; None:
            all. With "crossover" for the objective "error" alone.
        crossover: "gsbx", guided by gradients, or plain "sbx".
        index: crossover: distribution index.
        low_side: crossover: both children follow the low side's gradient (the published code).
        reevaluate: crossover: parents are compared with children on the children's batch, for
            `population` further passes; else they keep the losses that they were born with.
        box: crossover: bounds of weights, and of all other numbers, from minus to plus.
        fine_tune: crossover: optimiser steps of the densest member at the end; the others have
            steps in proportion to their density. 0: none.

    Raises:
        ValueError: a field out of range.

    Example:
        >>> GEMONN(population=20, generations=100, steps=50).passes
        5000

    Source: GEMONN (gradient-guided evolutionary multi-objective neural networks).
    """

    name: ClassVar[str] = "gemonn"
    planned: ClassVar[bool] = True  # the plan counts generations: a run is not made longer

    population: int = 50
    generations: int = 500
    steps: int = 50
    optimizer: str | type[Optimizer] = "Adam"
    lr: float = 3e-3
    average: float = 0.5
    backoff: bool = False
    objectives: Sequence[Objective] = ("density", "loss")
    search: Literal["ladder", "crossover"] = "ladder"
    dense: float = 0.15
    climb: float = 0.5
    lowest: float | None = None
    blend: bool = True
    rate_power: float = 0.25
    validation_batch: int | None = 2048
    crossover: Literal["gsbx", "sbx"] = "gsbx"
    index: float = 20.0
    low_side: bool = False
    reevaluate: bool = True
    box: tuple[float, float] = (10.0, 20.0)
    fine_tune: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(
            self,
            population=whole(2),
            generations=whole(1),
            search=choice(SEARCHES),
            dense=share,
            climb=share,
            lowest=optional(_share_above_0),
            blend=flag,
            rate_power=not_negative,
            validation_batch=optional(whole(1)),
            crossover=choice(("gsbx", "sbx")),
            index=positive,
            low_side=flag,
            reevaluate=flag,
            fine_tune=whole(0),
            box=_box,
            objectives=lambda name, value: measures.check(value, name),
        )
        refuse_unused(self, UNUSED)

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """The published method: guided crossover, zeros by chance, losses kept from birth.

        `low_side=True` is the published code, where both children follow one gradient.
        """
        setting: dict[str, Any] = {"search": "crossover", "reevaluate": False, "lr": 1e-3}
        return cls(**{**setting, **changes})

    @property
    def passes(self) -> int:
        """Forward-backward passes of one network in a run.

        Not counted: fine-tuning, and one for every rung of the ladder that regains weights.
        """
        if self.search == "ladder":
            return self.generations * self.steps
        return self.population * (1 + (2 if self.reevaluate else 1) * self.generations)

    # --- the contract ------------------------------------------------------------------

    def init(self, problem: Problem, generator: Generator) -> "GEMONNState":
        """Members of densities 1/N to 1, as they were built otherwise."""
        streams, team = Streams.start(problem, generator), problem.team
        homes = blocks(self.population, team.size)
        ids = rows_at(homes, team.rank)
        tensors = clone(problem.population.tensors)
        names = masking.prunable(tensors, problem.population.structure.trainable)
        if not names:
            raise ValueError("build: must give a module with weights to prune, got none")
        shares = torch.arange(1, self.population + 1) / self.population
        key = drawn_key(streams.choice)
        own = [generator_from(mixed(key, i)) for i in ids.tolist()]
        masks = masking.drawn(tensors, names, shares[ids], own)
        tensors = masking.masked(tensors, masks)
        rows = problem.validation_rows(self.validation_batch, streams.choice)
        worth = told(team, self.measured(problem, tensors, masks, rows), homes)
        measures.check_defined(self.objectives, *worth)
        members, learners = Members(tensors, masks, *worth, homes), self.learners
        start = float(finite_or_worst(members.losses).min())
        return GEMONNState(streams, members, rows, health.counted(learners), start)

    def step(self, problem: Problem, state: "GEMONNState") -> tuple["GEMONNState", Info | None]:
        """One slice of a child's learning, one generation of crossover, or one fine-tuning."""
        children = SEARCHES[self.search](self, problem, state)
        return (state, None) if children is None else self.survive(problem, state, children)

    def finished(self, state: "GEMONNState") -> bool:
        """After the last generation."""
        return state.generation >= self.generations

    def progress(self, problem: Problem, state: "GEMONNState") -> float:
        """Share of the generations done, and of the learning within one."""
        within = 0.0
        if self.search == "ladder" and state.phase is not None:
            steps = self.recipe(problem).steps
            within = state.phase.step % steps / steps
        return min(1.0, (state.generation + within) / self.generations)

    def survivors(self, state: "GEMONNState") -> tuple[Tensors, Tensor]:
        """All members, the one with the lowest loss first; in one process."""
        order = finite_or_worst(state.members.losses).argsort(stable=True)
        best = state.members.take(order)
        return best.tensors, best.losses

    @property
    def unshared(self) -> str:
        """Why a run cannot be spread over processes; empty if it can."""
        if self.search == "crossover":
            return ""
        return 'trains one network after another with search="ladder"; take search="crossover"'

    @property
    def learners(self) -> int:
        """Networks that learn side by side: the ladder has one."""
        return 1 if self.search == "ladder" else self.population

    # --- what both searches use --------------------------------------------------------

    def measured(
        self,
        problem: Problem,
        tensors: Tensors,
        masks: masking.Masks,
        rows: Tensor | None,
        losses: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Objectives `(n, m)` and losses `(n,)`, on validation rows where none are given.

        A member without a finite loss has no objectives: NaN, which is never better.
        """
        if losses is None:
            losses = problem.evaluate(tensors, rows)
        found = measures.columns(problem, self.objectives, tensors, masks, losses, rows)
        return found.masked_fill(~losses.isfinite().unsqueeze(1), torch.nan), losses

    def survive(
        self, problem: Problem, state: "GEMONNState", children: Members
    ) -> tuple["GEMONNState", Info]:
        """The best N of members and children by NSGA-II."""
        losses = torch.cat([state.members.losses, children.losses])
        if not bool(losses.isfinite().any()):
            raise DivergedError(
                "loss: must be finite for at least one member, got NaN or infinity for all "
                f"{len(losses)}"
            )
        found = torch.cat([state.members.objectives, children.objectives])
        measures.check_defined(self.objectives, found, losses)
        origins = state.members.compete(children, problem.team)
        state.generation += 1
        return state, self._info(problem, state, origins)

    def _info(self, problem: Problem, state: "GEMONNState", origins: Tensor) -> Info:
        members = state.members
        losses, finite = members.losses, members.losses.isfinite()
        better, ended = float(losses[finite].min()) < state.start, self.finished(state)
        return {
            "generation": state.generation,
            "best": float(losses[finite].min()),
            "mean": float(losses[finite].mean()),
            "losses": plain(losses),
            "densities": plain(members.densities(problem.team)),
            "objectives": [plain(row) for row in members.objectives],
            "adoption": float((origins >= self.population).double().mean()),
            "front": int((pareto.fronts(members.objectives) == 0).sum()),
            "member_steps": state.passes,
            **health.told(state.lost),
            "improved": int(better) if better or ended else None,  # children come one by one
            "hyper": {},
            "survivors": origins.tolist(),
        }


@storable
@dataclass
class GEMONNState:
    """Everything of a GEMONN run that changes.

    Attributes:
        streams: random numbers and the position in the data.
        members: the current generation.
        rows: the validation rows that members are compared on; None: all.
        lost: steps skipped so far by each learner, `(n, 2)`: see `health.counted`.
        start: the lowest loss before anybody has learnt.
        generation: generations completed.
        passes: forward-backward passes so far, of one network each.
        phase: the ladder's walker and its learning.
        children: the crossover's last children, while they are fine-tuned.
        tuned: how many of them are, of those in this process.
        batch: that they are fine-tuned on.
        plan: steps of fine-tuning of each member.
        key: of the random numbers of fine-tuning.
    """

    streams: Streams
    members: Members
    rows: Tensor | None
    lost: Tensor
    start: float
    generation: int = 0
    passes: int = 0
    phase: Phase | None = None
    children: Members | None = None
    tuned: int = 0
    batch: Pair | None = None
    plan: list[int] = field(default_factory=list)
    key: int = 0

    # --- over processes ----------------------------------------------------------------

    @property
    def homes(self) -> Tensor:
        return self.members.homes

    @property
    def within(self) -> bool:
        return self.phase is not None or self.children is not None

    def local(self) -> Tensors:
        return self.members.travelling()

    def with_local(self, tensors: Tensors, homes: Tensor) -> "GEMONNState":
        return replace(self, members=self.members.moved(tensors, homes))


def _share_above_0(name: str, value: Any) -> float:
    return positive(name, share(name, value))


def _box(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{name}: must be two bounds, got {value!r}")
    return positive(name, value[0]), positive(name, value[1])
