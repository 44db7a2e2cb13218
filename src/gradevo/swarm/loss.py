"""SwarmLoss: train on any loss you can evaluate, by the gradient of a swarm (AdaSwarm).

The swarm searches the network's *outputs*, not its weights: dE/dy^ is estimated from values of
the loss alone, and the chain rule goes on through the network as always (eqs. 24, 25).

Deviations from Mohapatra et al.: points start around the output, not around the target, which
would leak the answer; each entry, or row, has a swarm of its own unless the scope is the batch; the
default looks at points in one shot, which trains better than the paper's swarm at a fifth of the
evaluations; where outputs are bounded, its directions are meant for what goes into the sigmoid.
`SwarmLoss.paper` is the paper's setting.
"""

import logging
import math
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Generator, Tensor, nn

from gradevo.engines.simd import missing
from gradevo.fields import refuse_unused
from gradevo.losses import OnLogits
from gradevo.randomness import ambient, own
from gradevo.swarm import lanes
from gradevo.swarm.batch import Batches, BatchLoss
from gradevo.swarm.criteria import Loss, check_target, each_tensor, of_probabilities
from gradevo.swarm.dynamics import EMPSO, Dynamics, dynamics_of
from gradevo.swarm.estimators import DIRECTIONS, ESTIMATORS, OF_SWARM, SIZED, Cloud, rate
from gradevo.swarm.given import Given, refuse_transforms
from gradevo.swarm.gradient import around, visit
from gradevo.swarm.known import Asked, Known, refuse_no_loss
from gradevo.swarm.numbers import numbers, size
from gradevo.swarm.saturation import saturates, slope
from gradevo.swarm.scopes import Entries, Rows, Scope, checked_rows, part
from gradevo.swarm.search import Box
from gradevo.swarm.untouched import Untouched
from gradevo.swarm.unused import UNUSED
from gradevo.trees import prediction
from gradevo.validation import at_least, flag, one_of, pair, positive
from gradevo.validation import seed as whole_seed

log = logging.getLogger("gradevo.swarm")
PAPER: dict[str, Any] = {
    "scope": "batch", "particles": 10, "iterations": 10, "estimator": "near",
    "dynamics": EMPSO(c1=0.8, c2=0.9, beta=0.9, per_entry=False, bounce=0.0), "eta": 0.1,
}  # fmt: skip
SCOPES = {"row": Rows, "entry": Entries, "batch": Batches}


class Search(NamedTuple):
    """How a swarm looks around an output."""

    particles: int
    estimator: str
    spread: float


DEFAULTS = {  # measured on tuning rows: docs/results/swarm.md
    "entry": Search(20, "tie", 1.0),
    "row": Search(20, "rank", 0.5),
    "batch": Search(100, "rank", 0.5),
}


