"""A learning phase as data: how members learn, where a phase stands, where its draws come from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Generator, Tensor
from torch.optim import Optimizer

from gradevo.batches import Position
from gradevo.checkpoint import storable
from gradevo.operators.masks import Masks
from gradevo.optimisers import Hyper
from gradevo.problem import Problem
from gradevo.randomness import spawn
from gradevo.share import Share
from gradevo.structure import Tensors

Schedule = Callable[[float], float]
SCHEDULES: dict[str, Schedule] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
}


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
        step: steps taken.
        passes: forward-backward passes of one network, summed over the members.
    """

    tensors: Tensors
    hyper: Hyper
    losses: Tensor
    share: Share
    kept: Tensors | None = None
    mean: Tensors | None = None
    rows: Tensor | None = None
    masks: Masks | None = None
    optimizer: list[dict[Any, Any]] | None = None
    step: int = 0
    passes: int = 0


def schedule_of(schedule: str | Schedule) -> Schedule:
    """A schedule by name, or itself."""
    return SCHEDULES[schedule] if isinstance(schedule, str) else schedule
