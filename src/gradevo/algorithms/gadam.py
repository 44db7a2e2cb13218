"""GADAM: a population trained by gradient, evolved by a genetic algorithm.

Source: J. Zhang and F. B. Gouza, "GADAM: Genetic-Evolutionary ADAM for Deep Neural Network
Optimization", 2018. Equation numbers are the paper's. `GADAM.paper()` is its setting.

Deviations of the default from the paper, each an argument:

- Only children learn (`learners`); parents stay as elites. In the paper parents learn again
  in every generation, so at equal cost a lineage gets half the steps.
- The second parent is aligned to the first before crossover (`align`), and a child is the
  blend of both (`crossover`); the paper picks entries of unaligned parents (eq. 9). Some
  children are copies of one parent (`crossover_rate`).
- Mutation adds noise in proportion to a tensor's spread (`mutation`); the paper replaces
  entries by draws from [0, 1) (eq. 11).
- Members carry their own learning rate and weight decay, inherited and perturbed (`evolve`).
- A running mean of each member's weights competes with the weights themselves (`average`), at
  several checks within a learning phase (`checks`).
- Fitness is the loss on all validation rows (`validation_batch`), and a member that became
  worse by learning keeps its weights (`backoff`): the best loss never rises.

The default's numbers are set by the measurement in docs/results/gadam.md, "Why the default is
what it is": one field changed at a time, at equal cost, on rows that are not test rows.

In the paper setting, what the text leaves open: min-max normalised losses in equation 8, and
children's batch statistics and other buffers come whole from the fitter parent.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Generator, Tensor

from gradevo import options, validation
from gradevo.algorithms.base import Info, LearningConfig, plain
from gradevo.checkpoint import storable
from gradevo.distributed.placing import balanced, blocks, near_parents, rows_at
from gradevo.errors import DivergedError
from gradevo.fields import choice, optional, refuse_unused, settle, unused, whole
from gradevo.health import check_learning, counted, improvements, told
from gradevo.learning import Learnt, begin, clone, learn, learnt_by_all, same_for_all
from gradevo.operators import crossover, mutation, selection, survival
from gradevo.operators.alignment import align
from gradevo.optimisers import Hyper, default_of
from gradevo.phase import Phase, Streams
from gradevo.problem import Problem
from gradevo.randomness import drawn_key, generator_from
from gradevo.share import Share, mixed
from gradevo.structure import Structure, Tensors, keep_still

SELECTIONS: dict[str, Callable[[Tensor, int, Generator], Tensor]] = {
    "softmax": selection.softmax_parents,
    "tournament": selection.tournament_parents,
    "truncation": selection.truncation_parents,
}
CROSSOVERS = {
    "uniform": crossover.uniform,
    "layerwise": crossover.layerwise,
    "blend": crossover.blend,
}
MUTATIONS = {"replace": mutation.replace_uniform, "gaussian": mutation.add_gaussian}
UNUSED = (unused("evolve=()", lambda config: not config.evolve, "spread", "perturb"),)


@dataclass(frozen=True, kw_only=True)
class GADAM(LearningConfig):
    """A population of networks, each trained by gradient, evolved by a genetic algorithm.

    For a loss on which one run of Adam is not reliable: members start from different weights
    and learning rates, learn alone, and the best of parents and children survive.

    Besides the fields of `LearningConfig`:

    Attributes:
        population: members g, at least 2.
        generations: K, at least 1.
        learners: "children", parents stay as they are; "both", parents learn again in every
            generation (the paper).
        selection: "softmax" (eq. 8), "tournament" or "truncation".
        crossover: "blend", "uniform" (eqs. 9, 10) or "layerwise".
        crossover_rate: share of the children that have two parents; the others are copies.
        align: match the second parent's hidden units to the first's before crossover, where
            the module's structure allows it.
        mutation: "gaussian", or "replace" by draws from [0, 1) (eq. 11).
        mutation_rate: base rate p (eq. 12).
        evolve: hyper-parameters that members carry, inherit and perturb: any numbers of the
            optimiser, "lr" and "beta1" for example. The others are the same for all.
        spread: deviation of the logarithm of the first members' learning rates around `lr`,
            spread out evenly; the other evolved numbers start with half of it.
        perturb: deviation of the logarithm of a child's change.
        rate_decay: factor on the learning rate from one generation to the next.
        validation_batch: rows of a new shared validation batch drawn for every evaluation
            (the paper); None: all validation rows, always.
        theta: stop when the sum of losses changes by no more than this (eq. 13).

    Raises:
        ValueError: a field out of range.

    Example:
        >>> GADAM(population=4, generations=2, steps=50).phases
        3
        >>> GADAM(population=1)
        Traceback (most recent call last):
        ValueError: population: must be a whole number of at least 2, got 1
    """

    name: ClassVar[str] = "gadam"
    unshared: ClassVar[str] = ""  # may be spread over processes

    population: int = 10
    generations: int = 4
    learners: Literal["children", "both"] = "children"
    selection: str = "softmax"
    crossover: str = "blend"
    crossover_rate: float = 0.7
    align: bool = True
    mutation: str = "gaussian"
    mutation_rate: float = 0.01
    evolve: tuple[str, ...] = ("lr", "weight_decay")
    spread: float = 2.5
    perturb: float = 0.5
    rate_decay: float = 1.0
    checks: int = 5
    average: float = 0.1
    validation_batch: int | None = None
    theta: float | None = None

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """The paper's setting; `changes` override fields of it."""
        setting: dict[str, Any] = {
            "optimizer": "Adam", "lr": 1e-3, "weight_decay": 0.0, "learners": "both",
            "selection": "softmax", "crossover": "uniform", "crossover_rate": 1.0,
            "align": False, "mutation": "replace", "mutation_rate": 0.01, "evolve": (),
            "rate_decay": 1.0, "validation_batch": 512, "backoff": False, "checks": 1,
            "average": 0.0, "schedule": "constant", "clip": None, "shared_batch": False,
        }  # fmt: skip
        return cls(**(setting | changes))

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(
            self,
            evolve=validation.names,
            population=whole(2),
            generations=whole(1),
            learners=choice(("children", "both")),
            selection=choice(SELECTIONS),
            crossover=choice(CROSSOVERS),
            crossover_rate=validation.share,
            align=validation.flag,
            mutation=choice(MUTATIONS),
            mutation_rate=validation.share,
            spread=validation.not_negative,
            perturb=validation.not_negative,
            rate_decay=validation.positive,
            validation_batch=optional(whole(1)),
            theta=optional(validation.not_negative),
        )
        options.check_evolved(self)
        refuse_unused(self, UNUSED)

    # --- the contract ------------------------------------------------------------------

    def init(self, problem: Problem, generator: Generator) -> "GADAMState":
        """The first members, as they were built, before they learn."""
        streams = Streams.start(problem, generator)
        return GADAMState(
            streams=streams,
            members=clone(problem.population.tensors),
            losses=torch.full((self.population,), torch.inf, dtype=torch.float64),
            hyper=self._first_hyper(streams.choice),
            homes=blocks(self.population, problem.team.size),
            lost=counted(self.population),
        )

    def step(self, problem: Problem, state: "GADAMState") -> tuple["GADAMState", Info | None]:
        """One slice of learning; a generation ends when the children have learnt."""
        if state.phase is None:
            self._begin_phase(problem, state)
        phase = state.phase
        assert phase is not None
        recipe = self.recipe(problem)
        learn(problem, recipe, phase, state.streams, strict=state.phases == 0)
        if phase.step < recipe.steps:
            return state, None
        passes = state.passes + problem.team.total(phase.passes)
        state = replace(state, phase=None, passes=passes, phases=state.phases + 1)
        learners = state.homes
        if state.breeding and state.parents is not None:
            learners = near_parents(state.parents, state.homes, problem.team.size)
        learnt = learnt_by_all(problem, phase, learners)
        state = replace(state, lost=state.lost + learnt.lost, improved=learnt.improved)
        check_learning(state.lost, state.phases * recipe.steps)
        if state.breeding:
            return self._survive(problem, state, learnt)
        check_alive(learnt.losses)
        known = {"losses": learnt.losses, "prints": learnt.prints}
        return replace(state, members=learnt.members, **known, breeding=True), None

    def finished(self, state: "GADAMState") -> bool:
        """After K generations, or when the losses stand still (eq. 13)."""
        settled = self.theta is not None and state.change <= self.theta
        return state.generation >= self.generations or settled

    def progress(self, problem: Problem, state: "GADAMState") -> float:
        """Share of the learning steps done."""
        within = state.phase.step / self.recipe(problem).steps if state.phase else 0.0
        return min(1.0, (state.phases + within) / self.phases)

    def survivors(self, state: "GADAMState") -> tuple[Tensors, Tensor]:
        """The last generation, best first; in one process."""
        order = survival.top(state.losses, self.population)
        return take(state.members, order), state.losses[order]

    @property
    def phases(self) -> int:
        """Learning phases in a run; each costs `population` x `steps` member-steps."""
        return 2 * self.generations if self.learners == "both" else 1 + self.generations

    # --- a generation ------------------------------------------------------------------

    def _first_hyper(self, generator: Generator) -> Hyper:
        """Each member's own numbers, drawn around the start values where they evolve."""
        hyper = same_for_all(self.start_values(), self.population)
        for name in self.evolve:
            deviation = self.spread if name == "lr" else self.spread / 2
            hyper[name] = mutation.spread_out(name, hyper[name], deviation, generator)
        return hyper

    def start_values(self) -> dict[str, float]:
        """The numbers that members carry, evolved ones from the optimiser's own defaults."""
        evolved = {name: default_of(self.optimizer, self.options, name) for name in self.evolve}
        return {**evolved, **super().start_values()}

    def _begin_phase(self, problem: Problem, state: "GADAMState") -> None:
        """Members before their first children, then children, learn."""
        generator = state.streams.choice
        rows = problem.validation_rows(self.validation_batch, generator)
        recipe = self.recipe(problem)
        if not state.breeding:
            share = problem.share_at(state.homes)
            own = rows_of(state.hyper, share)
            state.phase = begin(problem, recipe, state.members, own, rows, share)
            return
        if rows is not None:
            losses = problem.evaluate(state.members, rows)
            state.losses = problem.team.gathered(losses, state.homes)  # eq. 7
        children, state.inherited, state.parents = self.breed(problem, state)
        share = problem.share_at(near_parents(state.parents, state.homes, problem.team.size))
        own = rows_of(state.inherited, share)
        state.phase = begin(problem, recipe, children, own, rows, share)

    def breed(self, problem: Problem, state: "GADAMState") -> tuple[Tensors, Hyper, Tensor]:
        """Children of the current members, their own numbers, and their parents `(g, 2)`.

        Tensors are of the children that are this process's; numbers and parents of all.
        """
        generator, team = state.streams.choice, problem.team
        parents = self.drawn_parents(state.losses, self.population, generator)
        homes = near_parents(parents, state.homes, team.size)
        mine = [rows_at(homes, rank) for rank in range(team.size)]
        first, second = (
            team.fetch(state.members, state.homes, [parents[ids, side] for ids in mine])
            for side in (0, 1)
        )
        if self.align and problem.symmetry is not None:
            second = align(problem.symmetry, first, second)
        structure, key = problem.population.structure, drawn_key(generator)
        ids = mine[team.rank]
        children = self.crossed(structure, state.losses, parents, (first, second), ids, key)
        return children, self._inherit(state.hyper, parents[:, 0], generator), parents

    def drawn_parents(self, losses: Tensor, pairs: int, generator: Generator) -> Tensor:
        """Parents of so many children, `(pairs, 2)`, the fitter first; some have one alone."""
        check_alive(losses)
        parents = SELECTIONS[self.selection](losses, pairs, generator)
        parents = selection.fitter_first(parents, losses)
        alone = torch.rand(pairs, generator=generator) >= self.crossover_rate
        parents[alone, 1] = parents[alone, 0]
        return parents

    def crossed(
        self, structure: Structure, losses: Tensor, parents: Tensor,
        pair: tuple[Tensors, Tensors], ids: Tensor, key: int,
    ) -> Tensors:  # fmt: skip
        """Children by their numbers, each with random numbers of its own.

        What does not learn is the fitter parent's. `losses` are of all members and `parents` of all
        children; `pair` has both parents of the children `ids`, aligned.
        """
        share = crossover.share_of_first(losses, parents)  # eq. 10
        fitness = selection.softmax_fitness(losses)  # eq. 8
        rate = mutation.adaptive_rate(self.mutation_rate, fitness, parents)  # eq. 12
        cross, mutate = CROSSOVERS[self.crossover], MUTATIONS[self.mutation]
        streams = [generator_from(mixed(key, i)) for i in ids.tolist()]
        children = dict(pair[0])  # buffers and frozen parameters: the fitter parent's
        for name in structure.trainable:
            first, second = (parent[name] for parent in pair)
            children[name] = torch.empty_like(first)
            for row, (i, stream) in enumerate(zip(ids.tolist(), streams, strict=True)):
                one, of = slice(row, row + 1), slice(i, i + 1)
                child = cross(first[one], second[one], share[of], stream)
                children[name][one] = mutate(child, rate[of], stream)
        keep_still(structure, children, pair[0])
        return children

    def _inherit(self, hyper: Hyper, fitter: Tensor, generator: Generator) -> Hyper:
        """Children's own numbers: the fitter parent's, perturbed."""
        inherited = {name: values[fitter] for name, values in hyper.items()}
        for name in self.evolve:
            inherited[name] = mutation.perturb(name, inherited[name], self.perturb, generator)
        inherited["lr"] = inherited["lr"] * self.rate_decay
        return inherited

    def _survive(
        self, problem: Problem, state: "GADAMState", learnt: Learnt
    ) -> tuple["GADAMState", Info]:
        """The best g of parents and children form the next generation."""
        children, prints, born, team = learnt.members, learnt.prints, learnt.homes, problem.team
        assert state.parents is not None and state.prints is not None
        losses = torch.cat([state.losses, learnt.losses])  # (2g,)
        # children that are still their parent do not compete with it: else a population could
        # become one network many times
        same = torch.cat([torch.zeros_like(prints), prints == state.prints[state.parents[:, 0]]])
        rows = problem.validation_rows(self.validation_batch, state.streams.choice)
        if rows is not None:  # on one new shared batch
            halves = (state.members, state.homes), (children, born)
            both = [team.gathered(problem.evaluate(t, rows), homes) for t, homes in halves]
            losses = torch.cat(both)
        check_alive(losses)
        chosen = survival.top(losses.masked_fill(same.bool(), torch.inf), self.population)
        hyper = dict(state.inherited)  # what does not evolve stays the same for all
        for name in self.evolve:
            hyper[name] = torch.cat([state.hyper[name], state.inherited[name]])[chosen]
        total = float(losses[chosen].sum())
        union = {name: torch.cat([t, children[name]]) for name, t in state.members.items()}
        now = torch.cat([state.homes, born])
        homes = balanced(now[chosen], team.size)
        wanted = [chosen[rows_at(homes, rank)] for rank in range(team.size)]
        after = replace(
            state,
            generation=state.generation + 1,
            members=team.fetch(union, now, wanted),
            homes=homes,
            prints=torch.cat([state.prints, prints])[chosen],
            losses=losses[chosen],
            hyper=hyper,
            breeding=self.learners == "children",
            total=total,
            change=abs(total - state.total),  # eq. 13
        )
        return after, self._info(problem, after, chosen)

    def _info(self, problem: Problem, state: "GADAMState", chosen: Tensor) -> Info:
        assert state.parents is not None
        return {
            "generation": state.generation,
            "best": float(state.losses[0]),
            "mean": float(state.losses[state.losses.isfinite()].mean()),
            "losses": plain(state.losses),
            "adoption": float((chosen >= self.population).double().mean()),
            "diversity": problem.diversity(state.members),
            "member_steps": state.passes,
            **told(state.lost),
            "improved": improvements(state.improved),
            "hyper": {name: plain(values) for name, values in state.hyper.items()},
            "parents": state.parents.tolist(),
            "survivors": chosen.tolist(),
        }


