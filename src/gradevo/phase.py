"""A learning phase as data: how members learn, where a phase stands, where its draws come from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from gradevo.batches import Position
from gradevo.checkpoint import storable
from gradevo.operators.masks import Masks
from gradevo.operators.selection import finite_or_worst
from gradevo.optimisers import Hyper
from gradevo.problem import Problem
from gradevo.randomness import spawn
from gradevo.share import Share
from gradevo.structure import Tensors
from gradevo.validation import not_negative, one_of, plain

Schedule = Callable[[float], float]
SCHEDULES: dict[str, Schedule] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
}


def checked_schedule(name: str, value: Any) -> Any:
    """A schedule's name, or a function that gives factors of a learning rate.

    Raises:
        ValueError, TypeError: it is something else.
    """
    if isinstance(value, str) or not callable(value):
        return one_of(name, value, SCHEDULES)
    for progress in (0.0, 0.5):
        try:
            factor = plain(value(progress))
        except Exception as error:
            raise TypeError(
                f"{name}: must be a function from progress in [0, 1) to a factor, got {value!r}, "
                f"which raises {type(error).__name__}: {error}"
            ) from error
        not_negative(name, factor)
    return value


@dataclass(frozen=True)
class Recipe:
    """How members learn, the same for every phase.

    Attributes:
        optimizer: a class of `torch.optim`, by name or itself.
        options: further keyword arguments of the optimiser.
        steps: optimiser steps a phase.
        schedule: factor on the learning rate by progress through the phase, in [0, 1).
        clip: largest norm of a member's own gradient; None: not clipped.
        shared_batch: one batch for all members instead of one each.
        checks: evaluations on validation rows within a phase; the last is at its end.
        backoff: keep the best weights seen at a check, or before the phase.
        average: horizon of the running mean of a member's weights, as a share of the phase;
            0: none. Where there is one, a check keeps the better of weights and mean.
    """

    optimizer: str | type[Optimizer]
    steps: int
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str | Schedule = "constant"
    clip: float | None = None
    shared_batch: bool = False
    checks: int = 1
    backoff: bool = True
    average: float = 0.0

    def check_after(self, step: int) -> bool:
        """Whether the members are evaluated after so many steps."""
        return step * self.checks // self.steps > (step - 1) * self.checks // self.steps

    def before_check(self, step: int) -> int:
        """Steps from here to the next evaluation."""
        done = step * self.checks // self.steps
        return -(-(done + 1) * self.steps // self.checks) - step

    def average_rate(self, step: int) -> float:
        """Weight of the newest weights in the mean: 1 / (t + 1) until the horizon is reached."""
        return max(1 / (step + 1), 1 / (self.average * self.steps))


@storable
@dataclass
class Streams:
    """Where every random number of a run comes from.

    Attributes:
        data: the order of the training rows.
        noise: dropout and whatever else modules draw.
        choice: operators: parents, crossover, mutation.
    """

    data: Position
    noise: Generator
    choice: Generator

    @classmethod
    def start(cls, problem: Problem, generator: Generator) -> "Streams":
        data, noise, choice = (spawn(generator) for _ in range(3))
        return cls(problem.source.start(data), noise, choice)


@storable
@dataclass
class Phase:
    """A learning phase under way.

    Attributes:
        tensors: the weights in progress: the population's own tensors, not copies.
        hyper: each member's own numbers, `(g,)` each.
        losses: validation loss of the weights to be kept, `(g,)`.
        kept: the best weights so far, where the recipe backs off.
        mean: running mean of the weights in progress, where the recipe averages.
        rows: the validation rows to check on; None: all.
        share: which members these are.
        masks: which weights are there; the others stay zero, and so do their moments.
        optimizer: what the optimisers carry from step to step.
        lost: steps that each member has skipped, `(g, 2)`: see `health.counted`.
        first: validation losses before the first step, `(g,)`; NaN where nobody looked.
        step: steps taken.
        passes: forward-backward passes of one network, summed over the members.
    """

    tensors: Tensors
    hyper: Hyper
    losses: Tensor
    share: Share
    lost: Tensor
    first: Tensor
    kept: Tensors | None = None
    mean: Tensors | None = None
    rows: Tensor | None = None
    masks: Masks | None = None
    optimizer: list[dict[Any, Any]] | None = None
    step: int = 0
    passes: int = 0


def improved(phase: Phase) -> Tensor:
    """Whether learning has made each member better than it was, `(g,)`; NaN: nobody looked."""
    better = finite_or_worst(phase.losses) < finite_or_worst(phase.first)
    return torch.where(phase.first.isnan(), torch.nan, better.double())


def schedule_of(schedule: str | Schedule) -> Schedule:
    """A schedule by name, or itself."""
    return SCHEDULES[schedule] if isinstance(schedule, str) else schedule