class SwarmLoss(nn.Module):
    """A criterion whose gradient comes from evaluations of a loss, differentiable or not.

    Its value is the loss's own. Every output gets as its gradient the ascent direction that
    evaluated points around it show, times the upstream gradient. Points are evaluated in the
    forward call; under `torch.no_grad` only the value is.

    Args:
        loss: a criterion of `torch.nn` or a function of `torch.nn.functional`, of which rows
            are evaluated alone; or any `loss(output, target)` that returns one value a row,
            `(rows,)`, or a value for every entry, `(rows, ...)`, of which the mean counts. It is
            called with more rows than the batch has, each row with its own target. With
            scope="batch": returns one number for the batch.
        scope: "entry": one swarm an entry, for losses that value every entry alone; "row": one
            swarm a row; "batch": one swarm for all outputs of the batch (F1, AUC). "auto": an
            entry for criteria of torch that compare entry by entry, else a row.
        particles: points a swarm; default 20, for the batch 100.
        iterations: moves of the swarm after the first points; 0 is one shot.
        dynamics: how particles move; default `EMPSO()`.
        estimator: one of `gradevo.swarm.ESTIMATORS`; default "rank", for entries "tie".
        start: "output": around the current output; "range": anywhere within `bounds`.
        spread: half the width of the cube in which points start: a share of the width of the
            bounds, or in the outputs' own unit where there are none; default 0.5, for
            entries 1.
        bounds: known range of the outputs, into which points are clipped; default (0, 1) for
            binary cross-entropy of probabilities, else none.
        saturating: outputs approach the bounds through a sigmoid, tanh or softmax: "rank" and
            "tie" are divided by its slope (1 in the middle), so that no output gets stuck at a
            bound. False: they are linear between the bounds. None: autograd's graph tells.
        eta: the paper's learning rate, in the paper's estimators only.
        engine: "torch", or "simd": one compiled pass, for one shot or moves of `EMPSO` under
            cross-entropy, MSE, MAE and binary cross-entropy in float32 on the CPU, and all
            estimators but regression and covariance; the rest is left to torch. Needs Numba.
        seed: of the points. Inside `gradevo.fit` they come from the run's own stream instead.

    Raises:
        ValueError: an argument out of range; on use, a loss that returns another shape, or NaN
            for every point around an output that is finite itself.

    Example:
        >>> model = nn.Linear(4, 3)
        >>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
        >>> criterion = SwarmLoss(lambda output, y: (output.argmax(1) != y).float())
        >>> criterion(model(x), y).backward()
        >>> model.weight.grad.shape
        torch.Size([3, 4])

    Source: Mohapatra et al., "AdaSwarm", IEEE TETCI 2021.
    """

    def __init__(
        self,
        loss: Loss,
        *,
        scope: str = "auto",
        particles: int | None = None,
        iterations: int = 0,
        dynamics: Dynamics | None = None,
        estimator: str | None = None,
        start: Literal["output", "range"] = "output",
        spread: float | None = None,
        bounds: tuple[float, float] | None = None,
        saturating: bool | None = None,
        eta: float = 0.1,
        engine: Literal["torch", "simd"] = "torch",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.loss = loss.loss if isinstance(loss, OnLogits) else loss  # it is given the prediction
        refuse_no_loss(self.loss)
        self.scope = one_of("scope", scope, ("auto", *SCOPES))
        self.particles = None if particles is None else size("particles", particles, 2)
        self.iterations = at_least("iterations", iterations, 0)
        self.dynamics = dynamics_of(dynamics, EMPSO())
        self.estimator = None if estimator is None else one_of("estimator", estimator, ESTIMATORS)
        self.start = one_of("start", start, ("output", "range"))
        self.spread = None if spread is None else float(positive("spread", spread))
        self.bounds = self._range(bounds)
        self.saturating = None if saturating is None else flag("saturating", saturating)
        self.eta, self.seed = rate("eta", eta), whole_seed("seed", seed)
        self.engine = self._engine(engine)
        refuse_unused(self, UNUSED)
        self._known: Known | None = None
        self._entrywise: tuple[Loss, bool] | None = None
        self._random: Generator | None = None
        self._random_state: Tensor | None = None  # of a state dict, until it is known where
        self._lost: Tensor | None = None  # on an accelerator: what the last call found
        self.undefined = 0

    @classmethod
    def paper(cls, loss: Loss, **changes: Any) -> Self:
        """The paper's setting: one joint EMPSO swarm of 10 particles, 10 moves, eq. (15).

        The joint swarm of a loss that is a mean over rows is this one; the loss is evaluated on
        whole batches. `changes` are arguments of the class.
        """
        return cls(loss, **{**PAPER, **changes})

    def _range(self, bounds: Any) -> tuple[float, float] | None:
        if bounds is None:
            bounds = (0.0, 1.0) if of_probabilities(self.loss) else None
        elif isinstance(bounds, np.ndarray | Tensor):
            bounds = numbers("bounds", bounds).tolist()
        if bounds is None and self.start == "range":
            raise ValueError("start: 'range' needs bounds=(low, high), got none")
        return bounds if bounds is None else pair("bounds", bounds)

    @staticmethod
    def _engine(engine: Any) -> str:
        if one_of("engine", engine, ("torch", "simd")) == "simd" and (why := missing()) is not None:
            raise ImportError(f"engine: {why}")
        return engine

    @property
    def evaluations(self) -> int:
        """Evaluations of the loss that a training step costs, for each row (batch) of outputs."""
        scope = "row" if self.scope == "auto" else self.scope  # an entry's swarm is as large
        return self._search(scope).particles * (self.iterations + 1)

    def _search(self, scope: str) -> Search:
        """What was asked for, else the scope's default."""
        given = {"particles": self.particles, "estimator": self.estimator, "spread": self.spread}
        return DEFAULTS[scope]._replace(**{k: v for k, v in given.items() if v is not None})

    def forward(self, output: Any, target: Any) -> Tensor:
        """The loss of a batch, a scalar that carries the swarm's gradient.

        Args:
            output: `(rows, ...)`. Of a mapping or tuple the prediction, which is its `logits` or
                else its first tensor: the loss gets that tensor alone.
            target: a tensor, or a tree of tensors, with as many rows.
        """
        output = prediction(output)
        refuse_transforms(output)
        criterion = self._criterion()
        if self.scope != "batch":
            check_target(target, len(output))
        with torch.no_grad():
            value = self._value(criterion, output, target)
        if not (torch.is_grad_enabled() and output.requires_grad):
            return value
        with torch.no_grad():
            targets = each_tensor(lambda t: t.unsqueeze(0), target)
            gradient = self._gradient(
                criterion, output.detach().unsqueeze(0), targets, self._saturates(output)
            )
        return Given.apply(output, value, gradient[0])

    def of_members(self, outputs: Any, targets: Any) -> Tensor:
        """Losses of stacked members, `(g,)`, for outputs and targets `(g, rows, ...)`.

        The same numbers as `forward` for one member after another.
        """
        outputs = prediction(outputs)
        criterion = self._criterion()
        with torch.no_grad():
            members = range(len(outputs))
            losses = [self._value(criterion, outputs[i], part(targets, i)) for i in members]
            values = torch.stack(losses)
        if not (torch.is_grad_enabled() and outputs.requires_grad):
            return values
        with torch.no_grad():
            saturated = self._saturates(outputs)
            gradient = self._gradient(criterion, outputs.detach(), targets, saturated)
        return Given.apply(outputs, values, gradient)

    def _criterion(self) -> Asked:
        """The loss, as it can be asked; a module's settings are those that it has now."""
        self._known = Known.of(self.loss, self._known, self.scope == "batch")
        return self._known.asked

    def _value(self, criterion: Asked, output: Tensor, target: Any) -> Tensor:
        """The loss as it is: reduced by itself, or the mean of what it says about rows."""
        if isinstance(criterion, BatchLoss):
            return criterion.value(output, target)
        calls = self._known.calls if self._known else Untouched()
        try:
            value = calls.first(self.loss, output, target)
        except (RuntimeError, ValueError):
            criterion.refuse_misfit(output)
            raise
        if criterion.reduces and value.dim() == 0:
            return value
        rows = checked_rows(value, output)
        return (rows if rows.is_floating_point() else rows.float()).mean()

    # --- the gradient --------------------------------------------------------------------

    def _gradient(self, criterion: Any, outputs: Tensor, targets: Any, saturated: bool) -> Tensor:
        """Directions of all members' swarms, side by side where that draws the same points."""
        if (self.iterations or self.engine == "simd") and len(outputs) > 1:
            found = []
            for i in range(len(outputs)):
                own(i)
                one = slice(i, i + 1)
                found.append(self._gradient(criterion, outputs[one], part(targets, one), saturated))
            return torch.cat(found)
        if outputs.numel() == 0:
            return torch.zeros_like(outputs)
        name = self._scope(criterion, outputs, targets)
        scope, search = SCOPES[name](criterion, outputs, targets), self._search(name)
        generator = self._generator(outputs.device)
        if (quick := self._compiled(name, scope, search, generator)) is not None:
            direction = self._told(quick.direction, quick.lost, search.particles, False)
            if saturated and self.bounds is not None and search.estimator in DIRECTIONS:
                direction = direction / slope(scope.w, *self.bounds)
            return scope.gradient(direction, False)
        x = self._starts(scope.w, len(outputs), search, generator)
        cloud = self._cloud(scope, x.to(outputs.dtype).to(x.dtype), search, generator)
        with torch.autocast(outputs.device.type, enabled=False):
            direction = ESTIMATORS[search.estimator](cloud)
            direction = self._honest(cloud, direction, name == "batch")
            if saturated and self.bounds is not None and search.estimator in DIRECTIONS:
                direction = direction / slope(cloud.w, *self.bounds)
            return scope.gradient(direction, search.estimator in SIZED)

    def _compiled(
        self, name: str, scope: Any, search: Search, generator: Generator | None
    ) -> lanes.Found | None:
        """Directions by the compiled pass; None: it was not asked for or does not serve this."""
        plain = self.engine == "simd" and name != "batch" and self.start == "output"
        if not plain or search.estimator not in lanes.ESTIMATORS:
            return None
        rule = self.dynamics if self.iterations or search.estimator in OF_SWARM else EMPSO()
        if type(rule) is not EMPSO:
            return None
        kind = lanes.kind_of(self.loss)
        if kind is None or scope.w.dtype != torch.float32 or scope.w.device.type != "cpu":
            return None
        target = lanes.targets_of(kind, scope.target, scope.rows, name == "entry")
        if target is None or scope.outputs.dtype != torch.float32:
            return None
        width = 1.0 if self.bounds is None else self.bounds[1] - self.bounds[0]
        around = lanes.Around(
            search.particles, search.estimator, search.spread * width, self.bounds, rule,
            self.iterations, self.eta,
        )  # fmt: skip
        return lanes.directions(kind, scope.w, target, around, generator)

    def _saturates(self, output: Tensor) -> bool:
        if self.bounds is None:
            return False
        return saturates(output) if self.saturating is None else self.saturating

    def _scope(self, criterion: Any, outputs: Tensor, targets: Any) -> str:
        """The scope that was asked for; "auto" looks at what the criterion says of a batch."""
        if self.scope != "auto":
            return self.scope
        if self._entrywise is None or self._entrywise[0] is not self.loss:
            entries = criterion.reduces and not criterion.classwise
            if entries:
                found = criterion.each(*criterion.rows(outputs[0], part(targets, 0)))
                entries = found.shape == outputs[0].shape
            self._entrywise = self.loss, entries
        return "entry" if self._entrywise[1] else "row"

    def _cloud(self, scope: Scope, x: Tensor, search: Search, generator: Generator | None) -> Cloud:
        if not self.iterations and search.estimator not in OF_SWARM:
            return Cloud(scope.w, x, scope.evaluate(x))
        box = None if self.bounds is None else Box(*self.bounds)
        moves = self.dynamics, self.iterations, generator
        return visit(scope.evaluate, scope.w, x, *moves, box=box, eta=self.eta)

    def _starts(
        self, w: Tensor, members: int, search: Search, generator: Generator | None
    ) -> Tensor:
        """First points of all swarms, drawn for one member after another."""
        if members == 1:
            return self._positions(w, search, generator)
        positions = []
        for i, mine in enumerate(w.chunk(members)):
            own(i)
            positions.append(self._positions(mine, search, generator))
        return torch.cat(positions)

    def _positions(self, w: Tensor, search: Search, generator: Generator | None) -> Tensor:
        """Where the points of a member's swarms start, `(swarms, particles, dims)`."""
        n, spread = search.particles, search.spread
        if self.bounds is None:
            return around(w, n, spread, generator)
        low, high = self.bounds
        if self.start == "range":
            middle = torch.full_like(w, (low + high) / 2)
            return around(middle, n, (high - low) / 2, generator)
        return around(w, n, spread * (high - low), generator).clamp_(low, high)

    def _honest(self, cloud: Cloud, direction: Tensor, batch: bool) -> Tensor:
        """NaN around an output that is none itself; see `_told` for points that told nothing.

        An accelerator is not waited for: there the answer is read at the next call.
        """
        w, losses = cloud.w, cloud.losses
        if w.device.type == "cpu" and math.isfinite((losses.sum() + w.sum()).item()):
            return direction
        known = w.isfinite().all(dim=1)
        direction = direction.masked_fill(~known.unsqueeze(1), torch.nan)
        lost = known & ~losses.isfinite().any(dim=1)
        return self._told(direction, lost, losses.shape[1], batch)

    def _told(self, direction: Tensor, lost: Tensor, points: int, batch: bool) -> Tensor:
        """NaN or infinity for some points is survived; this is on swarms where it is for all.

        A loss may be undefined on a batch: there is no direction then, and a word on the first
        time. Of rows it is an error, or inside a run the member's, whose gradient becomes NaN.
        """
        if not batch and ambient():
            return direction.masked_fill(lost.unsqueeze(1), torch.nan)
        at_once = lost.device.type == "cpu"
        answer, self._lost = (lost.sum(), None) if at_once else (self._lost, lost.sum())
        found = 0 if answer is None else int(answer)
        if batch:
            self._count(found, points)
            return direction.masked_fill(lost.unsqueeze(1), 0.0)
        if found:
            raise ValueError(
                f"loss: must be finite for at least one point around each output, got NaN or "
                f"infinity for all {points} points of {found} swarms"
            )
        return direction

    def _count(self, found: int, points: int) -> None:
        """Batches of which the loss told nothing."""
        if found and not self.undefined:
            log.warning(
                "loss: NaN or infinite for all %d points around the outputs of a batch, which "
                "therefore gives no gradient; it may be undefined there (AUC with one class in "
                "the batch). Said once; SwarmLoss.undefined counts such batches",
                points,
            )
        self.undefined += found

    # --- random numbers ------------------------------------------------------------------

    def _generator(self, device: torch.device) -> Generator | None:
        """Our own random numbers; inside a run None, torch's global stream, which is the run's."""
        if ambient():
            return None
        if self._random is None or self._random.device != device:
            self._random = torch.Generator(device).manual_seed(self.seed)
            state, self._random_state = self._random_state, None
            if state is not None and len(state) == len(self._random.get_state()):
                self._random.set_state(state)
        return self._random

    def get_extra_state(self) -> Tensor:
        """Where the random numbers are: part of the state dict, so that resume is exact."""
        if self._random is not None:
            return self._random.get_state()
        nothing = torch.empty(0, dtype=torch.uint8)
        return nothing if self._random_state is None else self._random_state

    def set_extra_state(self, state: Tensor) -> None:
        """Go on with the random numbers of a state dict, on the kind of device they come from."""
        self._random, self._random_state = None, state.cpu().clone() if len(state) else None

    def extra_repr(self) -> str:
        known = "" if isinstance(self.loss, nn.Module) else f"{self.loss!r}, "
        return (
            f"{known}scope={self.scope}, estimator={self.estimator}, particles={self.particles}, "
            f"iterations={self.iterations}, start={self.start}, spread={self.spread}, "
            f"bounds={self.bounds}, saturating={self.saturating}, eta={self.eta}, "
            f"engine={self.engine}, dynamics={self.dynamics}"
        )
