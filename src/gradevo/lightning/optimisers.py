"""The members' own optimisers and schedules, as the one that Lightning drives.

Every member's `configure_optimizers` is called, so that parameter groups, schedules and optimisers
that are not elementwise mean what they mean for one network.
"""

import itertools
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from gradevo.health import check_learning

log = logging.getLogger(__name__)


class MemberOptimizers(Optimizer):
    """One optimiser a member; a step steps them all, but those whose gradient is not finite.

    Args:
        members: each over its own member's tensors.

    Attributes:
        skipped: steps that each member did not take, `(g,)`.
    """

    def __init__(self, members: Sequence[Optimizer]) -> None:
        self.members = list(members)
        self.skipped = torch.zeros(len(self.members), dtype=torch.int64)
        self.begin()
        super().__init__(self._groups(), {})

    def begin(self) -> None:
        """Count anew what `check` looks at."""
        self.before, self.taken = self.skipped.clone(), 0

    def check(self) -> None:
        """Refuse to go on when all members have skipped most of their steps since `begin`.

        Raises:
            DivergedError: they have.
        """
        lost = self.skipped - self.before
        check_learning(torch.stack([lost, torch.zeros_like(lost)], dim=1), self.taken)

    def _groups(self) -> list[dict[str, Any]]:
        return [group for own in self.members for group in own.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compute all gradients, then step every member."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sound = torch.stack([_sound(own) for own in self.members]).cpu()  # the one wait of a step
        for own in itertools.compress(self.members, sound):
            own.step()
        if not sound.all() and not self.skipped.any():
            member = int((~sound).nonzero()[0])
            log.warning(
                "learning: member %d skips a step whose gradient is NaN or infinite; further ones "
                "are counted ('skipped')", member,
            )  # fmt: skip
        self.skipped += ~sound
        self.taken += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"members": [own.state_dict() for own in self.members], "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for own, state in zip(self.members, state_dict["members"], strict=True):
            own.load_state_dict(state)
        self.skipped = state_dict["skipped"].clone()
        self.begin()
        self.param_groups = self._groups()


def _sound(optimizer: Optimizer) -> Tensor:
    """Whether all gradients of a member are finite, where they lie; it is not waited for."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found = [p.grad for p in parameters if p.grad is not None]
    dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in found]
    if not dense:
        return torch.ones((), dtype=torch.bool, device=parameters[0].device)
    return torch.stack([gradient.isfinite().all() for gradient in dense]).all()


class MemberSchedulers:
    """One learning rate schedule a member, stepped together.

    Args:
        optimizer: what Lightning knows as their optimiser.
        members: each over its own member's optimiser.
    """

    def __init__(self, optimizer: MemberOptimizers, members: Sequence[Any]) -> None:
        self.optimizer, self.members = optimizer, list(members)

    def step(self) -> None:
        """A step of every schedule, whether or not its member has skipped the optimiser's."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            for own in self.members:
                own.step()

    def follow(self) -> None:
        """Go on from the rates that parameter groups have since a change."""
        for own in self.members:
            for scheduler in _parts(own):
                groups = scheduler.optimizer.param_groups
                for name, key in (("base_lrs", "initial_lr"), ("max_lrs", "max_lr")):
                    if hasattr(scheduler, name) and all(key in group for group in groups):
                        setattr(scheduler, name, [group[key] for group in groups])

    def state_dict(self) -> dict[str, Any]:
        return {"members": [own.state_dict() for own in self.members]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for own, state in zip(self.members, state_dict["members"], strict=True):
            own.load_state_dict(state)


def _parts(scheduler: Any) -> list[Any]:
    """A schedule and those that it is made of."""
    return [scheduler, *(p for s in getattr(scheduler, "_schedulers", []) for p in _parts(s))]


def together(found: Sequence[Any]) -> tuple[list[Optimizer], list[dict[str, Any]]]:
    """What members' `configure_optimizers` returned, as one that Lightning takes.

    Raises:
        ValueError: not one optimiser a member, or one that a population cannot drive.
    """
    pairs = [_parsed(own) for own in found]
    optimizer = MemberOptimizers([own for own, _ in pairs])
    schedules = [
        {**column[0], "scheduler": MemberSchedulers(optimizer, [c["scheduler"] for c in column])}
        for column in zip(*(configs for _, configs in pairs), strict=True)
    ]
    return [optimizer], schedules


def _parsed(found: Any) -> tuple[Optimizer, list[dict[str, Any]]]:
    """One optimiser, and its schedules as Lightning's dictionaries."""
    optimizers, schedulers = _listed(found)
    if len(optimizers) != 1 or not isinstance(optimizers[0], Optimizer):
        kinds = ", ".join(type(own).__name__ for own in optimizers) or "none"
        raise ValueError(f"configure_optimizers: must return one optimiser, got {kinds}")
    if isinstance(optimizers[0], LBFGS):
        raise ValueError(
            "configure_optimizers: must return an optimiser with one gradient a step, got LBFGS"
        )
    configs = [dict(s) if isinstance(s, dict) else {"scheduler": s} for s in schedulers]
    if any(isinstance(config["scheduler"], ReduceLROnPlateau) for config in configs):
        raise ValueError(
            "configure_optimizers: must return a schedule that goes by steps or epochs, got "
            "ReduceLROnPlateau; members' rates evolve"
        )
    return optimizers[0], configs


def _listed(found: Any) -> tuple[list[Any], list[Any]]:
    """Optimisers and schedulers from any form that Lightning allows."""
    if isinstance(found, Optimizer):
        return [found], []
    if isinstance(found, dict):
        scheduler = found.get("lr_scheduler")
        return [found["optimizer"]], [] if scheduler is None else [scheduler]
    if not isinstance(found, list | tuple):
        return [], []
    if len(found) == 2 and isinstance(found[0], list | tuple):
        second = cast(Any, found[1])
        return list(found[0]), list(second) if isinstance(second, list | tuple) else [second]
    listed = [_listed(own) for own in found]
    return [o for own, _ in listed for o in own], [s for _, own in listed for s in own]
