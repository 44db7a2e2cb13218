"""Time the candidates on the real model and batch, keep the fastest that agrees, say which."""

import math
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gradevo.randomness import generator_from, isolated
from gradevo.structure import Tensors, evaluating

if TYPE_CHECKING:
    from gradevo.engines import Engine
    from gradevo.population import Loss, Population

Report = dict[str, float | str]
ROUNDS = 3
BUDGET = 1.0  # seconds; no further round is begun after them
ADVANTAGE = 1.1  # another engine must be this much faster than the loop
COARSE = 3e-2
TOLERANCE = 1e-4  # relative to the largest number of a tensor; float32 sums in another order
_remembered: dict[tuple[Any, ...], tuple[str, Report]] = {}


@dataclass(frozen=True)
class Trial:
    """Training steps of engines on the user's own module, loss and batch.

    Attributes:
        engines: candidates by name; "loop" is among them.
        population: left as it was: weights, buffers, gradients and random state.
        loss: the user's.
        x: inputs.
        y: targets.
        per_member: whether `x` and `y` have a leading member axis.
    """

    engines: "Mapping[str, Engine]"
    population: "Population"
    loss: "Loss"
    x: Any
    y: Any
    per_member: bool

    def choose(self) -> tuple[str, Report]:
        """Name of the fastest engine that agrees with the loop, and what was measured.

        The answer is remembered by module, loss, batch shape, population size and device, so
        that a process gives the same answer to the same question.

        Returns:
            The name, and for each candidate its seconds a step or the reason it declined.
        """
        key = self._key()
        name, report = _remembered.get(key, ("", {}))
        if not name or self.reason(name) is not None:
            name, report = _remembered[key] = self._measured()
        return name, dict(report)

    def reason(self, name: str) -> str | None:
        """Why an engine cannot be used here; None: it can.

        It must give the loop's gradient and buffers after a step in eval mode, where dropout
        draws nothing, and in the population's own mode, unless the loop itself draws there.
        """
        if name == "loop":
            return None
        drawn = self._drawn  # the user's own mistakes show here, as they are
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="There is a performance drop")
                distance = self._distance_in_eval(name)
                step = self._step(name)
        except Exception as error:  # whatever a transform raises on a module it cannot handle
            return brief(error)
        distance = distance if drawn else max(distance, _distance(step, self._reference))
        if not distance <= self._tolerance:
            return f"differs from the loop by {distance:.1e} of the largest number"
        return None

    @cached_property
    def _reference(self) -> list[Tensor]:
        """The loop's step."""
        return self._step("loop")

    @cached_property
    def _drawn(self) -> bool:
        """Whether the loop's step draws random numbers."""
        return _distance(self._step("loop", seed=1), self._reference) > self._tolerance

    @property
    def _tolerance(self) -> float:
        """Half precision rounds a thousand times more coarsely."""
        halves = {leaf.dtype for leaf in self.population.parameters()} & {
            torch.bfloat16,
            torch.half,
        }
        return COARSE if halves or torch.is_autocast_enabled("cpu") else TOLERANCE

    @cached_property
    def _reference_in_eval(self) -> list[Tensor]:
        return self._step("loop")

    def _distance_in_eval(self, name: str) -> float:
        with evaluating(self.population):
            with torch.no_grad(), undisturbed(self.population):
                self.engines[name].forward(self.x, self.per_member)
            return _distance(self._step(name), self._reference_in_eval)

    def _step(self, name: str, seed: int = 0) -> list[Tensor]:
        """The gradient and every buffer after a step of one engine; all is put back."""
        population = self.population
        with undisturbed(population, seed):
            gradient = population.gradient()
            self.engines[name].accumulate(self.loss, self.x, self.y, self.per_member)
            return [gradient, *(buffer.clone() for buffer in population.stacked.buffers())]

    def _measured(self) -> tuple[str, Report]:
        kinds = [name for name in self.engines if "/" not in name]  # chunks compute the same
        reasons = {name: self.reason(name) for name in kinds}
        declined: Report = {name: why for name, why in reasons.items() if why is not None}
        able = [name for name in self.engines if name.partition("/")[0] not in declined]
        seconds = self._seconds(able)
        best = min(seconds, key=lambda name: seconds[name])
        clear = seconds[best] * ADVANTAGE < seconds["loop"]  # a tie is not left to the weather
        return best if clear else "loop", seconds | declined

    def _seconds(self, names: list[str]) -> dict[str, float]:
        """Median seconds of a step, the engines taking turns; one turn where that is long."""
        began = time.perf_counter()
        times: dict[str, list[float]] = {name: [] for name in names}
        with undisturbed(self.population):
            gradient = self.population.gradient()
            for _ in range(ROUNDS):
                for name in names:
                    start = time.perf_counter()
                    self.engines[name].accumulate(self.loss, self.x, self.y, self.per_member)
                    gradient[0].item()  # an accelerator has only queued the work
                    times[name].append(time.perf_counter() - start)
                if time.perf_counter() - began > BUDGET:
                    break
        return {name: statistics.median(rounds) for name, rounds in times.items()}

    def _key(self) -> tuple[Any, ...]:
        population, module = self.population, self.population.stacked
        modes = tuple(part.training for part in module.modules())
        shapes = tuple((name, t.shape, t.dtype) for name, t in population.tensors.items())
        batch = tuple(getattr(t, "shape", None) for t in pytree.tree_leaves((self.x, self.y)))
        place = (str(population.device), torch.get_num_threads())
        loss = _identity(self.loss)
        return type(module), repr(module), modes, shapes, loss, batch, self.per_member, place


def _identity(loss: Any) -> Any:
    """The same for two functions made from the same lines, such as a lambda in a call."""
    code = getattr(loss, "__code__", None)
    return (type(loss), repr(loss)) if code is None else code


def _distance(step: list[Tensor], reference: list[Tensor]) -> float:
    """Largest difference of two tensors, relative to the largest number in them."""
    distances = [0.0]
    for mine, theirs in zip(step, reference, strict=True):
        a, b = _reals(mine), _reals(theirs)
        if not torch.equal(a, b):  # else infinities, in a mask, would have no difference
            distances.append(float((a - b).abs().max() / (b.abs().max() + 1e-12)))
    return math.nan if any(math.isnan(d) for d in distances) else max(distances)


def _reals(tensor: Tensor) -> Tensor:
    """Numbers to subtract: complex ones as pairs, counters and masks as floats."""
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real if real.is_floating_point() else real.double()


def brief(error: Exception) -> str:
    """An error's class and the first sentence of what it says."""
    first = str(error).strip().partition("\n")[0].partition(". ")[0]
    return f"{type(error).__name__}: {first}"


@contextmanager
def undisturbed(population: "Population", seed: int = 0) -> Iterator[None]:
    """Run a block from fixed draws; tensors, gradients and random state are put back."""
    saved: Tensors = {n: t.clone() for n, t in population.tensors.items()}
    gradients = [leaf.grad for leaf in population.parameters()]
    try:
        with isolated(generator_from(seed), population.device):
            yield
    finally:
        population.load(saved)
        for leaf, gradient in zip(population.parameters(), gradients, strict=True):
            leaf.grad = gradient
