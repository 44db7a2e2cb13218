"""Swarms side by side that stop one by one, each at its own iteration.

Only swarms that still run are moved and evaluated. The host asks which those are after every
iteration on a CPU, and after every 16th on a GPU, where asking means waiting; in between, what
has stopped is held in place on the device, so that the iteration is exact there too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from gradevo.checkpoint import storable
from gradevo.swarm.dynamics import Dynamics, Swarm
from gradevo.swarm.gradient import Batched
from gradevo.swarm.search import Box, move, score
from gradevo.validation import at_least, positive

RUNNING, CUBE, TARGET = 0, 1, 2  # why a swarm has stopped
Row = dict[str, int | float]


@storable
@dataclass
class MinimizeState:
    """Where a minimisation stands: all that it needs to go on.

    Attributes:
        swarm: all swarms; those that have stopped, as they were then.
        random: state of the generator.
        device: where it runs.
        single: whether results are given without the axis of swarms.
        iteration: moves made by the swarms that still run.
        moved: numbers of the swarms that move, as the host knows them.
        iterations: moves that each swarm made, `(swarms,)`.
        stopped: RUNNING, CUBE or TARGET, `(swarms,)`.
        history: one row an iteration.
    """

    swarm: Swarm
    random: Tensor
    device: str
    single: bool
    iteration: int
    moved: Tensor
    iterations: Tensor
    stopped: Tensor
    history: list[Row]


@dataclass(frozen=True)
class Rules:
    """When to stop: see `minimize`."""

    iterations: int
    evaluations: int | None
    target: float | None
    cube: float | None

    def __post_init__(self) -> None:
        at_least("iterations", self.iterations, 0)
        if self.evaluations is not None:
            at_least("evaluations", self.evaluations, 1)
        if self.cube is not None:
            positive("cube", self.cube)
        if self.target is not None and math.isnan(self.target):
            raise ValueError(f"target: must be a number, got {self.target!r}")

    def most(self, particles: int) -> int:
        """Moves that iterations and evaluations allow."""
        if self.evaluations is None:
            return self.iterations
        if self.evaluations < particles:
            raise ValueError(
                f"evaluations: must be at least the number of particles, {particles}, got "
                f"{self.evaluations}"
            )
        return min(self.iterations, self.evaluations // particles - 1)

    def met(self, swarm: Swarm) -> Tensor:
        """RUNNING, CUBE or TARGET for each swarm, `(swarms,)`."""
        reason = torch.zeros_like(swarm.leader)
        if self.cube is not None:
            reason = torch.where(width(swarm.x) <= self.cube, CUBE, reason)
        if self.target is not None:
            reason = torch.where(swarm.gbest_loss <= self.target, TARGET, reason)
        return reason

    def reason(self, stopped: int, iteration: int) -> str:
        """The rule that stopped a swarm, by name."""
        if stopped == RUNNING:
            return "iterations" if iteration >= self.iterations else "evaluations"
        return {CUBE: "cube", TARGET: "target"}[stopped]


def check_every(device: torch.device) -> int:
    """Iterations between two looks at what has stopped."""
    return 1 if device.type == "cpu" else 16


def width(x: Tensor) -> Tensor:
    """Widest side of the box around each swarm, `(swarms,)`."""
    return (x.amax(dim=1) - x.amin(dim=1)).amax(dim=1)


def begin(swarm: Swarm, generator: Generator, rules: Rules, single: bool) -> MinimizeState:
    """The state before the first move; a start can meet a rule by itself."""
    stopped = rules.met(swarm)
    state = MinimizeState(
        swarm=swarm,
        random=generator.get_state(),
        device=str(swarm.x.device),
        single=single,
        iteration=0,
        moved=(stopped == RUNNING).nonzero()[:, 0],
        iterations=torch.zeros_like(stopped),
        stopped=stopped,
        history=[],
    )
    return replace(state, history=[_row(state, swarm, swarm.gbest_loss)])


@dataclass(frozen=True)
class Search:
    """How swarms go on: what they evaluate, how they move, when they stop."""

    evaluate: Batched
    dynamics: Dynamics
    box: Box | None
    rules: Rules

    def to_the_end(self, state: MinimizeState) -> MinimizeState:
        """Move until every swarm has stopped or the limit is reached; `state` is unchanged."""
        most = self.rules.most(state.swarm.x.shape[1])
        generator = torch.Generator(state.device)
        generator.set_state(state.random)
        state = replace(state, history=list(state.history))
        while state.iteration < most and len(state.moved):
            state = self._until_one_stops(state, most, generator)
        return replace(state, random=generator.get_state())

    def _until_one_stops(self, state: MinimizeState, most: int, random: Generator) -> MinimizeState:
        """The running swarms alone, up to the next look that finds one of them stopped."""
        rows, all_of_them, values = state.moved, state.swarm, state.swarm.gbest_loss
        whole = len(rows) == len(values)
        swarm = all_of_them if whole else each(lambda t: t[rows], all_of_them)
        every = check_every(values.device)
        found = False
        while state.iteration < most and not found:
            swarm = self._step(swarm, None if every == 1 else state.stopped[rows], random)
            state = self._count(state, swarm)
            if state.iteration % every == 0:
                values = values.index_copy(0, rows, swarm.gbest_loss)
                state.history.append(_row(state, swarm, values))
                found = state.history[-1]["running"] < len(rows)
        if found:
            state = replace(state, moved=(state.stopped == RUNNING).nonzero()[:, 0])
        if not whole:
            swarm = each(lambda old, new: old.index_copy(0, rows, new), all_of_them, swarm)
        return replace(state, swarm=swarm)

    def _step(self, swarm: Swarm, stopped: Tensor | None, random: Generator) -> Swarm:
        """Move and score; what is known to have stopped stays as it was."""
        new = move(swarm, self.dynamics, random, self.box)
        new = score(new, self.evaluate(new.x))
        if stopped is None:
            return new
        held = stopped != RUNNING
        return each(
            lambda old, t: torch.where(held.view(-1, *[1] * (t.dim() - 1)), old, t), swarm, new
        )

    def _count(self, state: MinimizeState, swarm: Swarm) -> MinimizeState:
        """One more iteration of the swarms that ran, and which of them it stopped."""
        rows = state.moved
        before = state.stopped[rows]
        ran = before == RUNNING
        return replace(
            state,
            iteration=state.iteration + 1,
            iterations=state.iterations.index_add(0, rows, ran.to(rows.dtype)),
            stopped=state.stopped.index_copy(
                0, rows, torch.where(ran, self.rules.met(swarm), before)
            ),
        )


def each(change: Callable[..., Tensor], *swarms: Swarm) -> Swarm:
    """The last of some swarms, with each of its tensors made of those of all of them."""
    names = [name for name, value in vars(swarms[-1]).items() if isinstance(value, Tensor)]
    return replace(
        swarms[-1], **{name: change(*(getattr(s, name) for s in swarms)) for name in names}
    )


def _row(state: MinimizeState, swarm: Swarm, values: Tensor) -> Row:
    """Plain numbers of an iteration, fetched from the device at once."""
    running, moves = (state.stopped == RUNNING).sum(), state.iterations.sum()
    numbers = [values.min(), values.mean(), width(swarm.x).mean(), running, moves]
    best, mean, spread, running, moves = torch.stack([n.double() for n in numbers]).tolist()
    particles, starts = swarm.x.shape[1], len(values)
    return {
        "iteration": state.iteration,
        "best": best,
        "mean": mean,
        "spread": spread,
        "running": int(running),
        "evaluations": particles * (starts + int(moves)),
    }
