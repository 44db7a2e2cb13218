"""Time the candidates on the real model and batch, keep the fastest that agrees, say which."""

import math
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gradevo import trees
from gradevo.attributes import described, difference
from gradevo.engines.check import Declined
from gradevo.engines.threads import alone
from gradevo.guards import fresh, same_bits
from gradevo.randomness import generator_from, isolated
from gradevo.snapshots import Snapshot, kept_gradients, leaves_of
from gradevo.structure import Tensors, buffers_of, evaluating

if TYPE_CHECKING:
    from gradevo.engines import Engine
    from gradevo.population import Loss, Population

Report = dict[str, float | str]
ROUNDS = 3
BUDGET, SHARE = 2.0, 0.03  # seconds, or of the expected run: the longer of both
PAYS = 0.25  # of the expected run that an engine may take to start
NOT_TRIED = "not tried"
CALLED = 32  # steps of compiled code to time at once
HOPELESS = 2.0  # times as slow as the best: not measured again
ADVANTAGE = 1.1  # another engine must be this much faster than the loop
COARSE = 3e-2
TOLERANCE = 1e-4  # relative to the largest number of a tensor; float32 sums in another order
_remembered: dict[tuple[Any, ...], tuple[str, Report]] = {}


class Stepper(Protocol):
    """Compiled code that takes many steps a call."""

    def advance(self, most: int) -> int: ...


@dataclass(frozen=True)
class Practice:
    """How a run takes its steps, so that what is timed is what will be done.

    Attributes:
        optimiser: makes a step of the run's optimiser.
        compiled: makes the stepper that the simd engine's kernel has for such a run, or None.
        steps: of the run, at least.
        kind: a word on the optimiser: another one may have another fastest engine.
    """

    optimiser: Callable[[], Callable[[], None]]
    compiled: Callable[[], Stepper | None]
    steps: int
    kind: str


