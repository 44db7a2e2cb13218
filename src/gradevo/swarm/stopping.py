"""Swarms side by side that stop one by one, each at its own iteration.

Only swarms that still run are moved and evaluated. The host asks which those are after every
iteration on a CPU, and after every 16th on a GPU, where asking means waiting; in between, what
has stopped is held in place on the device, so that the iteration is exact there too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from gradevo.checkpoint import storable
from gradevo.swarm.dynamics import Dynamics, Swarm
from gradevo.swarm.search import Box, move
from gradevo.validation import at_least, is_number, plain, positive

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
        iteration: rounds of moves made, which are those of every swarm that still runs.
        moved: numbers of the swarms that move, as the host knows them.
        iterations: moves that each swarm made, `(swarms,)`.
        stopped: RUNNING, CUBE or TARGET, `(swarms,)`.
        history: one row an iteration.
        setting: what the search is of, as far as it can be told: see `minimize`.
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
    setting: dict[str, Any]


@dataclass(frozen=True)
class Rules:
    """When to stop: see `minimize`."""

    iterations: int
    evaluations: int | None
    target: float | None
    cube: float | None

    @classmethod
    def of(cls, iterations: Any, evaluations: Any, target: Any, cube: Any) -> "Rules":
        """Rules from what was given.

        Raises:
            ValueError: an argument out of range.
        """
        value = plain(target)
        endless = isinstance(value, float) and math.isinf(value)
        if not (value is None or endless or is_number(value)):
            raise ValueError(f"target: must be a number, got {target!r}")
        return cls(
            at_least("iterations", iterations, 0),
            None if evaluations is None else at_least("evaluations", evaluations, 1),
            None if value is None else float(value),
            None if cube is None else float(positive("cube", cube)),
        )

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
            inside = (width(swarm.x) <= self.cube) & swarm.settled
            reason = torch.where(inside, CUBE, reason)
        if self.target is not None:
            reached = (swarm.found_loss <= self.target) & swarm.feasible
            reason = torch.where(reached, TARGET, reason)
        return reason

    def reason(self, stopped: int, moves: int) -> str:
        """The rule that stopped a swarm after so many moves, by name."""
        if stopped == RUNNING:
            return "iterations" if moves >= self.iterations else "evaluations"
        return {CUBE: "cube", TARGET: "target"}[stopped]


def check_every(device: torch.device) -> int:
    """Iterations between two looks at what has stopped."""
    return 1 if device.type == "cpu" else 16


def width(x: Tensor) -> Tensor:
    """Widest side of the box around each swarm, `(swarms,)`."""
    return (x.amax(dim=1) - x.amin(dim=1)).amax(dim=1)


def begin(
    swarm: Swarm, generator: Generator, rules: Rules, single: bool, setting: dict[str, Any]
) -> MinimizeState:
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
        setting=setting,
    )
    return replace(state, history=[_row(state, swarm, Bests.of(swarm, bool(setting["tolerance"])))])


class Moves(NamedTuple):
    """Which swarms move next.

    Attributes:
        rows: their numbers.
        made: moves that each of them has made.
        most: rounds, unless one stops before.
        others: swarms that run, too, but have made more moves.
    """

    rows: Tensor
    made: int
    most: int
    others: int


@dataclass(frozen=True)
class Search:
    """How swarms go on: what scores them, how they move, when they stop."""

    scored: Callable[[Any], Any]
    dynamics: Dynamics
    box: Box | None
    rules: Rules

    def to_the_end(self, state: MinimizeState) -> MinimizeState:
        """Move until every swarm has stopped or the limit is reached; `state` is unchanged."""
        most = self.rules.most(state.swarm.x.shape[1])
        generator = torch.Generator(state.device)
        generator.set_state(state.random)
        state = self._looked_at_anew(replace(state, history=list(state.history)))
        while (moves := self._next(state, most)) is not None:
            state = self._until_one_stops(replace(state, moved=moves.rows), moves, generator)
        return replace(state, random=generator.get_state())

    def _looked_at_anew(self, state: MinimizeState) -> MinimizeState:
        """Swarms as the rules hold for them now, which may not be those that stopped them."""
        stopped = self.rules.met(state.swarm)
        if torch.equal(stopped, state.stopped):
            return state
        moved = (stopped == RUNNING).nonzero()[:, 0]
        state.history[-1:] = [{**row, "running": len(moved)} for row in state.history[-1:]]
        return replace(state, stopped=stopped, moved=moved)

    def _next(self, state: MinimizeState, most: int) -> "Moves | None":
        """Which swarms move next, from which number of moves on, how many rounds at most.

        All that run have made as many moves, but for those that were stopped by rules that are no
        longer there: such laggards catch up alone.
        """
        counts = state.iterations.tolist()
        runs = (state.stopped == RUNNING).tolist()
        levels = sorted({n for n, on in zip(counts, runs, strict=True) if on and n < most})
        if not levels:
            return None
        level, until = levels[0], levels[1] if len(levels) > 1 else most
        if len(levels) == 1 and level == state.iteration:
            return Moves(state.moved, level, until - level, 0)  # with what stopped since a look
        rows = [i for i, on in enumerate(runs) if on and counts[i] == level]
        return Moves(
            torch.tensor(rows, device=state.moved.device), level, until - level,
            sum(runs) - len(rows),
        )  # fmt: skip

    def _until_one_stops(
        self, state: MinimizeState, moves: "Moves", random: Generator
    ) -> MinimizeState:
        """The swarms to be moved alone, up to the next look that finds one of them stopped."""
        rows, all_of_them = moves.rows, state.swarm
        whole = len(rows) == len(all_of_them.leader)
        swarm = all_of_them if whole else each(lambda t: t[rows], all_of_them)
        swarm = replace(swarm, moves=moves.made)
        bests = Bests.of(all_of_them, bool(state.setting["tolerance"]))
        every, end, found = check_every(rows.device), state.iteration + moves.most, False
        while state.iteration < end and not found:
            swarm = self._step(swarm, None if every == 1 else state.stopped[rows], random)
            state = self._count(state, swarm)
            if state.iteration % every == 0:
                bests = bests.put(rows, swarm)
                state.history.append(_row(state, swarm, bests))
                found = state.history[-1]["running"] < len(rows) + moves.others
        if found:
            state = replace(state, moved=(state.stopped == RUNNING).nonzero()[:, 0])
        if not whole:
            swarm = each(lambda old, new: old.index_copy(0, rows, new), all_of_them, swarm)
        return replace(state, swarm=replace(swarm, moves=state.iteration))

    def _step(self, swarm: Swarm, stopped: Tensor | None, random: Generator) -> Swarm:
        """Move and score; what is known to have stopped stays as it was."""
        new = self.scored(move(swarm, self.dynamics, random, self.box))
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


@dataclass(frozen=True)
class Bests:
    """What has been found, of all swarms: kept up to date with those that move.

    Attributes:
        loss: f at each swarm's best place, `(swarms,)`.
        feasible: whether that keeps all constraints; None: there are none.
    """

    loss: Tensor
    feasible: Tensor | None

    @classmethod
    def of(cls, swarm: Swarm, constrained: bool) -> "Bests":
        return cls(swarm.found_loss, swarm.feasible if constrained else None)

    def put(self, rows: Tensor, swarm: Swarm) -> "Bests":
        """Those of some swarms in place of what they were."""
        loss = self.loss.index_copy(0, rows, swarm.found_loss)
        if self.feasible is None:
            return Bests(loss, None)
        return Bests(loss, self.feasible.index_copy(0, rows, swarm.feasible))


def _row(state: MinimizeState, swarm: Swarm, bests: Bests) -> Row:
    """Plain numbers of an iteration, fetched from the device at once."""
    running, moves, values = (state.stopped == RUNNING).sum(), state.iterations.sum(), bests.loss
    numbers = [values.min(), values.mean(), width(swarm.x).mean(), running, moves]
    if bests.feasible is not None:
        values = torch.where(bests.feasible, values, torch.inf)
        count = bests.feasible.sum()
        mean = torch.where(bests.feasible, values, 0.0).sum() / count
        numbers[:2] = values.min(), torch.where(count > 0, mean, torch.inf)
        numbers.append(count)
    best, mean, spread, running, moves, *feasible = torch.stack(
        [n.double() for n in numbers]
    ).tolist()
    particles, starts = swarm.x.shape[1], len(values)
    return {
        "iteration": state.iteration,
        "best": best,
        "mean": mean,
        "spread": spread,
        "running": int(running),
        "evaluations": particles * (starts + int(moves)),
        **({"feasible": int(feasible[0])} if feasible else {}),
    }
