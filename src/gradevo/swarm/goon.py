"""Going on from a state: refused where it is that of another search, as far as can be told."""

from typing import Any

from torch import Tensor

from gradevo.swarm.constraints import Constrained, Limits
from gradevo.swarm.dynamics import Dynamics, Swarm
from gradevo.swarm.evaluating import Batched, evaluated
from gradevo.swarm.search import Box
from gradevo.swarm.stopping import MinimizeState

NEAR = 1e-4  # of the size of f at the start: what rounding and other batches may change


def setting_of(dynamics: Dynamics, box: Box | None, limits: Limits | None) -> dict[str, Any]:
    """What a search is of, as it goes on disk; of functions only how many there are."""
    return {
        "dynamics": repr(dynamics),
        "low": None if box is None else box.low,
        "high": None if box is None else box.high,
        "tolerance": [] if limits is None else list(limits.tolerance),
    }


def refuse_another(
    state: MinimizeState, f: Batched, limits: Limits | None, setting: dict[str, Any]
) -> None:
    """Hold a search against the state that it is to go on from.

    Raises:
        ValueError: names what is another.
    """
    old = state.setting
    if setting["dynamics"] != old["dynamics"]:
        raise ValueError(
            f"dynamics: must be that of the state to go on from, {old['dynamics']}, got "
            f"{setting['dynamics']}"
        )
    for name in ("low", "high"):
        if not _equal(setting[name], old[name]):
            raise ValueError(
                f"bounds: must be those of the state to go on from, {name} {_listed(old[name])}, "
                f"got {_listed(setting[name])}"
            )
    if len(setting["tolerance"]) != len(old["tolerance"]):
        raise ValueError(
            f"constraints: must be those of the state to go on from, {len(old['tolerance'])}, "
            f"got {len(setting['tolerance'])}"
        )
    if setting["tolerance"] != old["tolerance"]:
        raise ValueError(
            f"tolerance: must be that of the state to go on from, {old['tolerance']}, got "
            f"{setting['tolerance']}"
        )
    _refuse_other_values(state, f, limits)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool((one == other.to(one.device)).all())


def _listed(side: Tensor | None) -> Any:
    return "none" if side is None else side.tolist()


def _refuse_other_values(state: MinimizeState, f: Batched, limits: Limits | None) -> None:
    """f and the constraints at the best places, which are known; noise is no other function."""
    swarm = state.swarm
    first = {abs(row[name]) for row in state.history[:1] for name in ("best", "mean")}
    size = max([number for number in first if number < float("inf")], default=0.0)
    then = swarm.found_loss
    near = NEAR * then.abs().clamp(min=size) + 1e-12
    now = _again(f, swarm)
    known = then.isfinite()
    if _differs(now, then, near, known) and not _differs(_again(f, swarm), now, near, known):
        i = int((known & ~((now - then).abs() <= near)).int().argmax())
        raise ValueError(
            f"f: must be that of the state to go on from, {float(then[i]):g} at its best place, "
            f"got {float(now[i]):g}"
        )
    if limits is None or not isinstance(swarm, Constrained):
        return
    far, known = limits.distance(swarm, now), swarm.best_excess.isfinite()
    same = limits.distance(swarm, now)
    near = 1e-3 * swarm.best_excess.clamp(min=1e-3)
    if _differs(far, swarm.best_excess, near, known) and not _differs(same, far, near, known):
        raise ValueError(
            "constraints: must be those of the state to go on from, got others at its best place"
        )


def _again(f: Batched, swarm: Swarm) -> Tensor:
    return evaluated(f, swarm.found.unsqueeze(1))[:, 0]


def _differs(now: Tensor, then: Tensor, near: Tensor, known: Tensor) -> bool:
    """Whether numbers that were finite are others; NaN is another, but for NaN."""
    same = ((now - then).abs() <= near) | (now.isnan() & then.isnan())
    return bool((known & ~same).any())
