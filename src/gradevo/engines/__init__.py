"""How a population computes: engines, and the choice between them by measurement.

An engine has `forward`, `losses` and `accumulate` (see `Population`) and gives the loop's
numbers within rounding, or declines with a reason.
"""

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from gradevo.engines.loop import Loop
from gradevo.engines.vmap import VMap

if TYPE_CHECKING:
    from gradevo.population import Loss, Population

log = logging.getLogger(__name__)

ENGINES: dict[str, type["Loop"] | type["VMap"]] = {"loop": Loop, "vmap": VMap}


class Engine(Protocol):
    """How a population computes; see `Population` for what the three methods return."""

    name: str

    def forward(self, x: Any, per_member: bool) -> Any: ...

    def losses(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor: ...

    def accumulate(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor: ...


@dataclass
class Choice:
    """Which engine a population uses: the one asked for, or the fastest that agrees.

    Attributes:
        requested: "auto" or an engine's name.
        name: the engine in use, "auto" before it is chosen.
        report: for each candidate, its seconds a step, or why it declined.
    """

    requested: str
    name: str
    report: dict[str, float | str] = field(default_factory=dict)
    _built: dict[str, Engine] = field(default_factory=dict)

    @classmethod
    def of(cls, engine: str) -> "Choice":
        if engine != "auto" and engine not in ENGINES:
            names = ", ".join(["auto", *ENGINES])
            raise ValueError(f"engine: must be one of {names}, got {engine!r}")
        return cls(requested=engine, name=engine)

    def get(self, population: "Population") -> Engine:
        """The engine in use; before a measurement, the loop, which is always right."""
        name = "loop" if self.name == "auto" else self.name
        if name not in self._built:
            self._built[name] = ENGINES[name](population)
        return self._built[name]

    def loop(self, population: "Population") -> Loop:
        """The loop engine, for what only it can do: a step of one member."""
        engine = self._built.setdefault("loop", Loop(population))
        assert isinstance(engine, Loop)
        return engine

    def measure(self, population: "Population", loss: "Loss", x: Any, y: Any, each: bool) -> None:
        """Choose, if nothing is chosen yet, on the user's own module and batch."""
        if self.name != "auto" or not torch.is_grad_enabled():
            return
        from gradevo.engines.choose import choose

        self.name, self.report = choose(population, loss, x, y, each)
        log.info("engine: %s, measured %s", self.name, self.report)

    def resume(self, engine: str) -> None:
        """Use what an earlier run chose, unless another engine was asked for now."""
        if self.requested == "auto":
            self.name = engine

    def forget(self) -> None:
        """The population's tensors moved: engines that hold views must be made anew."""
        self._built.clear()
