"""SwarmLoss in one compiled pass: points, their losses and directions, sixteen swarms a vector.

For one-shot swarms around outputs under a built-in loss, on the CPU in float32. Its random numbers
come from a counter, not from torch's generator, so points are other ones than in torch, of the
same distribution. Needs Numba: `pip install gradevo[simd]`.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from gradevo.engines import criteria

ESTIMATORS = ("rank", "tie")


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


def directions(
    kind: str,
    w: Tensor,
    target: Tensor,
    particles: int,
    estimator: str,
    spread: float,
    bounds: tuple[float, float] | None,
    generator: Generator | None,
) -> Found:
    """Where losses rise around each output.

    Args:
        kind: of the loss, see `kind_of`.
        w: outputs, `(swarms, dims)`, float32.
        target: `(swarms, dims)`, or `(swarms, 1)` numbers of classes.
        particles: points a swarm.
        estimator: "rank" or "tie".
        spread: half the width of the cube around w.
        bounds: into which points are clipped.
        generator: of the seed; None: torch's global stream.
    """
    from gradevo.engines.simd.layout import Loss
    from gradevo.swarm.lanes_kernel import entry, size_of

    outputs, targets = _in_lanes(w), _in_lanes(target.to(torch.float32))
    blocks, dims, lanes = outputs.shape
    found, lost = torch.empty_like(outputs), outputs.new_empty(blocks, lanes)
    scratch = outputs.new_empty(size_of(particles, dims), lanes)
    low, high = bounds or (-torch.inf, torch.inf)
    numbers = torch.tensor([spread, low, high], dtype=torch.float32)
    weights = _rank_weights(particles)
    seed = int(torch.randint(2**62, (), generator=generator))
    entry()(
        outputs.data_ptr(), targets.data_ptr(), found.data_ptr(), lost.data_ptr(),
        scratch.data_ptr(), numbers.data_ptr(), weights.data_ptr(), blocks, dims,
        targets.shape[1], particles, int(Loss[kind]), ESTIMATORS.index(estimator), seed,
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
