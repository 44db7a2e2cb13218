"""What members log, until it can be said under the user's names."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import Metric

KINDS = ("mean", "sum", "min", "max")


@dataclass
class Said:
    """What members logged under one name in a step.

    Attributes:
        options: the keyword arguments of `self.log`, the same for all members.
        values: by member.
    """

    options: dict[str, Any]
    values: dict[int, Any] = field(default_factory=dict)


class Journal:
    """Takes the place of the members' `self.log`."""

    def __init__(self) -> None:
        self.said: dict[str, Said] = {}

    def hear(
        self, member: int, name: str, value: Any, prog_bar: bool = False, logger: Any = None,
        on_step: bool | None = None, on_epoch: bool | None = None, reduce_fx: Any = "mean",
        **options: Any,
    ) -> None:  # fmt: skip
        """`self.log` of one member."""
        options |= {"prog_bar": prog_bar, "logger": logger, "reduce_fx": reduce_fx}
        options |= {"on_step": on_step, "on_epoch": on_epoch}
        options.pop("metric_attribute", None)
        value = value.detach() if isinstance(value, Tensor) else value
        self.said.setdefault(name, Said(options)).values[member] = value

    def take(self) -> dict[str, Said]:
        """What was said since the last time."""
        said, self.said = self.said, {}
        return said


class Tally:
    """One name over an epoch, a number a member.

    Args:
        size: members.
        options: what the name is logged with.
    """

    def __init__(self, size: int, options: dict[str, Any]) -> None:
        self.options, self.kind = options, kind_of(options["reduce_fx"])
        self.totals: list[Any] = [None] * size
        self.weights = [0.0] * size

    def add(self, member: int, value: Any, weight: float) -> None:
        """Enter a batch's number of one member; a metric keeps its own count."""
        total = self.totals[member]
        if isinstance(value, Metric):
            self.totals[member] = value
            return
        value = torch.as_tensor(value).double() if _exact(value) else torch.as_tensor(value)
        if self.kind == "mean":
            value, self.weights[member] = value * weight, self.weights[member] + weight
        joined: Callable[..., Tensor] = {"min": torch.minimum, "max": torch.maximum}.get(
            self.kind, torch.add
        )
        self.totals[member] = value if total is None else joined(total, value)

    def values(self) -> Tensor:
        """Every member's number, `(g,)`, float64 on the CPU; NaN where it said none."""
        return torch.tensor([self._value(i) for i in range(len(self.totals))], dtype=torch.float64)

    def _value(self, member: int) -> float:
        total = self.totals[member]
        if total is None:
            return float("nan")
        if isinstance(total, Metric):
            found = float(cast(Any, total).compute())
            total.reset()
            return found
        return float(total) / self.weights[member] if self.kind == "mean" else float(total)


def _exact(value: Any) -> bool:
    """Whether double precision is there for a number: not on every device."""
    return not isinstance(value, Tensor) or value.device.type in ("cpu", "cuda")


def kind_of(reduce_fx: Any) -> str:
    """How steps become an epoch's number.

    Raises:
        ValueError: by a function of the user's.
    """
    name = reduce_fx if isinstance(reduce_fx, str) else getattr(reduce_fx, "__name__", "")
    if name not in KINDS:
        raise ValueError(f"reduce_fx: must be one of {', '.join(KINDS)}, got {reduce_fx!r}")
    return name


def finite_mean(values: Tensor) -> Tensor:
    """The mean over members that have a finite number; NaN without one.

    Example:
        >>> finite_mean(torch.tensor([1.0, torch.nan, 3.0])), finite_mean(torch.tensor([torch.inf]))
        (tensor(2.), tensor(nan))
    """
    finite = values.isfinite()
    return torch.where(finite, values, 0).sum() / finite.sum()


class Tallies:
    """Everything that is logged over an epoch.

    Args:
        size: members.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.names: dict[str, Tally] = {}

    def enter(self, said: dict[str, Said], weight: Callable[[], float], suffix: str = "") -> None:
        """Add what members said in a step.

        Args:
            said: by name.
            weight: rows of the batch, where a name's options do not say.
            suffix: of names that members log under several loaders.
        """
        for name, one in said.items():
            name += suffix if one.options.get("add_dataloader_idx", True) else ""
            tally = self.names.setdefault(name, Tally(self.size, one.options))
            rows = one.options.get("batch_size")
            for member, value in one.values.items():
                tally.add(member, value, float(weight() if rows is None else rows))

    def take(self) -> dict[str, tuple[Tensor, dict[str, Any]]]:
        """Every name's numbers `(g,)` and options; then all is forgotten."""
        names, self.names = self.names, {}
        return {name: (tally.values(), tally.options) for name, tally in names.items()}