@dataclass(frozen=True)
class Trial:
    """Training steps of engines on the user's own module, loss and batch.

    Attributes:
        engines: candidates by name; "loop" is among them, with members of its own.
        population: left as it was: weights, buffers, gradients and random state.
        loss: the user's; what it holds is left as it was, and so are gradients of what it reaches.
        x: inputs, which nobody else has: a graph behind them would be gone through, too.
        y: targets, likewise.
        per_member: whether `x` and `y` have a leading member axis.
        practice: how the run goes on, where that is known.
    """

    engines: "Mapping[str, Engine]"
    population: "Population"
    loss: "Loss"
    x: Any
    y: Any
    per_member: bool
    practice: Practice | None = None

    def choose(self) -> tuple[str, Report]:
        """Name of the fastest engine that agrees with the loop, and what was measured.

        The answer is remembered by module, loss, batch shape, population size and device, so
        that a process gives the same answer to the same question.

        Returns:
            The name, and for each candidate its seconds a step or the reason it declined.
        """
        if _has_own_hooks(self.population):  # who may tell others what they see
            why = f"{NOT_TRIED}: it has hooks of its own"
            return "loop", {name: why for name in self.engines if name != "loop"}
        key = self._key()
        name, report = _remembered.get(key, ("", {}))
        if not name or self.reason(name) is not None:
            name, report = self._measured()
            if not any(str(value).startswith(NOT_TRIED) for value in report.values()):
                _remembered[key] = name, report
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
                step = self._step(name) if "@" in name else step  # its first is in order
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
            graph = torch.set_grad_enabled(self.population.differentiates)
            with graph, self._undisturbed():
                self.engines[name].forward(self.x, self.per_member)
            return _distance(self._step(name), self._reference_in_eval)

    def _step(self, name: str, seed: int = 0) -> list[Tensor]:
        """The gradient and every buffer after a step of one engine; all is put back."""
        population = self.population
        before = None if name == "loop" else described(population.stacked)
        with self._undisturbed(seed):
            gradient = population.gradient()
            self.engines[name].accumulate(self.loss, self.x, self.y, self.per_member)
            if before is not None and (path := difference(before, described(population.stacked))):
                raise Declined(f"it changes {path} of all members together")
            return [
                gradient,
                *(buffer.clone() for buffer in buffers_of(population.stacked).values()),
            ]

    @contextmanager
    def _undisturbed(self, seed: int = 0) -> Iterator[None]:
        """A block after which the population and what the loss reaches are as they were."""
        known = Snapshot(self.loss, self.population.stacked)
        try:
            with undisturbed(self.population, seed), kept_gradients(self._outside):
                yield
        finally:
            known.restore()

    @cached_property
    def _outside(self) -> list[Tensor]:
        """Tensors beside the population that a step adds gradients to: those of a loss, say."""
        known = Snapshot(self.loss)
        with undisturbed(self.population), torch.enable_grad():
            member = self.population.member(0)
            x = trees.take(self.x, 0) if self.per_member else self.x
            y = trees.take(self.y, 0) if self.per_member else self.y
            value = self.loss(trees.call(member, fresh(x)), fresh(y))
        known.restore()
        own = set(map(id, member.parameters()))
        found = leaves_of(value) if isinstance(value, Tensor) else []
        return [leaf for leaf in found if id(leaf) not in own]

    def _measured(self) -> tuple[str, Report]:
        began = time.perf_counter()
        declined: Report = {}
        for name in self.engines:
            base = re.split("[/@]", name)[0]
            why = declined.get(base) if base != name else None
            chunked = "/" in name and "@" not in name  # computes what its base does
            why = why or self._late(name, began) or (None if chunked else self.reason(name))
            if why is not None:
                declined[name] = why
        able = [name for name in self.engines if name not in declined]
        seconds = self._seconds(able, began)
        declined |= {n: f"{NOT_TRIED}: no time was left" for n in able if n not in seconds}
        best = min(seconds, key=lambda name: seconds[name])
        clear = seconds[best] * ADVANTAGE < seconds["loop"]  # a tie is not left to the weather
        return best if clear else "loop", seconds | declined

    @cached_property
    def _expected(self) -> float | None:
        """Seconds of the run by the loop, where its steps are known."""
        if self.practice is None:
            return None
        start = time.perf_counter()
        self._step("loop")
        return (time.perf_counter() - start) * self.practice.steps

    @cached_property
    def _budget(self) -> float:
        """Seconds that the trial may take; what it has begun it ends."""
        return max(BUDGET, SHARE * (self._expected or 0.0))

    def _late(self, name: str, began: float) -> str | None:
        """Why an engine is not worth a trial; None: it is."""
        if name == "loop":
            return None
        if time.perf_counter() - began > self._budget:
            return f"{NOT_TRIED}: {self._budget:.1f} s were spent on the others"
        startup: float = getattr(self.engines[name], "startup", 0.0)  # seconds
        if startup > PAYS * (self._expected or 0.0):
            return f"{NOT_TRIED}: it takes {startup:.0f} s to start, and the run may be short"
        return None

    def _seconds(self, names: list[str], began: float) -> dict[str, float]:
        """Median seconds of a step, the engines taking turns; one turn where that is long."""
        times: dict[str, list[float]] = {name: [] for name in names}
        with self._undisturbed():
            self.population.gradient()
            steps = {name: self._timed(name) for name in names}
            for _ in range(ROUNDS):
                best = min((min(t) for t in times.values() if t), default=math.inf)
                for name in names:
                    if times["loop"] and time.perf_counter() - began > self._budget:
                        break
                    if not times[name] or min(times[name]) < HOPELESS * best:
                        times[name].append(steps[name]())
        return {name: statistics.median(rounds) for name, rounds in times.items() if rounds}

    def _timed(self, name: str) -> Callable[[], float]:
        """A function that takes a step as the run will, and says how many seconds it was."""
        practice, gradient = self.practice, next(iter(self.population.gradients().values()))
        stepper = practice.compiled() if practice and name == "simd" else None
        optimise = practice.optimiser() if practice else None

        def step() -> float:
            start = time.perf_counter()
            if stepper is not None and practice is not None:
                taken = stepper.advance(min(CALLED, practice.steps))
                return (time.perf_counter() - start) / taken
            self.engines[name].accumulate(self.loss, self.x, self.y, self.per_member)
            if optimise is not None:
                with alone(name):
                    optimise()
            gradient.flatten()[0].item()  # an accelerator has only queued the work
            return time.perf_counter() - start

        return step

    def _key(self) -> tuple[Any, ...]:
        population, module = self.population, self.population.stacked
        modes = tuple(part.training for part in module.modules())
        shapes = tuple((name, t.shape, t.dtype) for name, t in population.tensors.items())
        learning = tuple(population.structure.trainable)
        leaves = pytree.tree_leaves((self.x, self.y))
        batch = tuple((getattr(t, "shape", None), getattr(t, "dtype", None)) for t in leaves)
        place = (str(population.device), torch.get_num_threads())
        loss = _identity(self.loss)
        kind = self.practice and self.practice.kind
        asked = loss, batch, self.per_member, place, kind, population.precision
        return type(module), repr(module), modes, shapes, learning, asked


def _has_own_hooks(population: "Population") -> bool:
    """Whether calls of a module are watched or changed by others than torch's own."""
    hooks = [
        hook
        for part in population.stacked.modules()
        for kind in ("forward", "forward_pre", "backward", "backward_pre")
        for hook in getattr(part, f"_{kind}_hooks").values()
    ]
    rooms = [getattr(hook, "__module__", None) or type(hook).__module__ for hook in hooks]
    return not all(room.startswith("torch.") for room in rooms)


def _identity(loss: Any) -> Any:
    """The same for two functions made from the same lines with the same things around them."""
    code = getattr(loss, "__code__", None)
    if code is None:
        return type(loss), repr(loss)
    return code, tuple(id(cell) for cell in loss.__closure__ or ())


def _distance(step: list[Tensor], reference: list[Tensor]) -> float:
    """Largest difference of two tensors, relative to the largest number in them.

    NaN and infinity must be in the same places: a mask may hold them, and a batch may give them.
    """
    return max(
        (_apart(_reals(a), _reals(b)) for a, b in zip(step, reference, strict=True)), default=0
    )


def _apart(mine: Tensor, theirs: Tensor) -> float:
    known = theirs.isfinite()
    if not torch.equal(mine.isfinite(), known):
        return math.inf
    a, b = mine[known], theirs[known]
    if not len(a) or torch.equal(a, b):
        return 0.0
    return float((a - b).abs().max() / (b.abs().max() + 1e-12))


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
        for name, tensor in population.tensors.items():
            if not same_bits(tensor, saved[name]):  # a copy would break graphs that are alive
                with torch.no_grad():
                    tensor.copy_(saved[name])
        for leaf, gradient in zip(population.parameters(), gradients, strict=True):
            leaf.grad = gradient
