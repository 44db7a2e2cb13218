"""Steps that teach nothing: NaN and infinity in losses and gradients, found, skipped and counted.

A step of a member whose gradient is not finite would make its weights NaN for good, so it is not
taken, as trainers in mixed precision do; the other members take theirs. A loss may be undefined on
some batches (AUC on one class, a mean over no rows): that is said, and the run goes on.
"""

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradevo import trees
from gradevo.errors import DivergedError

if TYPE_CHECKING:
    from gradevo.population import Population

log = logging.getLogger(__name__)
Info = dict[str, Any]  # plain numbers of a generation
MOST = 0.5  # of the steps: who skips more does not learn
GRADIENT, LOSS = 0, 1  # columns of counts


def counted(members: int) -> Tensor:
    """Counts of skipped steps before the first one.

    Returns:
        `(members, 2)`: steps of which the gradient was not finite, and of which the loss alone was
        not.
    """
    return torch.zeros(members, 2, dtype=torch.int64)


def sound_steps(population: "Population", gradient: Tensor, losses: Tensor) -> Tensor | None:
    """Which members' losses and gradients are finite; None: everybody's.

    Args:
        population: whose leaves' gradients are views of the buffer.
        gradient: the buffer.
        losses: of the step, `(g,)`.

    Returns:
        `(g, 2)`, whether the gradient and whether the loss is finite; on the population's device,
        where nobody waits for the answer unless that is the CPU.
    """
    if gradient.device.type == "cpu":
        total = float(gradient.sum()) + float(losses.sum())
        if math.isfinite(total):
            return None
    leaves = [g for g in population.gradients().values() if g.numel()]
    rows = torch.stack([g.reshape(len(g), -1).isfinite().all(dim=1) for g in leaves]).all(dim=0)
    sound = torch.stack([rows, losses.isfinite()], dim=1)
    return None if sound.device.type == "cpu" and bool(sound.all()) else sound


def add(counts: Tensor, sound: Tensor) -> Tensor:
    """Counts after a step; on their own device."""
    lost, undefined = ~sound[:, GRADIENT], sound[:, GRADIENT] & ~sound[:, LOSS]
    return counts.to(sound.device) + torch.stack([lost, undefined], dim=1)


def sound_members(population: "Population") -> Tensor:
    """Whether each member's weights are finite, and its other numbers are not NaN, `(g,)`.

    A member that is not has no fitness, whatever a loss makes of its outputs.
    """
    sound = torch.ones(population.size, dtype=torch.bool, device=population.device)
    for name, tensor in population.tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            learns = name in population.leaves
            fine = tensor.isfinite() if learns else ~tensor.isnan()  # a mask may be infinite
            sound &= fine.reshape(len(fine), -1).all(dim=1).to(sound.device)
    return sound


# --- what is said --------------------------------------------------------------------------


def say(said: set[str], sound: Tensor, ids: Sequence[int], x: Any, y: Any) -> None:
    """Warn of the first step of a run that some member skips, and of what the batch holds."""
    if "skipped" in said or sound.device.type != "cpu":
        return
    said.add("skipped")
    member = ids[int((~sound.all(dim=1)).nonzero()[0])]
    what = "loss" if bool(sound[~sound.all(dim=1)][0, GRADIENT]) else "gradient"
    where = "; its batch has NaN or infinity in the training rows" if _spoilt((x, y)) else ""
    log.warning(
        "learning: member %d skips a step whose %s is NaN or infinite%s; further ones are counted "
        "('skipped' in the history)", member, what, where,
    )  # fmt: skip


def _spoilt(batch: Any) -> bool:
    return not all(bool(t.isfinite().all()) for t in trees.tensors(batch))


def check_learning(counts: Tensor, steps: int) -> None:
    """Refuse to go on when nobody learns.

    Args:
        counts: of all members, `(g, 2)`.
        steps: that each of them was to take.

    Raises:
        DivergedError: every member has skipped most of its steps for its gradient, or all.
    """
    if is_lost(counts, steps):
        share = float(counts.sum(dim=1).double().mean()) / steps
        raise DivergedError(
            "loss: must have a finite gradient on most steps for at least one member, got NaN or "
            f"infinity on {share:.0%} of the steps of all {len(counts)}"
        )


def is_lost(counts: Tensor, steps: int) -> bool:
    """Whether every member has skipped most of its steps for the gradient, or all of them."""
    lost, every = counts[:, GRADIENT], counts.sum(dim=1)
    nobody = bool((lost > MOST * steps).all()) or bool((every >= steps).all())
    return steps > 0 and nobody


def improvements(better: Tensor | None) -> int | None:
    """How many members became better by learning; None where nobody looked."""
    if better is None or bool(better.isnan().any()):
        return None
    return int(better.sum())


def told(counts: Tensor) -> dict[str, Any]:
    """Numbers for an info: steps skipped so far in all, and by each member for which reason."""
    skips = {"gradient": counts[:, GRADIENT].tolist(), "loss": counts[:, LOSS].tolist()}
    return {"skipped": int(counts.sum()), "skips": skips}


def warn_unlearnt(info: Info, said: set[str]) -> None:
    """Say of a generation in which nobody has learnt that it is so; once a run."""
    if info.get("improved") == 0 and "unlearnt" not in said:
        said.add("unlearnt")
        log.warning(
            "learning: no member became better by learning in generation %d; the rate may be too "
            "high or too low, or the loss may have no useful gradient", info["generation"],
        )  # fmt: skip


def summary(history: Sequence[Info], *, aloud: bool) -> Info:
    """Of a whole run, for its record: steps that were skipped, and whether anybody has learnt.

    Args:
        history: of all generations.
        aloud: whether to warn of it, too.
    """
    known = [info["improved"] for info in history if info.get("improved") is not None]
    last = history[-1] if history else {}
    skipped, learnt = last.get("skipped", 0), any(known) if known else None
    if aloud and learnt is False and len(known) > 1:
        log.warning("learning: no member became better by learning in the whole run")
    if aloud and skipped:
        log.warning("learning: %d of %d steps were skipped, as loss or gradient was NaN or "
                    "infinite", skipped, last["member_steps"])  # fmt: skip
    return {"skipped": skipped, "learnt": learnt}
