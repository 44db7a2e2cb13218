"""Independent runs: the bar that a population method is compared with.

g networks trained alone, each keeping its best weights on validation (early stopping). One
of them is an ordinary Adam run, the best of them is "train g times, keep the best", and
their averaged predictions are the usual ensemble.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from gradevo.algorithms.base import Info, LearningConfig, plain
from gradevo.checkpoint import storable
from gradevo.errors import DivergedError
from gradevo.fields import settle, whole
from gradevo.health import check_learning, counted, improvements, told
from gradevo.learning import begin, learn, outcome, same_for_all
from gradevo.operators import mutation, survival
from gradevo.operators.selection import finite_or_worst
from gradevo.optimisers import Hyper
from gradevo.phase import Phase, Streams, improved
from gradevo.problem import Problem
from gradevo.structure import Tensors
from gradevo.validation import not_negative


@dataclass(frozen=True, kw_only=True)
class Independent(LearningConfig):
    """g networks that never meet, each early-stopped on validation.

    Besides the fields of `LearningConfig`, of which `epochs` or `steps` count for one
    generation; the optimiser's state is carried from one generation to the next:

    Attributes:
        population: runs g, at least 1.
        generations: at least 1.
        spread: deviation of the logarithm of the runs' learning rates around `lr`.

    Raises:
        ValueError: a field out of range.

    Example:
        >>> Independent(population=1, steps=1000, optimizer="Adam").name
        'independent'
    """

    name: ClassVar[str] = "independent"

    population: int = 10
    generations: int = 1
    spread: float = 0.0
    optimizer: str | type[Optimizer] = "Adam"
    lr: float = 1e-3
    checks: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, population=whole(1), generations=whole(1), spread=not_negative)

    def init(self, problem: Problem, generator: Generator) -> "IndependentState":
        """The runs before their first step."""
        streams = Streams.start(problem, generator)
        hyper = same_for_all(self.start_values(), self.population)
        hyper["lr"] = mutation.perturb("lr", hyper["lr"], self.spread, streams.choice)
        tensors = problem.population.tensors
        phase = begin(problem, self.recipe(problem), tensors, hyper)
        return IndependentState(streams, hyper, phase, counted(self.population))

    def step(
        self, problem: Problem, state: "IndependentState"
    ) -> tuple["IndependentState", Info | None]:
        """One slice of learning."""
        recipe, phase = self.recipe(problem), state.phase
        learn(problem, recipe, phase, state.streams, strict=state.generation == 0)
        if phase.step < recipe.steps:
            return state, None
        lost, better = state.lost + phase.lost.cpu(), improved(phase)
        check_learning(lost, (state.generation + 1) * recipe.steps)
        phase.first = torch.where(phase.first.isnan(), phase.first, phase.losses)
        phase.step, phase.lost = 0, counted(self.population)
        state = replace(state, generation=state.generation + 1, lost=lost)
        return state, self._info(state) | {"improved": improvements(better)}

    def finished(self, state: "IndependentState") -> bool:
        """After the last generation."""
        return state.generation >= self.generations

    def progress(self, problem: Problem, state: "IndependentState") -> float:
        """Share of the learning steps done."""
        within = state.phase.step / self.recipe(problem).steps
        return min(1.0, (state.generation + within) / self.generations)

    def survivors(self, state: "IndependentState") -> tuple[Tensors, Tensor]:
        """All runs at their best weights, the best run first."""
        order = survival.top(state.phase.losses, self.population)
        tensors = outcome(state.phase)
        return {k: t[order.to(t.device)] for k, t in tensors.items()}, state.phase.losses[order]

    def _info(self, state: "IndependentState") -> Info:
        losses = state.phase.losses
        if not bool(losses.isfinite().any()):
            raise DivergedError(
                f"loss: must be finite for at least one run, got NaN or infinity for all "
                f"{len(losses)}"
            )
        return {
            "generation": state.generation,
            "best": float(finite_or_worst(losses).min()),
            "mean": float(losses[losses.isfinite()].mean()),
            "losses": plain(losses),
            "member_steps": state.phase.passes,
            **told(state.lost),
            "hyper": {name: plain(values) for name, values in state.hyper.items()},
        }


@storable
@dataclass
class IndependentState:
    """Everything of independent runs that changes.

    Attributes:
        streams: random numbers and the position in the data.
        hyper: the runs' own numbers, `(g,)` each.
        phase: the runs themselves.
        lost: steps that they have skipped in earlier generations, `(g, 2)`.
        generation: generations completed.
    """

    streams: Streams
    hyper: Hyper
    phase: Phase
    lost: Tensor
    generation: int = 0
