"""What is known of a SwarmLoss's loss: how it can be asked, and that it may be."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gradevo.swarm.batch import BatchLoss
from gradevo.swarm.criteria import Criterion, Loss, same, settings_of
from gradevo.swarm.evaluating import refuse_other_arguments
from gradevo.swarm.untouched import Untouched, refuse_learnable

Asked = Criterion | BatchLoss


@dataclass(frozen=True)
class Known:
    """A loss, how it can be asked, its calls, and the settings that it had then."""

    loss: Loss
    asked: Asked
    calls: Untouched
    settings: list[Any]

    @classmethod
    def of(cls, loss: Loss, before: "Known | None", batch: bool) -> "Known":
        """What was known before, if the loss is still that, with the settings that it has now.

        Args:
            loss: as it was given.
            before: what was known at the call before.
            batch: whether it is evaluated on whole batches.
        """
        if before is None or before.loss is not loss:
            refuse_no_loss(loss)
            before, calls = None, Untouched()
        else:
            calls = before.calls
        now = settings_of(loss)
        if before is not None and same(before.settings, now):
            return before
        if batch:
            mapped = before.asked.mapped if before and isinstance(before.asked, BatchLoss) else None
            return cls(loss, BatchLoss(loss, calls, mapped), calls, now)
        asked = Criterion.of(loss)
        return cls(loss, replace(asked, each=partial(calls, asked.each)), calls, now)


def refuse_no_loss(loss: Any) -> None:
    """Refuse what cannot be called as `loss(output, target)`, as far as it can be told.

    Raises:
        TypeError: it is no function of both.
        ValueError: it would learn.
    """
    if isinstance(loss, type):
        raise TypeError(f"loss: must be a loss, not a class; got {loss.__name__}, without ()")
    if not callable(loss):
        raise TypeError(f"loss: must be callable, got a {type(loss).__name__}")
    if hasattr(loss, "of_members"):
        raise TypeError("loss: must be what a SwarmLoss evaluates, got one that is a SwarmLoss")
    refuse_other_arguments("loss", loss, "output", "target")
    refuse_learnable(loss)
