"""The learning phase: every member takes gradient steps, alone (eq. 6).

A phase is data (`Phase`) and can be left and gone on with after any step. Members' weights
in progress live in the problem's population; nothing else outside `Phase` and `Streams`
changes.
"""

import math
import time
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
from gradevo.optimisers import Hyper, MemberOptimiser, resolve
from gradevo.problem import Problem
from gradevo.randomness import following, preserved, spawn
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
        masks: which weights are there; the others stay zero, and so do their moments.
        optimizer: what the optimisers carry from step to step.
        step: steps taken.
        passes: forward-backward passes of one network, summed over the members.
    """

    tensors: Tensors
    hyper: Hyper
    losses: Tensor
    kept: Tensors | None = None
    mean: Tensors | None = None
    rows: Tensor | None = None
    masks: Masks | None = None
    optimizer: list[dict[Any, Any]] | None = None
    step: int = 0
    passes: int = 0


def begin(
    problem: Problem,
    recipe: Recipe,
    tensors: Tensors,
    hyper: Hyper,
    rows: Tensor | None = None,
) -> Phase:
    """A phase before its first step.

    Args:
        problem: what is learnt.
        recipe: how.
        tensors: start weights, `(g, ...)` each; not changed.
        hyper: the members' own numbers.
        rows: the validation rows to check on; None: all.
    """
    population = problem.population
    population.load(tensors)
    losses = torch.full((population.size,), torch.inf, dtype=torch.float64)
    if recipe.backoff:
        losses = problem.evaluate(tensors, rows)
    return Phase(
        population.tensors,
        hyper,
        losses,
        kept=clone(tensors) if recipe.backoff else None,
        mean=clone(tensors) if recipe.average else None,
        rows=rows,
    )


def learn(problem: Problem, recipe: Recipe, phase: Phase, streams: Streams) -> None:
    """Take steps until the phase or the problem's time slice ends; `phase` goes on in place."""
    population = problem.population
    population.load(phase.tensors)
    phase.tensors = population.tensors
    gradient = population.gradient()
    optimiser = MemberOptimiser(population, resolve(recipe.optimizer), phase.hyper, recipe.options)
    if phase.optimizer is not None:
        optimiser.load(phase.optimizer)
    there = None if phase.masks is None else population.spread(phase.masks)
    if there is not None:
        optimiser.forget(there)
    end = time.monotonic() + problem.slice_seconds
    with preserved(population.device):
        while phase.step < recipe.steps:
            _step(problem, recipe, phase, streams, optimiser, gradient, there)
            if phase.mean is not None:
                _average(phase.mean, phase.tensors, recipe.average_rate(phase.step))
            phase.step += 1
            if recipe.check_after(phase.step):
                check(problem, recipe, phase)
            if time.monotonic() >= end:
                break
    phase.optimizer = optimiser.state()


def _step(
    problem: Problem,
    recipe: Recipe,
    phase: Phase,
    streams: Streams,
    optimiser: MemberOptimiser,
    gradient: Tensor,
    there: Tensor | None,
) -> None:
    population, each = problem.population, not recipe.shared_batch
    x, y = problem.source.draw(streams.data, population.size, recipe.shared_batch)
    x, y = x.to(population.device), y.to(population.device)
    optimiser.scale_rate(_schedule(recipe.schedule)(phase.step / recipe.steps))
    with following(streams.noise, population.device):
        if optimiser.elementwise:
            gradient.zero_()
            population.accumulate(problem.loss, x, y, per_member=each)
            if there is not None:
                gradient.mul_(there)
            if recipe.clip is not None:
                clip_members(problem, recipe.clip)
            optimiser.step()
            phase.passes += population.size
        else:
            phase.passes += _step_one_by_one(problem, recipe, optimiser, gradient, x, y, there)
    if there is not None:
        population.flat.mul_(there)  # whatever the optimiser made of zeros


def _step_one_by_one(
    problem: Problem,
    recipe: Recipe,
    optimiser: MemberOptimiser,
    gradient: Tensor,
    x: Any,
    y: Any,
    there: Tensor | None,
) -> int:
    """One step a member, each with its own optimiser; returns the passes that this took."""
    population = problem.population
    loop, passes = population.choice.loop(population), 0

    for i in range(population.size):
        batch = (x, y) if recipe.shared_batch else (x[i], y[i])

        def closure(i: int = i, batch: tuple[Any, Any] = batch) -> Tensor:
            nonlocal passes
            passes += 1
            gradient.zero_()
            loss = loop.member_step(i, problem.loss, *batch)
            if there is not None:
                gradient.mul_(there)
            if recipe.clip is not None:
                clip_members(problem, recipe.clip)
            return loss

        optimiser.step_member(i, closure)
    return passes


def _schedule(schedule: str | Schedule) -> Schedule:
    return SCHEDULES[schedule] if isinstance(schedule, str) else schedule


@torch.no_grad()
def clip_members(problem: Problem, largest: float) -> None:
    """Scale down each member's gradient whose own norm is above `largest`."""
    leaves = [leaf.grad for leaf in problem.population.parameters() if leaf.grad is not None]
    squares = torch.stack([leaf.reshape(len(leaf), -1).square().sum(dim=1) for leaf in leaves])
    factor = (largest / (squares.sum(dim=0).sqrt() + 1e-6)).clamp(max=1.0)  # (g,)
    for leaf in leaves:
        leaf.mul_(factor.view(-1, *([1] * (leaf.dim() - 1))))


@torch.no_grad()
def _average(mean: Tensors, tensors: Tensors, rate: float) -> None:
    """Move the running mean towards the weights in progress; counters are copied."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            mean[name].lerp_(tensor, rate)
        else:
            mean[name].copy_(tensor)


def check(problem: Problem, recipe: Recipe, phase: Phase) -> None:
    """Evaluate the members; where the recipe backs off, keep what became better."""
    current = clone(phase.tensors) if phase.mean is not None else phase.tensors
    if recipe.backoff:
        _keep_better(problem, phase, phase.tensors)
        if phase.mean is not None:
            _keep_better(problem, phase, phase.mean)
    elif phase.step == recipe.steps:
        phase.losses = problem.evaluate(phase.mean or phase.tensors, phase.rows)
    problem.population.load(current)  # evaluating the mean has put it there


@torch.no_grad()
def _keep_better(problem: Problem, phase: Phase, tensors: Tensors) -> None:
    assert phase.kept is not None
    losses = problem.evaluate(tensors, phase.rows)
    better = finite_or_worst(losses) < finite_or_worst(phase.losses)
    rows = torch.nonzero(better).flatten().to(problem.population.device)
    for name, tensor in tensors.items():
        phase.kept[name][rows] = tensor[rows]
    phase.losses = torch.where(better, losses, phase.losses)


def outcome(phase: Phase) -> Tensors:
    """The weights that a finished phase hands on, as tensors of their own."""
    return phase.kept or phase.mean or clone(phase.tensors)


def clone(tensors: Tensors) -> Tensors:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same_for_all(start: Mapping[str, float], members: int) -> Hyper:
    """Hyper-parameters with the same value for every member, `(g,)` each."""
    return {
        name: torch.full((members,), float(value), dtype=torch.float64)
        for name, value in start.items()
    }
