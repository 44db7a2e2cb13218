"""What members log, said to Lightning under the user's names.

For the best member under the name itself, and as `NAME_mean` for the mean over members.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from gradevo.lightning.journal import Journal, Said, Tallies, finite_mean

Log = Callable[..., None]
SHOWN = ("prog_bar", "logger")


class Reporter:
    """Between the members' `self.log` and that of the module that Lightning knows.

    Args:
        size: members.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.journal = Journal()
        self.evaluation = Tallies(size)  # everything that is logged in it
        self.metrics = Tallies(size)  # torchmetrics of a training epoch

    # --- training ----------------------------------------------------------------------

    def training(self, log: Log, leader: int | None) -> None:
        """Say what members have just logged; Lightning makes the mean over steps."""
        for name, said in self.journal.take().items():
            if any(isinstance(value, Metric) for value in said.values.values()):
                self._metric(log, name, said, leader)
            else:
                self._numbers(log, name, said.values, leader, said.options)

    def _numbers(
        self, log: Log, name: str, values: dict[int, Any], leader: int | None,
        options: dict[str, Any],
    ) -> None:  # fmt: skip
        numbers = {i: torch.as_tensor(value).float() for i, value in values.items()}
        none = torch.full_like(next(iter(numbers.values())), torch.nan)
        row = torch.stack([numbers.get(i, none) for i in range(self.size)])
        say(log, name, row, leader, options)

    def _metric(self, log: Log, name: str, said: Said, leader: int | None) -> None:
        """A metric's step is said now; its epoch when it is over."""
        self.metrics.enter({name: said}, lambda: 1.0)
        step = {i: metric._forward_cache for i, metric in said.values.items()}
        if said.options["on_step"] is not False and None not in step.values():
            name = f"{name}_step" if said.options["on_epoch"] else name
            options = said.options | {"on_step": True, "on_epoch": False}
            self._numbers(log, name, step, leader, options)

    def training_ends(self, log: Log, leader: int | None) -> None:
        """Compute the metrics of an epoch, and start them anew."""
        for name, (values, options) in self.metrics.take().items():
            if options["on_epoch"]:
                say(log, name, values, leader, shown(options))

    # --- evaluation --------------------------------------------------------------------

    def note(self, weight: Callable[[], float], suffix: str = "") -> None:
        """Keep what members have just logged for the end of the evaluation."""
        self.evaluation.enter(self.journal.take(), weight, suffix)

    def evaluation_ends(self) -> dict[str, tuple[Tensor, dict[str, Any]]]:
        """Every name's numbers, `(g,)`, and how to show them."""
        found = self.evaluation.take()
        return {name: (values, shown(options)) for name, (values, options) in found.items()}


def say(log: Log, name: str, values: Tensor, leader: int | None, options: dict[str, Any]) -> None:
    """Log the best member's number and the mean; without a best member the mean twice."""
    mean = finite_mean(values).float()
    log(name, mean if leader is None else values[leader].float(), **options)
    log(f"{name}_mean", mean, **(options | {"prog_bar": False}))


def shown(options: dict[str, Any]) -> dict[str, Any]:
    """Those options of `self.log` that are left when an epoch is over."""
    return {name: options[name] for name in SHOWN}
