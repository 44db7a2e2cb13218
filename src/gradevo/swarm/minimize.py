"""Minimise a function that can only be evaluated, with one swarm or many side by side.

Mohapatra et al., "AdaSwarm", sections II and VI and section 8 of its supplement: a swarm stops
when "every particle is inside a 1e-2 cube around every other", or after 10,000 iterations.

Deviations:
    - Swarms also stop at a value, or after a number of evaluations.
    - The paper does not say how it treats constraints. Here each adds `penalty * max(0, g)`.
      The penalty is not squared: a squared one always draws the minimum a little outside, and
      what it buys, smoothness, a swarm does not need.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gradevo.checkpoint import read, write
from gradevo.denormals import flushed
from gradevo.errors import CheckpointError
from gradevo.swarm.dynamics import EMPSO, Dynamics
from gradevo.swarm.gradient import Batched, evaluated
from gradevo.swarm.positions import Bounds, box_of, places
from gradevo.swarm.search import start
from gradevo.swarm.stopping import MinimizeState, Row, Rules, Search, begin, each
from gradevo.validation import not_negative


@dataclass(frozen=True)
class Minimum:
    """What a minimisation found; without the axis of swarms where there was one swarm.

    Attributes:
        x: best place, `(dims,)` or `(swarms, dims)`.
        value: f there, and the penalty if that place is not feasible; infinite where a swarm
            met no finite value.
        feasible: whether all constraints hold there.
        iterations: moves made until the swarm stopped.
        evaluations: of f by the swarm until then.
        reason: "cube", "target", "iterations" or "evaluations"; one a swarm.
        history: one dict an iteration (every 16th on a GPU): `iteration`, `best` value of all
            swarms, `mean` of their best values, `spread` of the running swarms (the widest
            side of their boxes, averaged), swarms `running`, `evaluations` of f in all.
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
    x0: Sequence[float] | Tensor | None = None,
    particles: int = 20,
    swarms: int = 1,
    spread: float = 1.0,
    dynamics: Dynamics | None = None,
    constraints: Sequence[Batched] = (),
    penalty: float = 1e3,
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
        f: takes `(n, dims)`, returns `(n,)`; only evaluated.
        bounds: lowest and highest position, each a number or one a dimension. Particles never
            leave them, and start uniformly between them where x0 is not given.
        x0: start positions `(particles, dims)` or `(swarms, particles, dims)`, or one point
            `(dims,)`: particle 0 starts there, the others around it.
        particles: of each swarm.
        swarms: how many.
        spread: half the width of the cube around one point.
        dynamics: how particles move; default `EMPSO()`.
        constraints: functions g like f; a place is feasible where each is at most 0.
        penalty: `penalty * max(0, g)` of each constraint is added to f.
        iterations: at most so many moves, those before `resume` included.
        evaluations: at most so many of f by each swarm, likewise; None: no limit.
        target: a swarm stops at a value of at most this.
        cube: a swarm stops once one cube with sides of this length holds it (the paper's rule);
            None: never.
        seed: all random numbers follow from it.
        resume: the state of an earlier call, or a file of `Minimum.save`: goes on bit for bit
            as if it had never stopped. Give the other arguments again; those of the start
            (x0, particles, swarms, spread, seed) do not count.

    Returns:
        The best places, why the search ended, and its state. Dtype and device are those of x0
        or the bounds.

    Raises:
        ValueError: an argument out of range; f or a constraint returns another shape; f is
            finite at none of the start positions.
        CheckpointError: `resume` is not a good file.

    Example:
        >>> found = minimize(lambda x: (x - 3).square().sum(dim=1), bounds=([0, 0], [10, 10]))
        >>> found.reason, [round(float(entry), 1) for entry in found.x]
        ('cube', [3.0, 3.0])
    """
    rules = Rules(iterations, evaluations, target, cube)
    not_negative("penalty", penalty)
    evaluate, dynamics = _penalised(f, constraints, penalty), dynamics or EMPSO()
    if resume is None:
        x, box, generator = places(
            bounds, x0, particles=particles, swarms=swarms, spread=spread, seed=seed
        )
        swarm = start(x, _some_finite(evaluate(x)), dynamics)
        state = begin(swarm, generator, rules, swarms == 1 and _one_swarm(x0))
    else:
        state = resume if isinstance(resume, MinimizeState) else _loaded(Path(resume))
        box = None if bounds is None else box_of(bounds, state.swarm.x)
    with flushed():
        state = Search(evaluate, dynamics, box, rules).to_the_end(state)
    return _minimum(state, rules, constraints)


def _penalised(
    f: Batched, constraints: Sequence[Batched], penalty: float
) -> Callable[[Tensor], Tensor]:
    """f and its penalties at `(swarms, particles, dims)`, as `(swarms, particles)`."""

    def evaluate(x: Tensor) -> Tensor:
        values = evaluated(f, x)
        for number, g in enumerate(constraints):
            excess = evaluated(g, x, f"constraints[{number}]").clamp(min=0)
            values = values + penalty * excess
        return values

    return evaluate


def _some_finite(values: Tensor) -> Tensor:
    if not bool(values.isfinite().any()):
        raise ValueError(
            "f: must be finite at one start position at least, got NaN or infinity at all "
            f"{values.numel()}"
        )
    return values


def _one_swarm(x0: Sequence[float] | Tensor | None) -> bool:
    return x0 is None or torch.as_tensor(x0).dim() < 3


def _loaded(path: Path) -> MinimizeState:
    """A state from a file, its tensors back on their device."""
    state = read(path)
    if not isinstance(state, MinimizeState):
        raise CheckpointError(
            f"checkpoint: must be the state of a minimisation, got {type(state).__name__} in {path}"
        )
    state.swarm = each(lambda t: t.to(state.device), state.swarm)
    for name in ("moved", "iterations", "stopped"):
        setattr(state, name, getattr(state, name).to(state.device))
    return state


def _minimum(state: MinimizeState, rules: Rules, constraints: Sequence[Batched]) -> Minimum:
    """The results that a state holds."""
    swarm, moves = state.swarm, state.iterations
    x = swarm.gbest
    feasible = torch.ones_like(state.stopped, dtype=torch.bool)
    for number, g in enumerate(constraints):
        feasible &= evaluated(g, x.unsqueeze(1), f"constraints[{number}]")[:, 0] <= 0
    reasons = [rules.reason(stopped, state.iteration) for stopped in state.stopped.tolist()]
    tensors = (x, swarm.gbest_loss, feasible, moves, swarm.x.shape[1] * (moves + 1))
    x, value, feasible, moves, evaluations = (t[0] if state.single else t for t in tensors)
    reason = reasons[0] if state.single else tuple(reasons)
    return Minimum(x, value, feasible, moves, evaluations, reason, state.history, state)
