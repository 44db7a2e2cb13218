"""Evolution of a population under Lightning's Trainer."""

from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from gradevo import validation
from gradevo.algorithms.base import plain
from gradevo.algorithms.gadam import GADAM
from gradevo.evolution import Births, evolve
from gradevo.heredity import Estate
from gradevo.lightning.module import PopulationModule
from gradevo.randomness import generator_from
from gradevo.share import mixed

SPREAD = 1.0  # of first learning rates, around what the user's configure_optimizers says


class Evolve(Callback):
    """Replaces the worst members of a `PopulationModule` by children of the others.

    After a validation the members' scores are known; before the next training batch the worst make
    room for children (see `gradevo.evolve`, with its deviations from GADAM). So a checkpoint always
    holds members that were trained and validated, and the last validation is never followed by
    children that nobody trains.

    Members start with learning rates and weight decays of their own, spread around those that
    `configure_optimizers` gives them; children inherit and perturb them, schedules included. Its
    state is in the Trainer's checkpoints: a resumed run makes the children it would have made.

    Args:
        config: the operators' settings, as for `gradevo.evolve`, and `spread`. Default: `GADAM`
            with a spread of 1, less than its own 2.5: the rate is one that you chose.
        every: validations from one evolution to the next.
        replace: share of the members that make room, in [0, 1].
        seed: of parents, crossover, mutation and members' own numbers.

    Attributes:
        history: for every evolution so far its "epoch", "step", the members' "scores" (lower is
            better), and by "children" whom "parents" replaced.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import lightning as L
        >>> trainer = L.Trainer(callbacks=[Evolve(every=2)], logger=False, accelerator="cpu")
    """

    def __init__(
        self, config: GADAM | None = None, *, every: int = 1, replace: float = 0.2, seed: int = 0
    ) -> None:
        validation.at_least("every", every, 1)
        validation.share("replace", replace)
        self.config = config or GADAM(spread=SPREAD)
        self.every, self.replace, self.seed = every, replace, seed
        self.generator = generator_from(seed)
        self.validations = 0  # since the last evolution
        self.history: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Members' first numbers; of a resumed run, the checkpoint's come later."""
        if not isinstance(pl_module, PopulationModule):
            raise TypeError(
                f"Evolve: must be used with a PopulationModule, got a {type(pl_module).__name__}"
            )
        validation.at_least("size", pl_module.population.size, 2)
        estate = Estate(pl_module.population, pl_module.optimizer.members)
        estate.spread(self.config, generator_from(mixed(self.seed, 1)))
        _follow(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.validations += 1

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Evolve, if it is time and no gradient is half accumulated."""
        whole = batch_idx % trainer.accumulate_grad_batches == 0
        if self.validations >= self.every and whole:
            self._evolve(trainer, cast(PopulationModule, pl_module), batch)
            self.validations = 0

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Another fit begins without this one's validations."""
        self.validations = 0

    def _evolve(self, trainer: Trainer, module: PopulationModule, batch: Any) -> None:
        scores = module.scores
        births = evolve(
            module.population, scores, generator=self.generator, config=self.config,
            optimizer=module.optimizer.members, replace=self.replace, example=_inputs(batch),
        )  # fmt: skip
        _follow(trainer)
        module.forget(births.children)
        self.history.append(_entry(trainer, scores, births))

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self.generator.get_state(),
            "validations": self.validations,
            "history": self.history,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.generator.set_state(state_dict["generator"])
        self.validations = state_dict["validations"]
        self.history = list(state_dict["history"])


def _follow(trainer: Trainer) -> None:
    """Schedules go on from the members' new rates."""
    for config in trainer.lr_scheduler_configs:
        cast(Any, config.scheduler).follow()


def _entry(trainer: Trainer, scores: Tensor, births: Births) -> dict[str, Any]:
    return {
        "epoch": trainer.current_epoch,
        "step": trainer.global_step,
        "scores": plain(scores),
        "children": births.children.tolist(),
        "parents": births.parents.tolist(),
    }


def _inputs(batch: Any) -> Tensor | None:
    """A few rows of what members are likely to take, to match their hidden units on."""
    first = batch[0] if isinstance(batch, list | tuple) and batch else batch
    return first[:2].clone() if isinstance(first, Tensor) and first.dim() > 0 else None
