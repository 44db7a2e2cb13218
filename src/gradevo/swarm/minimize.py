"""Minimise a function that can only be evaluated, with one swarm or many side by side.

Mohapatra et al., "AdaSwarm", sections II and VI and section 8 of its supplement: a swarm stops
when "every particle is inside a 1e-2 cube around every other", or after 10,000 iterations.

Deviations:
    - Swarms also stop at a value, or after a number of evaluations.
    - The paper does not say how it treats constraints, nor walls: see `constraints` and
      `Dynamics.bounce`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradevo.checkpoint import write
from gradevo.denormals import flushed
from gradevo.swarm.constraints import Limits
from gradevo.swarm.dynamics import EMPSO, Dynamics, Swarm, dynamics_of
from gradevo.swarm.evaluating import Batched, Points, evaluated, some_finite
from gradevo.swarm.goon import refuse_another, setting_of
from gradevo.swarm.positions import Bounds, box_of, places, sides_of
from gradevo.swarm.saved import read_state
from gradevo.swarm.search import score, start
from gradevo.swarm.stopping import MinimizeState, Row, Rules, Search, begin
from gradevo.validation import not_negative, plain

log = logging.getLogger("gradevo.swarm")
MANY = 5  # dimensions in which EMPSO contracts too early


@dataclass(frozen=True)
class Minimum:
    """What a minimisation found; without the axis of swarms where there was one swarm.

    Attributes:
        x: best place, `(dims,)` or `(swarms, dims)`. What is feasible comes first; of places that
            are not, the one with the smallest violation.
        value: f there, feasible or not; infinite where f is not finite there.
        feasible: whether all constraints hold there, within the tolerance.
        iterations: moves made until the swarm stopped.
        evaluations: of f by the swarm until then.
        reason: "cube", "target", "iterations" or "evaluations", followed by ", infeasible" where no
            place was feasible; one a swarm. "cube" says that the swarm has contracted, which is
            not a claim that its place is a minimum: EMPSO contracts within some 100 moves wherever
            it is (docs/results/walls.md).
        history: one dict an iteration (every 16th on a GPU): `iteration`, `best` value of all
            swarms, `mean` of their best values, `spread` of the running swarms (the widest
            side of their boxes, averaged), swarms `running`, `evaluations` of f in all. Under
            constraints also `feasible`, the number of swarms with a feasible place; `best` and
            `mean` are over those, and infinite where there is none.
        state: what `minimize(..., resume=)` goes on from.
    """

    x: Tensor
    value: Tensor
    feasible: Tensor
    iterations: Tensor
    evaluations: Tensor
    reason: str | tuple[str, ...]
    history: list[Row]
    state: MinimizeState

    def save(self, path: str | Path) -> None:
        """Write the state to one file, for `minimize(..., resume=path)`.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written.
        """
        write(Path(path), self.state)


@torch.no_grad()
def minimize(
    f: Batched,
    *,
    bounds: Bounds | None = None,
    x0: Sequence[float] | np.ndarray | Tensor | None = None,
    particles: int = 20,
    swarms: int = 1,
    spread: float = 1.0,
    dynamics: Dynamics | None = None,
    constraints: Sequence[Batched] | Batched = (),
    tolerance: float | Sequence[float] = 1e-4,
    iterations: int = 10_000,
    evaluations: int | None = None,
    target: float | None = None,
    cube: float | None = 1e-2,
    seed: int = 0,
    resume: MinimizeState | str | Path | None = None,
) -> Minimum:
    """Minimise a function from its values alone.

    Several swarms search independently in one tensor; one that has stopped is not evaluated any
    more. Particles whose value is NaN or infinite are survived.

    Args:
        f: takes `(n, dims)`, returns `(n,)`, a tensor or NumPy's array; only evaluated. If it
            writes into what it is given, that is a copy.
        bounds: lowest and highest position, each a number or one a dimension. Particles never
            leave them, and start uniformly between them where x0 is not given. At a wall they turn
            round: see `Dynamics`.
        x0: start positions `(particles, dims)` or `(swarms, particles, dims)`, or one point
            `(dims,)`: particle 0 starts there, the others around it.
        particles: of each swarm.
        swarms: how many.
        spread: half the width of the cube around one point.
        dynamics: how particles move; default `EMPSO()`, the paper's, which is quick in few
            dimensions and contracts too early from five on, where `PSO()` goes much further.
        constraints: functions g like f, one or several; a place is feasible where each is at most
            the tolerance. An equality h is ``abs(h)``. Feasible places come first, whatever f is
            there.
        tolerance: how far above 0 a constraint counts as kept, one number or one a constraint.
        iterations: at most so many moves, those before `resume` included.
        evaluations: at most so many of f by each swarm, likewise; None: no limit.
        target: a swarm stops at a feasible place with a value of at most this.
        cube: a swarm stops once one cube with sides of this length holds it (the paper's rule);
            None: never.
        seed: all random numbers follow from it.
        resume: the state of an earlier call, or a file of `Minimum.save`: goes on bit for bit
            as if it had never stopped. Give the other arguments again; those of the start
            (x0, particles, swarms, spread, seed) do not count. The rules that stop a swarm may be
            others: one that none of them stops goes on, a single swarm bit for bit as if they
            had been there from the start; of several, those that stopped earlier catch up with
            random numbers of their own. f is evaluated once more at the best places.

    Returns:
        The best places, why the search ended, and its state. Dtype and device are those of x0
        or else of the bounds: float64 where NumPy gives it, torch's default for Python's floats.
        Values are float64 as well where f returns it.

    Raises:
        ValueError: an argument out of range; f or a constraint returns another shape; f is
            finite at none of the start positions; resume is of another f, box, dynamics, or of
            other constraints, as far as that can be told: from their number, the tolerance, and
            the values at the best places.
        TypeError: an argument of another kind.
        CheckpointError: `resume` is not a good file.

    Example:
        >>> found = minimize(lambda x: (x - 3).square().sum(dim=1), bounds=([0, 0], [10, 10]))
        >>> found.reason, [round(float(entry), 1) for entry in found.x]
        ('cube', [3.0, 3.0])
    """
    rules, limits = Rules.of(iterations, evaluations, target, cube), _limits(constraints, tolerance)
    points, rule = Points("f", f), dynamics_of(dynamics, EMPSO())
    scored = partial(_scored, points) if limits is None else partial(limits.scored, points)
    if resume is None:
        x, box, generator = places(
            bounds, x0, particles=particles, swarms=swarms, spread=spread, seed=seed
        )
        rules.most(x.shape[1])
        swarm = _started(points, limits, x, rule)
        single = plain(swarms) == 1 and (x0 is None or np.ndim(x0) < 3)
        state = begin(swarm, generator, rules, single, setting_of(rule, box, limits))
    else:
        state = _state(resume)
        box = _box(bounds, state)
        refuse_another(state, points, limits, setting_of(rule, box, limits))
    with flushed():
        state = Search(scored, rule, box, rules).to_the_end(state)
    found = _minimum(state, rules)
    _say(found, state, dynamics is None)
    return found


def _limits(constraints: Any, tolerance: Any) -> Limits | None:
    """The constraints that were given, if there are any."""
    given = (constraints,) if callable(constraints) else constraints
    if not isinstance(given, tuple | list):
        raise TypeError(f"constraints: must be functions, got {constraints!r}")
    functions = [Points(f"constraints[{i}]", g) for i, g in enumerate(given)]
    several = isinstance(tolerance, tuple | list) or np.ndim(tolerance) == 1
    most = list(tolerance) if several else [tolerance] * max(1, len(functions))
    if several and len(most) != len(functions):
        raise ValueError(
            f"tolerance: must be one number, or one for each of {len(functions)} constraints, got "
            f"{tolerance!r}"
        )
    most = tuple(float(not_negative("tolerance", value)) for value in most)
    return Limits(functions, most) if functions else None


def _scored(f: Batched, swarm: Swarm) -> Swarm:
    return score(swarm, evaluated(f, swarm.x))


def _started(f: Batched, limits: Limits | None, x: Tensor, dynamics: Dynamics) -> Swarm:
    """Swarms at rest, of which one knows something at least."""
    if limits is None:
        return start(x, some_finite(evaluated(f, x)), dynamics)
    swarm = limits.start(f, x, dynamics)
    known = swarm.excess.isfinite().flatten(0, 1).any(dim=0)
    if not bool(known.all()):
        raise ValueError(
            f"constraints[{int(known.int().argmin())}]: must be a number at one start position at "
            "least, got NaN or infinity at all"
        )
    if bool((swarm.excess == 0).all(dim=-1).any()):  # else f need not be known there
        some_finite(swarm.pbest_loss)
    return swarm


def _state(resume: Any) -> MinimizeState:
    if isinstance(resume, MinimizeState):
        return resume
    if not isinstance(resume, str | Path):
        raise TypeError(f"resume: must be a state or a path, got a {type(resume).__name__}")
    return read_state(Path(resume))


def _box(bounds: Any, state: MinimizeState) -> Any:
    """The box that was given, or else the state's."""
    low, high = state.setting["low"], state.setting["high"]
    sides = sides_of(bounds) if bounds is not None or low is None else (low, high)
    return box_of(sides, state.swarm.x)


def _minimum(state: MinimizeState, rules: Rules) -> Minimum:
    """The results that a state holds."""
    swarm, moves = state.swarm, state.iterations
    feasible = swarm.feasible
    reasons = [
        rules.reason(stopped, made) + ("" if kept else ", infeasible")
        for stopped, made, kept in zip(
            state.stopped.tolist(), moves.tolist(), feasible.tolist(), strict=True
        )
    ]
    tensors = (swarm.found, swarm.found_loss, feasible, moves, swarm.x.shape[1] * (moves + 1))
    x, value, feasible, moves, evaluations = (t[0] if state.single else t for t in tensors)
    reason = reasons[0] if state.single else tuple(reasons)
    return Minimum(x, value, feasible, moves, evaluations, reason, state.history, state)


def _say(found: Minimum, state: MinimizeState, by_default: bool) -> None:
    """What a result does not say by itself, in the log."""
    swarms, dims = state.swarm.found.shape
    if missing := swarms - int(found.feasible.sum()):
        log.warning(
            "minimize: no feasible place was found by %d of %d swarms; their results are the "
            "places with the smallest violation",
            missing,
            swarms,
        )
    reasons = [found.reason] if isinstance(found.reason, str) else found.reason
    if by_default and dims >= MANY and any(reason.startswith("cube") for reason in reasons):
        log.warning(
            "minimize: EMPSO(), the default, contracts early in %d dimensions, which 'cube' does "
            "not tell from a minimum; dynamics=PSO() or more particles go further",
            dims,
        )
