"""Optimisers of torch as tables of numbers, one row of them for each step and lane."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradevo.engines.simd.layout import RULE_ROWS, Adam, Sgd, Update
from gradevo.engines.simd.vector import LANES

if TYPE_CHECKING:
    from gradevo.optimisers import MemberOptimiser

KINDS = {
    torch.optim.Adam: Update.ADAM, torch.optim.AdamW: Update.ADAM, torch.optim.SGD: Update.SGD,
}  # fmt: skip
MOMENTS = {Update.ADAM: ("exp_avg", "exp_avg_sq"), Update.SGD: ("momentum_buffer",)}
UNKNOWN = ("amsgrad", "maximize", "differentiable", "capturable")


def knows(optimiser: "MemberOptimiser") -> bool:
    """Whether the kernel has the optimiser with these settings."""
    return all(
        KINDS.get(type(own)) is not None
        and not any(group.get(name) for group in own.param_groups for name in UNKNOWN)
        and all(isinstance(group["lr"], float) for group in own.param_groups)
        for own in optimiser.all()
    )


@dataclass
class Rule:
    """An optimiser with each member's own numbers.

    Attributes:
        update: which one.
        numbers: name -> one number a lane, `(blocks * lanes or 1,)`, float64.
        decoupled: whether weights decay beside the gradient.
        taken: steps taken.
    """

    update: Update
    numbers: dict[str, Tensor]
    decoupled: bool
    blocks: int
    taken: int = 0
    moments: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.moments = MOMENTS[self.update]

    @property
    def count(self) -> int | None:
        """Steps taken, where torch's optimiser counts them."""
        return self.taken if self.update == Update.ADAM else None

    def table(self, factors: list[float]) -> Tensor:
        """The numbers of the next steps, `(steps, blocks, RULE_ROWS, lanes)`.

        Where all members have the same, `(steps, RULE_ROWS)`.

        Args:
            factors: of the learning rate, one a step.
        """
        steps = torch.arange(
            self.taken + 1, self.taken + len(factors) + 1, dtype=torch.float64, device="cpu"
        )
        self.taken += len(factors)
        scale = torch.tensor(factors, dtype=torch.float64, device="cpu").unsqueeze(1)
        rows = self._adam if self.update == Update.ADAM else self._sgd
        width = 1 if self.same else self.blocks * LANES
        columns = torch.zeros(RULE_ROWS, len(factors), width, dtype=torch.float32, device="cpu")
        for column, row in zip(columns, rows(steps.unsqueeze(1), scale), strict=False):
            column.copy_(row)
        if self.same:
            return columns.squeeze(2).T.contiguous()
        shape = len(factors), self.blocks, LANES, RULE_ROWS
        return columns.permute(1, 2, 0).reshape(shape).transpose(2, 3).contiguous()

    @property
    def same(self) -> bool:
        """Whether all members have the same numbers."""
        return all(len(column) == 1 for column in self.numbers.values())

    def _adam(self, t: Tensor, scale: Tensor) -> list[Tensor]:
        n = self.numbers
        rate, none = n["lr"] * scale, torch.zeros_like(n["lr"] * scale)
        rows = {
            Adam.RATE: rate / (1 - n["beta1"] ** t),
            Adam.ROOT: (1 - n["beta2"] ** t).rsqrt(),
            Adam.KEEP: 1 - rate * n["weight_decay"] if self.decoupled else none + 1,
            Adam.DECAY: none if self.decoupled else n["weight_decay"],
            Adam.NEW: 1 - n["beta1"],
            Adam.OLD_SQUARE: n["beta2"],
            Adam.NEW_SQUARE: 1 - n["beta2"],
            Adam.EPS: n["eps"],
        }
        return [rows[field] for field in Adam]

    def _sgd(self, t: Tensor, scale: Tensor) -> list[Tensor]:
        """The first step's momentum is the gradient itself."""
        n, later = self.numbers, t > 1
        momentum, nesterov = n["momentum"], n["nesterov"]
        rows = {
            Sgd.RATE: n["lr"] * scale,
            Sgd.DECAY: n["weight_decay"],
            Sgd.OLD: torch.where(later, momentum, 0.0),
            Sgd.NEW: torch.where(later & (momentum > 0), 1 - n["dampening"], 1.0),
            Sgd.PLAIN: nesterov,
            Sgd.MOMENTUM: torch.where(nesterov > 0, momentum, 1.0),
        }
        return [rows[field] for field in Sgd]


def rule_of(optimiser: "MemberOptimiser", blocks: int) -> Rule:
    """The rule of a torch optimiser, with the steps that it has taken."""
    first = optimiser.all()[0]
    groups: list[dict[str, Any]] = optimiser.groups
    update = KINDS[type(first)]
    names = ["weight_decay"]
    names += ["eps"] if update == Update.ADAM else ["momentum", "dampening", "nesterov"]
    columns = {name: [float(group[name]) for group in groups] for name in names}
    columns["lr"] = optimiser.rates
    if update == Update.ADAM:
        columns["beta1"] = [float(group["betas"][0]) for group in groups]
        columns["beta2"] = [float(group["betas"][1]) for group in groups]
    numbers = {name: _lanes(column, blocks) for name, column in columns.items()}
    decoupled = isinstance(first, torch.optim.AdamW) or bool(
        groups[0].get("decoupled_weight_decay")
    )
    return Rule(update, numbers, decoupled, blocks, optimiser.taken() or 0)


def _lanes(column: list[float], blocks: int) -> Tensor:
    """One number for all, or one a lane; lanes to spare have the first member's."""
    values = torch.tensor(column, dtype=torch.float64, device="cpu")
    spare = values[:1].expand(blocks * LANES - len(values)) if len(values) > 1 else values[:0]
    return torch.cat([values, spare])
