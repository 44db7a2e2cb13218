"""Time the candidates on the real model and batch, keep the fastest that agrees, say which."""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradevo.randomness import generator_from, isolated
from gradevo.structure import evaluating

if TYPE_CHECKING:
    from gradevo.engines import Engine
    from gradevo.population import Loss, Population

Step = Callable[["Engine"], Tensor]
ROUNDS = 3
ADVANTAGE = 1.1  # another engine must be this much faster than the loop
TOLERANCE = 1e-4  # relative, on gradients; float32 sums in another order
_remembered: dict[tuple[Any, ...], tuple[str, dict[str, float | str]]] = {}


def choose(
    population: "Population", loss: "Loss", x: Any, y: Any, per_member: bool
) -> tuple[str, dict[str, float | str]]:
    """Name of the fastest engine that agrees with the loop, and what was measured.

    The population is left as it was: buffers, gradients and random state are restored. The
    answer is remembered by architecture, batch shape, population size and device, so that a
    process gives the same answer to the same question.

    Returns:
        The name, and for each candidate its seconds a step or the reason it declined.
    """
    key = _key(population, x, per_member)
    if key not in _remembered:
        _remembered[key] = _measure(population, loss, x, y, per_member)
    return _remembered[key]


def _key(population: "Population", x: Any, per_member: bool) -> tuple[Any, ...]:
    module = population.stacked
    shapes = tuple((name, t.shape, t.dtype) for name, t in population.tensors.items())
    batch = tuple(x.shape) if isinstance(x, Tensor) else None
    place = (str(population.device), torch.get_num_threads())
    return type(module), repr(module), shapes, batch, per_member, place


def _measure(
    population: "Population", loss: "Loss", x: Any, y: Any, per_member: bool
) -> tuple[str, dict[str, float | str]]:
    from gradevo.engines import ENGINES

    engines: dict[str, Engine] = {name: engine(population) for name, engine in ENGINES.items()}
    saved = {name: tensor.clone() for name, tensor in population.tensors.items()}
    gradients = [leaf.grad for leaf in population.parameters()]

    def step(engine: "Engine") -> Tensor:
        """One training step's gradient, from the saved tensors and always the same draws."""
        population.load(saved)
        gradient = population.gradient()
        with isolated(generator_from(0), population.device):
            engine.accumulate(loss, x, y, per_member)
        return gradient

    try:
        report = _declined(population, engines, step, lambda e: e.forward(x, per_member))
        report |= _timed({k: e for k, e in engines.items() if k not in report}, step)
    finally:
        population.load(saved)
        for leaf, gradient in zip(population.parameters(), gradients, strict=True):
            leaf.grad = gradient
    return _fastest(report), report


def _timed(engines: dict[str, "Engine"], step: Step) -> dict[str, float | str]:
    """Median seconds of a step, the engines taking turns."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            start = time.perf_counter()
            step(engine)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(rounds) for name, rounds in times.items()}


def _fastest(report: dict[str, float | str]) -> str:
    """The loop, unless another is clearly faster: a tie should not depend on the weather."""
    seconds = {name: value for name, value in report.items() if isinstance(value, float)}
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] * ADVANTAGE < seconds["loop"] else "loop"


def _declined(
    population: "Population", engines: dict[str, "Engine"], step: Step, forward: Step
) -> dict[str, float | str]:
    """For each engine that cannot be used here, the reason.

    An engine must get through a step in the population's own mode, where dropout draws what
    it likes, and in eval mode, where nothing is drawn, give the loop's gradient.
    """
    step(engines["loop"])  # a mistake in the module or the loss shows here, as it is
    reasons: dict[str, float | str] = {}
    for name, engine in engines.items():
        try:
            step(engine)
            with evaluating(population):
                with torch.no_grad():
                    forward(engine)
                reference, gradient = step(engines["loop"]), step(engine)
            distance = float((gradient - reference).abs().max() / (reference.abs().max() + 1e-12))
        except Exception as error:  # whatever a transform raises on a module it cannot handle
            reasons[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            continue
        if not distance <= TOLERANCE:
            reasons[name] = f"differs from the loop by {distance:.1e} of the largest gradient"
    reasons.pop("loop", None)
    return reasons
