"""SwarmLoss in one compiled pass: points, their losses and directions, sixteen swarms a vector.

For swarms around outputs under a built-in loss, one shot or moved by EMPSO, on the CPU in
float32. Its random numbers come from a counter, not from torch's generator, so points are other
ones than in torch, of the same distribution. Needs Numba: `pip install gradevo[simd]`.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from gradevo.engines import criteria
from gradevo.swarm.dynamics import EMPSO

ESTIMATORS = ("rank", "tie", "near", "starred")  # in the kernel's order


class Found(NamedTuple):
    """What the swarms found.

    Attributes:
        direction: the ascent directions, `(swarms, dims)`.
        lost: swarms of which no point has a finite loss, though the output is finite.
    """

    direction: Tensor
    lost: Tensor


def kind_of(loss: Any) -> str | None:
    """The name of the kernel's own form of a loss; None: it has none."""
    return None if criteria.smoothing(loss) != 0 else criteria.kind_of(loss)


def targets_of(kind: str, target: Any, rows: Tensor, entries: bool) -> Tensor | None:
    """Targets of the swarms, `(swarms, numbers)`; None: the kernel cannot take them."""
    if not isinstance(target, Tensor) or rows.dim() != 2:
        return None
    if kind == "CROSS_ENTROPY":
        known = target.dtype == torch.int64 and target.shape == rows.shape[:1]
        inside = known and bool(((target >= 0) & (target < rows.shape[1])).all())
        return target.unsqueeze(1) if inside and not entries else None
    if target.shape != rows.shape or not target.is_floating_point():
        return None
    return target.reshape(-1, 1) if entries else target


@dataclass(frozen=True)
class Around:
    """How swarms look around an output.

    Attributes:
        particles: points a swarm.
        estimator: one of `ESTIMATORS`.
        spread: half the width of the cube around an output.
        bounds: into which points are clipped.
        dynamics: how they move.
        iterations: how often.
        eta: the papers' learning rate, for "near" and "starred".
    """

    particles: int
    estimator: str
    spread: float
    bounds: tuple[float, float] | None = None
    dynamics: EMPSO = field(default_factory=EMPSO)
    iterations: int = 0
    eta: float = 0.1

    def numbers(self) -> Tensor:
        """As the kernel reads them."""
        low, high = self.bounds or (-torch.inf, torch.inf)
        rule = self.dynamics
        clamp = torch.inf if rule.clamp is None else rule.clamp
        rates = (rule.c1, rule.c2, rule.beta, float(rule.bias_correction), clamp, self.eta)
        numbers = [self.spread, low, high, *rates, rule.bounce]
        return torch.tensor(numbers, dtype=torch.float32)


def directions(
    kind: str, w: Tensor, target: Tensor, around: Around, generator: Generator | None
) -> Found:
    """Where losses rise around each output.

    Args:
        kind: of the loss, see `kind_of`.
        w: outputs, `(swarms, dims)`, float32.
        target: `(swarms, dims)`, or `(swarms, 1)` numbers of classes.
        around: how swarms look around.
        generator: of the seed; None: torch's global stream.
    """
    from gradevo.engines.simd.layout import Loss
    from gradevo.swarm.lanes_kernel import entry
    from gradevo.swarm.lanes_moves import size_of

    outputs, targets = _in_lanes(w), _in_lanes(target.to(torch.float32))
    blocks, dims, lanes = outputs.shape
    found, lost = torch.empty_like(outputs), outputs.new_empty(blocks, lanes)
    particles, iterations = around.particles, around.iterations
    scratch = outputs.new_empty(size_of(particles, dims, iterations), lanes)
    numbers, weights = around.numbers(), _rank_weights(particles * (iterations + 1))
    seed = int(torch.randint(2**62, (), generator=generator))
    entry()(
        outputs.data_ptr(), targets.data_ptr(), found.data_ptr(), lost.data_ptr(),
        scratch.data_ptr(), numbers.data_ptr(), weights.data_ptr(), blocks, dims,
        targets.shape[1], particles, int(Loss[kind]), ESTIMATORS.index(around.estimator),
        iterations, int(around.dynamics.per_entry), seed,
    )  # fmt: skip
    return Found(_out_of_lanes(found, len(w)), lost.flatten()[: len(w)] != 0)


def _in_lanes(rows: Tensor) -> Tensor:
    """`(swarms, n)` as `(blocks, n, lanes)`; lanes to spare hold zeros."""
    from gradevo.engines.simd.vector import LANES

    blocks = -(-len(rows) // LANES)
    padded = rows.new_zeros(blocks * LANES, rows.shape[1])
    padded[: len(rows)] = rows
    return padded.view(blocks, LANES, -1).transpose(1, 2).contiguous()


def _out_of_lanes(lanes: Tensor, rows: int) -> Tensor:
    return lanes.transpose(1, 2).reshape(-1, lanes.shape[1])[:rows]


@cache
def _rank_weights(particles: int) -> Tensor:
    from gradevo.swarm.estimators import _log_ranks

    return _log_ranks(particles, torch.float32, "cpu").diff()
