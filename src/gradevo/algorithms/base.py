"""What every algorithm offers, and the part of its settings that says how members learn."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Generator, Tensor
from torch.optim import AdamW, Optimizer

from gradevo import options
from gradevo.fields import optional, refuse_unused, settle, unused, whole
from gradevo.optimisers import resolve
from gradevo.phase import Recipe, Schedule, checked_schedule
from gradevo.population import Loss
from gradevo.problem import Problem
from gradevo.structure import Tensors
from gradevo.validation import flag, not_negative, positive, share

Info = dict[str, Any]
DECOUPLED_DECAY = 0.3  # measured: docs/results/gadam.md


class Algorithm(Protocol):
    """A frozen config with `init` and `step`; everything that changes is in the state.

    `step` works for about the problem's time slice and may consume the state it is given.
    It returns the next state, and an info of plain numbers whenever a generation ends.
    """

    name: ClassVar[str]

    @property
    def population(self) -> int: ...

    @property
    def batch_size(self) -> int | None: ...

    @property
    def generations(self) -> int: ...

    def criterion(self, loss: Loss) -> Loss:
        """What members are trained and compared on, from the user's loss."""
        ...

    def init(self, problem: Problem, generator: Generator) -> Any: ...

    def step(self, problem: Problem, state: Any) -> tuple[Any, Info | None]: ...

    def finished(self, state: Any) -> bool: ...

    def progress(self, problem: Problem, state: Any) -> float:
        """Share of the run that is done, in [0, 1]."""
        ...

    def survivors(self, state: Any) -> tuple[Tensors, Tensor]:
        """Stacked tensors of the members and their validation losses, best first."""
        ...


UNUSED = (
    unused("epochs", lambda config: config.epochs is not None, "steps"),
    unused("backoff=False", lambda config: not config.backoff, checks=1),
)


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """How members learn; every algorithm's config has these fields.

    Attributes:
        steps: optimiser steps a learning phase, for each member.
        epochs: passes through the training rows a learning phase; instead of `steps`.
        batch_size: rows a mini-batch. None: 128, or all training rows where there are fewer; with
            a DataLoader its own.
        optimizer: a class of `torch.optim`, by name or itself.
        lr: learning rate, or the one around which the members' own are drawn.
        weight_decay: the optimiser's, where it has one. None: 0.3 for AdamW, whose decay is
            decoupled from the gradient, and 0 for the others.
        options: further keyword arguments of the optimiser, which its constructor is asked about.
        schedule: "constant", "linear" or "cosine" within each learning phase, or a function
            from progress in [0, 1) to a factor on the learning rate.
        clip: largest norm of each member's own gradient; None: not clipped.
        shared_batch: one batch for all members instead of one each: faster, less diverse.
        checks: evaluations on the validation rows within a learning phase, where `backoff` makes
            use of them.
        backoff: a member keeps the best weights of its phase's checks, and those from before
            the phase if it became worse.
        average: horizon of a running mean of each member's weights, as a share of the phase;
            a check keeps the better of the weights and their mean. 0: no mean.
    """

    steps: int = 500
    epochs: float | None = None
    batch_size: int | None = None
    optimizer: str | type[Optimizer] = "AdamW"
    lr: float = 1e-2
    weight_decay: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str | Schedule = "constant"
    clip: float | None = None
    shared_batch: bool = False
    checks: int = 1
    backoff: bool = True
    average: float = 0.0

    def __post_init__(self) -> None:
        settle(
            self,
            steps=whole(1),
            epochs=optional(positive),
            batch_size=optional(whole(1)),
            checks=whole(1),
            lr=not_negative,
            weight_decay=optional(not_negative),
            clip=optional(positive),
            schedule=checked_schedule,
            shared_batch=flag,
            backoff=flag,
            average=share,
            optimizer=options.optimizer_of,
            options=options.options_given,
        )
        options.check_options(self)
        refuse_unused(self, UNUSED)

    def criterion(self, loss: Loss) -> Loss:
        """The user's loss as it is."""
        return loss

    def recipe(self, problem: Problem) -> Recipe:
        """The learning phase of this config on a problem."""
        steps, source = self.steps, problem.source
        if self.epochs is not None:
            steps = max(1, round(self.epochs * source.rows / source.batch_size))
        return Recipe(
            optimizer=self.optimizer,
            steps=steps,
            options=self.options,
            schedule=self.schedule,
            clip=self.clip,
            shared_batch=self.shared_batch,
            checks=min(self.checks, steps),
            backoff=self.backoff,
            average=self.average,
        )

    def start_values(self) -> dict[str, float]:
        """The optimiser's numbers that members carry as their own."""
        kind, decay = resolve(self.optimizer), self.weight_decay
        if decay is None:
            decay = DECOUPLED_DECAY if kind is AdamW else 0.0
        numbers = {"lr": self.lr, "weight_decay": decay}
        known = inspect.signature(kind.__init__).parameters
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        return {name: value for name, value in numbers.items() if anything or name in known}


def plain(values: Tensor) -> list[float | None]:
    """Numbers for an info: what is not finite, which JSON has no word for, is None."""
    return [value if math.isfinite(value) else None for value in values.tolist()]
