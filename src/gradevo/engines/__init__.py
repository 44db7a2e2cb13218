"""How a population computes: engines, and the choice between them by measurement.

An engine has `forward`, `losses` and `accumulate` (see `Population`) and gives the loop's
numbers within rounding, or declines with a reason.
"""

import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

import torch
from torch import Tensor, nn

from gradevo import trees
from gradevo.engines.batched import Batched
from gradevo.engines.check import is_partial
from gradevo.engines.choose import Practice, Report, Trial, brief, undisturbed
from gradevo.engines.compiling import Compile
from gradevo.engines.loop import Loop
from gradevo.engines.simd import Simd
from gradevo.engines.threads import Threads
from gradevo.engines.vmap import VMap
from gradevo.errors import EngineError
from gradevo.guards import own_copy
from gradevo.validation import one_of

if TYPE_CHECKING:
    from gradevo.population import Loss, Population

log = logging.getLogger(__name__)

ENGINES: dict[str, type[Loop] | type[VMap] | type[Batched] | type[Simd]] = {
    "loop": Loop, "vmap": VMap, "batched": Batched, "simd": Simd,
}  # fmt: skip


CHUNKS = (2, 5, 10)  # members that "auto" tries to compute at a time, where layers are large
NAMES = re.compile(
    r"simd|(vmap|batched)(\+compile)?|loop(@[1-9]\d*)?|batched(/[1-9]\d*)?(@[1-9]\d*)?"
)


def known(name: str) -> bool:
    """Whether there is an engine of that name.

    "batched/5@2" computes five members at a time in two threads; "vmap+compile" is compiled.
    """
    return NAMES.fullmatch(name) is not None


def engine_of(name: str, population: "Population") -> "Engine":
    """A new engine by name, for a population."""
    if name.endswith("+compile"):
        inner = {"vmap": VMap, "batched": Batched}[name.partition("+")[0]](population)
        return Compile(inner, name)
    alone, _, threads = name.partition("@")
    kind, _, chunk = alone.partition("/")
    members, count = int(chunk) if chunk else None, int(threads or 1)
    if kind == "batched":
        share = -(-population.size // count) if count > 1 else None
        inner = Batched(population, members or share)
    elif kind == "loop":
        inner = Loop(population)
    else:
        return ENGINES[kind](population)
    return Threads(inner, count, name) if threads else inner


def candidates(population: "Population") -> list[str]:
    """The engines worth a measurement; chunks of members where there are convolutions."""
    parts, size = population.stacked.modules(), population.size
    large = any(isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d) for part in parts)
    threads = torch.get_num_threads() if population.device.type == "cpu" else 1
    chunks = [f"batched/{n}" for n in CHUNKS if n < size] if large else []
    names = [*ENGINES, *chunks]
    if threads == 1 or size == 1:
        return names
    share = -(-size // threads)
    split = [f"batched/{n}@{threads}" for n in CHUNKS if n < share] if large else []
    return [*names, f"loop@{threads}", f"batched@{threads}", *split]


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
        settled: whether the engine is known to compute this population's module.
    """

    requested: str
    name: str
    report: Report = field(default_factory=dict)
    settled: bool = False
    _built: dict[str, Engine] = field(default_factory=dict)

    @classmethod
    def of(cls, engine: str) -> "Choice":
        if not isinstance(engine, str) or not known(engine):
            one_of("engine", engine, ["auto", *ENGINES])
        return cls(requested=engine, name=engine, settled=engine == "loop")

    def engine(self, population: "Population", name: str) -> Engine:
        if name not in self._built:
            self._built[name] = engine_of(name, population)
        return self._built[name]

    def loop(self, population: "Population") -> Loop:
        """The loop engine, for what only it can do: a step of one member."""
        return cast(Loop, self.engine(population, "loop"))

    def compute(self, population: "Population", method: str, *arguments: Any) -> Any:
        """What the engine in use computes; before one is chosen, the loop, always right."""
        name = "loop" if self.name == "auto" else self.name
        engine = self.engine(population, name)
        try:
            return getattr(engine, method)(*arguments)
        except Exception as error:
            if name == "loop" or isinstance(error, EngineError) or is_partial(error):
                raise
            return self._recover(population, error, method, *arguments)

    def _recover(
        self, population: "Population", error: Exception, method: str, *arguments: Any
    ) -> Any:
        """After an error: the loop tells whether it was the user's mistake or the engine's."""
        compute = getattr(self.loop(population), method)
        if self.requested != "auto":
            with undisturbed(population):
                compute(*arguments)
            self._refuse(population, brief(error), error)
        value = compute(*arguments)
        log.warning("engine: from %s to loop, %s", self.name, brief(error))
        self.report[self.name], self.name = brief(error), "loop"
        return value

    def _refuse(
        self, population: "Population", reason: str, cause: Exception | None = None
    ) -> NoReturn:
        kind = type(population.stacked).__name__
        raise EngineError(
            f"engine: must be able to compute {kind}, got {self.name!r}, which declines "
            f"({reason}); use 'auto' or 'loop'"
        ) from cause

    def settle(
        self, population: "Population", loss: "Loss", x: Any, y: Any, each: bool,
        practice: Practice | None = None,
    ) -> None:  # fmt: skip
        """Before the first training step: choose, or check what was asked for.

        Args:
            population: whose engine it is.
            loss: the user's.
            x: inputs of a batch.
            y: its targets.
            each: whether they have a leading member axis.
            practice: how the run goes on, where that is known.

        Raises:
            EngineError: the engine asked for cannot compute the module.
        """
        if self.settled or not torch.is_grad_enabled():
            return
        names = candidates(population) if self.name == "auto" else ["loop", self.name]
        engines = {name: self.engine(population, name) for name in names}
        engines |= {"loop": Loop(population, [population.view(i) for i in range(population.size)])}
        x, y = trees.each(own_copy, (x, y))
        trial = Trial(engines, population, loss, x, y, each, practice)
        if self.name == "auto":
            self.name, self.report = trial.choose()
            log.info("engine: %s, measured %s", self.name, self.report)
            self.forget()  # engines may hold modules with state that the trial moved on
        elif (reason := trial.reason(self.name)) is not None:
            self.report = {self.name: reason}
            self.forget()
            self._refuse(population, reason)
        self.settled = True

    def resume(self, engine: str) -> None:
        """Use what an earlier run chose, unless another engine was asked for now."""
        if self.requested == "auto" and known(engine):
            self.name, self.settled = engine, True

    def forget(self) -> None:
        """The population's tensors moved: engines that hold views must be made anew."""
        self._built.clear()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: an engine belongs to one population."""
        return {**self.__dict__, "_built": {}}