@storable
@dataclass
class GADAMState:
    """Everything of a GADAM run that changes.

    Attributes:
        streams: random numbers and the position in the data.
        members: stacked tensors of the current generation, `(n, ...)` each: of those members
            that are in this process, which are all unless there are several.
        losses: their validation losses, `(g,)`, inf before they are known.
        hyper: their own numbers, `(g,)` each.
        homes: the members' ranks, `(g,)`.
        lost: steps skipped so far, by the place of the learner, `(g, 2)`: see `health.counted`.
        prints: their fingerprints, `(g,)`, once they have learnt.
        improved: whether the last learners became better by learning, `(g,)`.
        inherited: the last children's own numbers, `(g,)` each.
        generation: generations completed, k.
        passes: forward-backward passes so far, of one network each.
        phases: learning phases completed.
        breeding: whether the next phase is the children's.
        phase: the learning phase under way.
        parents: of the last children, `(g, 2)`, the fitter first.
        total: the sum of losses of the last generation.
        change: of that sum from one generation to the next (eq. 13).
    """

    streams: Streams
    members: Tensors
    losses: Tensor
    hyper: Hyper
    homes: Tensor
    lost: Tensor
    prints: Tensor | None = None
    improved: Tensor | None = None
    inherited: Hyper = field(default_factory=dict)
    generation: int = 0
    passes: int = 0
    phases: int = 0
    breeding: bool = False
    phase: Phase | None = None
    parents: Tensor | None = None
    total: float = float("inf")
    change: float = float("inf")

    # --- over processes ----------------------------------------------------------------

    @property
    def within(self) -> bool:
        return self.phase is not None

    def local(self) -> Tensors:
        return self.members

    def with_local(self, tensors: Tensors, homes: Tensor) -> "GADAMState":
        return replace(self, members=tensors, homes=homes)


def rows_of(hyper: Hyper, share: Share) -> Hyper:
    """Some members' own numbers, of all members'."""
    ids = torch.tensor(share.ids)
    return {name: values[ids] for name, values in hyper.items()}


def take(tensors: Tensors, indices: Tensor) -> Tensors:
    """Rows of every stacked tensor, `(n, ...)` each, copied."""
    return {name: t[indices.to(t.device)] for name, t in tensors.items()}


def check_alive(losses: Tensor) -> None:
    """Refuse a population that is lost."""
    if not bool(losses.isfinite().any()):
        raise DivergedError(
            "loss: must be finite for at least one member, got NaN or infinity for all "
            f"{len(losses)}"
        )
