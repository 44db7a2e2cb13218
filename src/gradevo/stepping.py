"""Who takes the steps of a learning phase: torch, one at a time, or compiled code, many a call."""

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from gradevo import trees
from gradevo.batches import TensorSource
from gradevo.compiled import Compiled
from gradevo.engines.choose import Practice
from gradevo.engines.threads import alone
from gradevo.optimisers import MemberOptimiser, resolve
from gradevo.phase import Phase, Recipe, Streams, schedule_of
from gradevo.problem import Problem
from gradevo.randomness import drawing
from gradevo.structure import Tensors


class Stepper(Protocol):
    """Takes the steps of a phase."""

    def advance(self, most: int) -> int:
        """Take one step or more, at most so many; returns how many."""
        ...

    def show(self) -> None:
        """Bring the phase's weights and mean up to date."""
        ...

    def leave(self) -> None:
        """Bring all of the phase up to date, for another stepper to go on with."""
        ...


def stepper_of(problem: Problem, recipe: Recipe, phase: Phase, streams: Streams) -> Stepper:
    """The stepper of a phase; on a run's first steps it is chosen by a trial."""
    population = problem.population
    optimiser = _optimiser(problem, recipe, phase)
    choice, source = population.choice, problem.source
    together = isinstance(source, TensorSource) or (problem.council or problem.team).size > 1
    if together and optimiser.elementwise:
        if not choice.settled:
            look = replace(streams.data)
            x, y = source.draw(look, phase.share, recipe.shared_batch)
            practice = _practice(problem, recipe, phase, streams)
            each = not recipe.shared_batch
            with population.computing():
                problem.settle(x, y, each, practice)
        if choice.name == "simd" and Compiled.serves(problem, optimiser):
            return Compiled(problem, recipe, phase, streams, optimiser)
    return Eager(problem, recipe, phase, streams, optimiser)


def _optimiser(problem: Problem, recipe: Recipe, phase: Phase) -> MemberOptimiser:
    """The phase's own, with what it carries."""
    population = problem.population
    population.gradient()
    kind = resolve(recipe.optimizer)
    optimiser = MemberOptimiser(population, kind, phase.hyper, recipe.options)
    if phase.optimizer is not None:
        optimiser.load(phase.optimizer)
    if phase.masks is not None:
        optimiser.forget(population.spread(phase.masks))
    return optimiser


def _practice(problem: Problem, recipe: Recipe, phase: Phase, streams: Streams) -> Practice:
    """Steps as this phase takes them, whose effects a trial undoes."""
    fresh = replace(phase, optimizer=None, passes=0)

    def optimiser() -> MemberOptimiser:
        return MemberOptimiser(
            problem.population, resolve(recipe.optimizer), phase.hyper, recipe.options
        )

    def compiled() -> Compiled | None:
        own = optimiser()
        noise = torch.Generator()
        noise.set_state(streams.noise.get_state())
        copied = replace(streams, data=replace(streams.data), noise=noise)
        serves = Compiled.serves(problem, own)
        return Compiled(problem, recipe, fresh, copied, own) if serves else None

    kind = f"{resolve(recipe.optimizer).__name__} {sorted(recipe.options.items())}"
    return Practice(lambda: optimiser().step, compiled, recipe.steps, kind)


class Eager:
    """Steps by an engine and a torch optimiser."""

    def __init__(
        self, problem: Problem, recipe: Recipe, phase: Phase, streams: Streams,
        optimiser: MemberOptimiser,
    ) -> None:  # fmt: skip
        self.problem, self.recipe, self.phase, self.streams = problem, recipe, phase, streams
        self.optimiser = optimiser
        self.gradient = problem.population.gradient_buffer()
        self.there = None if phase.masks is None else problem.population.spread(phase.masks)

    def advance(self, most: int) -> int:
        """One step."""
        with alone(self.problem.population.engine):
            return self._advance()

    def _advance(self) -> int:
        phase, population = self.phase, self.problem.population
        each = not self.recipe.shared_batch
        x, y = self.problem.source.draw(self.streams.data, phase.share, not each)
        x, y = trees.to(x, population.device), trees.to(y, population.device)
        progress = phase.step / self.recipe.steps
        self.optimiser.scale_rate(schedule_of(self.recipe.schedule)(progress))
        with drawing(self.streams.noise, phase.share.ids, population.device):
            step = self._together if self.optimiser.elementwise else self._one_by_one
            phase.passes += step(x, y, each)
        if self.there is not None:
            population.flat.mul_(self.there)  # whatever the optimiser made of zeros
        if phase.mean is not None:
            _average(phase.mean, phase.tensors, self.recipe.average_rate(phase.step))
        return 1

    def _together(self, x: Any, y: Any, each: bool) -> int:
        """One step of all members; returns the passes that this took."""
        self.gradient.zero_()
        self.problem.population.accumulate(self.problem.loss, x, y, per_member=each)
        self._limit()
        self.optimiser.step()
        return self.problem.population.size

    def _one_by_one(self, x: Any, y: Any, each: bool) -> int:
        """One step a member, each with its own optimiser; returns the passes that this took."""
        population = self.problem.population
        loop, passes = population.choice.loop(population), 0

        for i in range(population.size):
            batch = (trees.take(x, i), trees.take(y, i)) if each else (x, y)

            def closure(i: int = i, batch: tuple[Any, Any] = batch) -> Tensor:
                nonlocal passes
                passes += 1
                self.gradient.zero_()
                with population.computing():
                    loss = loop.member_step(i, self.problem.loss, *batch)
                self._limit()
                return loss

            self.optimiser.step_member(i, closure)
        return passes

    def _limit(self) -> None:
        """Weights that are gone have no gradient, and a long gradient is clipped."""
        if self.there is not None:
            self.gradient.mul_(self.there)
        if self.recipe.clip is not None:
            clip_members(self.problem, self.recipe.clip)

    def show(self) -> None:
        """The phase's weights are the population's."""

    def leave(self) -> None:
        """Hand over what the optimiser carries."""
        self.phase.optimizer = self.optimiser.state()


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
