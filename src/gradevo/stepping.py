"""Who takes the steps of a learning phase: torch, one at a time, or compiled code, many a call."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from gradevo import trees
from gradevo.batches import TensorSource
from gradevo.compiled import Compiled
from gradevo.engines.choose import Practice
from gradevo.engines.threads import alone
from gradevo.health import add, say, sound_steps
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
        if choice.name == "simd" and Compiled.goes_on(problem, phase, optimiser):
            return Watched(problem, recipe, phase, streams, optimiser)
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


class Watched:
    """Compiled steps up to the first that would spoil a member; that one and what follows by torch.

    Which one it is does not depend on how many steps a call takes.
    """

    def __init__(
        self, problem: Problem, recipe: Recipe, phase: Phase, streams: Streams,
        optimiser: MemberOptimiser,
    ) -> None:  # fmt: skip
        self.given = problem, recipe, phase, streams
        self.phase = phase
        self.compiled = Compiled(*self.given, optimiser)
        self.eager: Eager | None = None

    def advance(self, most: int) -> int:
        """Take so many steps, or fewer where one would spoil a member."""
        if self.eager is not None:
            return self.eager.advance(most)
        before = self.compiled.kept()
        taken = self.compiled.advance(most)
        if self.compiled.is_sound(before):
            return taken
        self.compiled.go_back(before)
        return self._one_by_one(most)

    def _one_by_one(self, most: int) -> int:
        """The same steps, each by itself, up to the one that spoils a member."""
        first, taken = self.phase.step, 0
        while taken < most and self._one_step():
            taken += 1
            self.phase.step = first + taken
        self.phase.step = first
        if taken == most:  # nothing that happens twice
            return taken
        problem, recipe, phase, _ = self.given
        self.compiled.leave()
        self.eager = Eager(*self.given, _optimiser(problem, recipe, phase))
        return taken or self.eager.advance(1)

    def _one_step(self) -> bool:
        before = self.compiled.kept()
        self.compiled.advance(1)
        if self.compiled.is_sound(before):
            return True
        self.compiled.go_back(before)
        return False

    def show(self) -> None:
        """Bring the phase's weights and mean up to date."""
        (self.eager or self.compiled).show()

    def leave(self) -> None:
        """Bring all of the phase up to date."""
        (self.eager or self.compiled).leave()


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
        population = self.problem.population
        self.gradient.zero_()
        losses = population.accumulate(self.problem.loss, x, y, per_member=each)
        self._limit()
        sound = sound_steps(population, self.gradient, losses)
        if sound is None:
            self.optimiser.step()
            return population.size
        self.phase.lost = add(self.phase.lost, sound)
        say(self.problem.said, sound, self.phase.share.ids, x, y)
        if sound.device.type == "cpu":
            self.optimiser.step((~sound.all(dim=1)).nonzero().flatten().tolist())
        else:
            self._step_where(sound.all(dim=1))
        return population.size

    @torch.no_grad()
    def _step_where(self, sound: Tensor) -> None:
        """A step on an accelerator, which is not asked: others than the sound have their weights.

        Their moments decay as by a gradient of zero.
        """
        population = self.problem.population
        keep = {name: sound.view(-1, *[1] * (t.dim() - 1)) for name, t in population.leaves.items()}
        there = population.spread({n: m.expand_as(population.leaves[n]) for n, m in keep.items()})
        self.gradient.copy_(torch.where(there > 0, self.gradient, 0.0))
        before = population.flat.clone()
        self.optimiser.step()
        population.flat.copy_(torch.where(there > 0, population.flat, before))

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

            self._step_member(i, closure, batch)
        return passes

    def _step_member(self, i: int, closure: Callable[[], Tensor], batch: tuple[Any, Any]) -> None:
        """A step of one member, undone where its optimiser has met NaN or infinity."""
        population = self.problem.population
        members, found = population.size, torch.ones(population.size, 2, dtype=torch.bool)

        def looking() -> Tensor:
            loss = closure()
            losses = loss.expand(members) if loss.dim() == 0 else loss
            sound = sound_steps(population, self.gradient, losses)
            if sound is not None:
                found[i] &= sound[i].cpu()
            return loss

        if self.optimiser.step_member(i, looking, lambda: bool(found[i].all())):
            return
        self.phase.lost = add(self.phase.lost, found)
        say(self.problem.said, found, self.phase.share.ids, *batch)

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
