"""AdaSwarm: networks trained by an optimiser whose gradient of the loss comes from a swarm.

Mohapatra et al., "AdaSwarm: Augmenting Gradient-Based optimizers in Deep Learning with Swarm
Intelligence", IEEE TETCI 2021, algorithm 2: the loss is only evaluated, so it need not be
differentiable; from the outputs on, backpropagation and Adam are what they always are.

Deviations: see `gradevo.swarm.SwarmLoss`; the defaults there are the best that were measured
(docs/results/swarm.md), `AdaSwarm.paper()` is the paper's setting.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

from torch import Generator, Tensor
from torch.optim import Optimizer

from gradevo.algorithms.base import Info, LearningConfig
from gradevo.algorithms.independent import Independent, IndependentState
from gradevo.fields import choice, optional, refuse_unused, settle, whole
from gradevo.population import Loss
from gradevo.problem import Problem
from gradevo.structure import Tensors
from gradevo.swarm.dynamics import Dynamics
from gradevo.swarm.estimators import ESTIMATORS
from gradevo.swarm.loss import PAPER, SCOPES, SwarmLoss
from gradevo.swarm.unused import GIVEN, UNUSED
from gradevo.validation import flag, pair, positive


@dataclass(frozen=True, kw_only=True)
class AdaSwarm(LearningConfig):
    """Adam on the gradient of a swarm: for losses that can only be evaluated.

    The loss given to `fit` is wrapped in a `SwarmLoss`; one that is already wrapped is taken as
    it is. Besides the fields of `LearningConfig`:

    Attributes:
        population: networks trained beside each other, each early-stopped on validation.
        generations: how many times `steps`; the optimiser's state is carried on.
        scope: one swarm a "row", an "entry" or a "batch" of outputs; "auto": see `SwarmLoss`.
        particles: points a swarm; None: 20, for the batch 100.
        iterations: moves of a swarm; 0 is one shot.
        dynamics: how particles move; None: EMPSO.
        estimator: of the gradient, one of `gradevo.swarm.ESTIMATORS`; None: "rank", for entries
            "tie".
        start: where points start: around the "output", or anywhere in the "range" of the bounds.
        spread: half the width of the cube of first points, as a share of the bounds' width;
            None: 0.5, for entries 1.
        bounds: range of the outputs, (0, 1) for probabilities; None: unknown.
        saturating: outputs approach the bounds through a sigmoid; None: autograd's graph tells.
        eta: the paper's learning rate in its estimators.

    Raises:
        ValueError: a field out of range.

    Example:
        >>> AdaSwarm(particles=10).evaluations
        10
    """

    name: ClassVar[str] = "adaswarm"

    population: int = 1
    generations: int = 1
    optimizer: str | type[Optimizer] = "Adam"
    lr: float = 1e-3
    checks: int = 20
    scope: str = "auto"
    particles: int | None = None
    iterations: int = 0
    dynamics: Dynamics | None = None
    estimator: str | None = None
    start: Literal["output", "range"] = "output"
    spread: float | None = None
    bounds: tuple[float, float] | None = None
    saturating: bool | None = None
    eta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(
            self,
            population=whole(1),
            generations=whole(1),
            scope=choice(("auto", *SCOPES)),
            particles=optional(whole(2)),
            iterations=whole(0),
            estimator=optional(choice(ESTIMATORS)),
            start=choice(("output", "range")),
            spread=optional(positive),
            bounds=optional(pair),
            saturating=optional(flag),
            eta=positive,
        )
        _ = self.evaluations
        refuse_unused(self, UNUSED)

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """The paper's setting: one joint EMPSO swarm a batch (c1 0.8, c2 0.9, beta 0.9), eq. (15).

        The network that goes with it has one hidden layer of 10 and sigmoid outputs.
        """
        return cls(**{**PAPER, "bounds": (0.0, 1.0), **changes})

    @property
    def evaluations(self) -> int:
        """Evaluations of the loss a step, for each row (batch) of outputs."""
        return self._wrap(_nothing).evaluations

    def criterion(self, loss: Loss) -> Loss:
        """What the networks are trained on.

        Raises:
            ValueError: the loss is a SwarmLoss, and the config says how a swarm searches, too.
        """
        if not isinstance(loss, SwarmLoss):
            return self._wrap(loss)
        refuse_unused(self, [GIVEN])
        return loss

    def _wrap(self, loss: Loss) -> SwarmLoss:
        return SwarmLoss(loss, **{name: getattr(self, name) for name in GIVEN.fields})

    @property
    def _runs(self) -> Independent:
        learning = {f.name: getattr(self, f.name) for f in fields(LearningConfig)}
        return Independent(population=self.population, generations=self.generations, **learning)

    # --- the same as for independent runs --------------------------------------------------

    def init(self, problem: Problem, generator: Generator) -> IndependentState:
        """The networks before their first step."""
        return self._runs.init(problem, generator)

    def step(
        self, problem: Problem, state: IndependentState
    ) -> tuple[IndependentState, Info | None]:
        """One slice of learning."""
        return self._runs.step(problem, state)

    def finished(self, state: IndependentState) -> bool:
        """After the last generation."""
        return self._runs.finished(state)

    def progress(self, problem: Problem, state: IndependentState) -> float:
        """Share of the learning steps done."""
        return self._runs.progress(problem, state)

    def survivors(self, state: IndependentState) -> tuple[Tensors, Tensor]:
        """The networks at their best weights, the best first."""
        return self._runs.survivors(state)


def _nothing(output: Any, target: Any) -> Tensor:
    """Stands for the loss where only the settings are looked at."""
    raise AssertionError
