"""A population of the user's LightningModules as one LightningModule."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor

from gradevo.errors import CheckpointError
from gradevo.health import sound_members
from gradevo.lightning.checks import building_lightning, check_trainer
from gradevo.lightning.handing import Handing
from gradevo.lightning.hooks import MemberHooks
from gradevo.lightning.optimisers import MemberOptimizers, together
from gradevo.lightning.reporting import Reporter, say
from gradevo.lightning.views import Views
from gradevo.operators.selection import finite_or_worst
from gradevo.population import Loss, Population
from gradevo.randomness import drawing, generator_from, isolated, own, preserved
from gradevo.share import mixed
from gradevo.validation import one_of

KEY = "gradevo"  # of what a checkpoint holds beside the tensors
TRAINING, EVALUATION = 1, 2  # streams of random numbers


class PopulationModule(MemberHooks):
    """g members of your own LightningModule, trained side by side by one Trainer.

    `trainer.fit(PopulationModule(Net, size=10), train, valid)` does what ten fits of `Net` would
    do: `training_step`, `validation_step`, `configure_optimizers` and hooks are called for every
    member, and members do not see each other. With the callback `Evolve` the worst are replaced by
    children of the others.

    - All members get the same batches. A step costs g of theirs, and holds the activations of all.
      With `loss` an engine computes all members together (see docs/engines.md).
    - Random numbers of a step (dropout) are each member's own, follow `seed`, and leave the global
      state alone.
    - What members log is logged under its own name for the best member, and as `NAME_mean` for the
      mean over members: in validation the best of that validation, in training the best of the last
      one (the mean before the first). So `ModelCheckpoint(monitor="val_loss")` works. For a single
      batch of a validation nothing is logged.
    - A member whose gradient is NaN or infinite does not take that step; how many such steps there
      were is logged as `skipped`, and by member it is in `optimizer.skipped`. An epoch in which all
      skip most of theirs is a DivergedError. A member with weights of NaN is the worst.
    - Gradients are clipped, and schedules run, for each member alone.
    - Loaders are handed to the Trainer; the members' own `train_dataloader` and the like are not
      called. `setup` is called on every member before it computes.
    - `trainer.test` and `trainer.predict` run the best member.

    Args:
        build: returns a new LightningModule at every call; called `size` times.
        size: members g, at least 1.
        monitor: the name that members are compared by; they log it in validation.
        mode: "min" or "max": which of two values is better.
        loss: `loss(output, target)` of one member's batch, a scalar. With it the batch is a pair
            `(x, y)`, training computes `loss(member(x), y)` by `engine` instead of calling
            `training_step`, and logs "train_loss".
        engine: how all members compute with `loss`; see `Population`.
        seed: of first weights and of what members draw.

    Raises:
        TypeError: `build` returns no LightningModule.
        ValueError: it returns one that a population cannot train as it is: manual optimisation, or
            a hook that works on batches, gradients or checkpoints.

    Example:
        >>> import torch, lightning as L, gradevo.lightning
        >>> class Net(L.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(4, 3)
        ...     def training_step(self, batch, batch_idx):
        ...         return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
        ...     def validation_step(self, batch, batch_idx):
        ...         self.log("val_loss", self.training_step(batch, batch_idx))
        ...     def configure_optimizers(self):
        ...         return torch.optim.Adam(self.parameters())
        >>> population = gradevo.lightning.PopulationModule(Net, size=10)
        >>> population.population.size
        10
    """

    def __init__(
        self,
        build: Callable[[], LightningModule],
        size: int,
        *,
        monitor: str = "val_loss",
        mode: str = "min",
        loss: Loss | None = None,
        engine: str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__()
        one_of("mode", mode, ("min", "max"))
        engine, checked = engine if loss is not None else "loop", building_lightning(build)
        self.population = Population(checked, size, generator=generator_from(seed), engine=engine)
        self.monitor, self.sign = monitor, 1.0 if mode == "min" else -1.0
        self.loss, self.seed = loss, seed
        self.steps, self.handing = 0, Handing()
        self.scores = torch.full((size,), torch.inf, dtype=torch.float64)
        self.reporter = Reporter(size)
        self._views: Views | None = None

    # --- the best ----------------------------------------------------------------------

    @property
    def leader(self) -> int | None:
        """The best member of the last validation within a fit; None before there was one."""
        known = finite_or_worst(self.scores)
        return int(known.argmin()) if bool(known.isfinite().any()) else None

    @property
    def best(self) -> LightningModule:
        """A copy of the best member: an ordinary module of your own class.

        Raises:
            RuntimeError: no validation has said which that is.
        """
        return cast(LightningModule, self.population.member(self._led()))

    def _led(self) -> int:
        if self.leader is None:
            raise RuntimeError(
                "best: must be known from a validation within trainer.fit, got none so far"
            )
        return self.leader

    def forget(self, members: Tensor) -> None:
        """Scores of members that are others now; the next validation tells."""
        self.scores = self.scores.index_fill(0, members, torch.inf)

    # --- members -----------------------------------------------------------------------

    @property
    def views(self) -> Views:
        """Members whose tensors are the population's own."""
        if self._views is None or self._views.flat is not self.population.flat:
            if self._views is not None and self.trainer.training:
                raise RuntimeError("population: must stay where it is during a fit, but was moved")
            self._views = Views(self.population, self.trainer, self.reporter.journal.hear)
        self._views.follow()
        return self._views

    def everyone(self) -> Sequence[LightningModule]:
        return self.views.members

    def tested(self) -> Sequence[LightningModule]:
        return [self.views.members[self._led()]]

    def setup(self, stage: str) -> None:
        check_trainer(self.trainer)
        self._views = None

    def teardown(self, stage: str) -> None:
        for member in self.everyone():
            member.teardown(stage)
        self._views = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_views": None}

    # --- learning ----------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        return together([member.configure_optimizers() for member in self.everyone()])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        noise = generator_from(mixed(self.seed, TRAINING, self.steps))
        device, members = self.population.device, range(self.population.size)
        with (
            preserved(device), drawing(noise, members, device),
            self.handing.over("training", batch) as handed,
        ):  # fmt: skip
            losses = self._losses(handed, batch_idx)
        self.steps += 1
        self.say_training()
        return torch.stack(losses).sum() if losses else None

    def _losses(self, handed: Callable[[], Any], batch_idx: int) -> list[Tensor]:
        return self._one_by_one(handed, batch_idx) if self.loss is None else self._all(handed())

    def _one_by_one(self, handed: Callable[[], Any], batch_idx: int) -> list[Tensor]:
        """Losses of the members that do not skip the batch."""
        losses = []
        for i, member in enumerate(self.everyone()):
            own(i)
            found = _called(member.training_step, handed(), batch_idx)
            found = found["loss"] if isinstance(found, dict) else found
            losses += [] if found is None else [found]
        return losses

    def _all(self, batch: Any) -> list[Tensor]:
        """Losses of all members, computed together."""
        assert self.loss is not None
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise ValueError(
                f"batch: must be a pair (x, y) with loss, got a {type(batch).__name__}"
            )
        losses = list(self.population.losses(self.loss, *batch).unbind(0))
        for i, loss in enumerate(losses):
            self.reporter.journal.hear(i, "train_loss", loss)
        return losses

    def on_after_backward(self) -> None:
        self.views.write_back()
        if self.loss is not None:
            self.views.hand_out()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad()
        self.population.zero_grad()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        for mine in self.optimizer.members:
            self.clip_gradients(mine, gradient_clip_val, gradient_clip_algorithm)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()

    @property
    def optimizer(self) -> MemberOptimizers:
        """The members' optimisers, during a fit."""
        return cast(MemberOptimizers, self.optimizers(use_pl_optimizer=False))

    # --- evaluation --------------------------------------------------------------------

    def validation_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int | None = None
    ) -> None:
        for member in self.everyone():
            self._evaluate(member.validation_step, batch, batch_idx, dataloader_idx)
        self._count(batch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int | None = None) -> None:
        for member in self.tested():
            self._evaluate(member.test_step, batch, batch_idx, dataloader_idx)
        self._count(batch, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int | None = None) -> Any:
        (member,) = self.tested()
        return self._evaluate(member.predict_step, batch, batch_idx, dataloader_idx)

    def _evaluate(self, step: Any, batch: Any, batch_idx: int, dataloader_idx: int | None) -> Any:
        """A member's step; all members draw the same random numbers, at every evaluation."""
        places = [batch_idx] if dataloader_idx is None else [batch_idx, dataloader_idx]
        noise = generator_from(mixed(self.seed, EVALUATION, *places))
        device = self.population.device
        with isolated(noise, device), self.handing.over(step.__name__, batch) as handed:
            return _called(step, handed(), *places)

    def _count(self, batch: Any, dataloader_idx: int | None) -> None:
        suffix = "" if dataloader_idx is None else f"/dataloader_idx_{dataloader_idx}"
        self.reporter.note(lambda: extract_batch_size(batch), suffix)
        self.views.write_back()

    # --- logging -----------------------------------------------------------------------

    def say_training(self) -> None:
        self.reporter.training(self.log, self.leader)

    def note(self) -> None:
        self.reporter.note(lambda: 1.0)

    def on_train_epoch_start(self) -> None:
        self.optimizer.begin()
        super().on_train_epoch_start()

    def on_train_epoch_end(self) -> None:
        self.optimizer.check()
        self.log("skipped", float(self.optimizer.skipped.sum()))
        super().on_train_epoch_end()
        self.reporter.training_ends(self.log, self.leader)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        found = self.reporter.evaluation_ends()
        if self.monitor not in found:
            raise ValueError(
                f"monitor: must be logged by members in validation, got {self.monitor!r} where "
                f"they log {', '.join(found) or 'nothing'}"
            )
        sound = sound_members(self.population).cpu()
        scores = finite_or_worst(
            (self.sign * found[self.monitor][0]).masked_fill(~sound, torch.nan)
        )
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.scores = scores
        for name, (values, options) in found.items():
            say(self.log, name, values, int(scores.argmin()), options)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        for name, (values, options) in self.reporter.evaluation_ends().items():
            self.log(name, values[self._led()].float(), **options)

    # --- checkpoints -------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        engine = self.population.engine
        checkpoint[KEY] = {"scores": self.scores, "steps": self.steps, "engine": engine}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if KEY not in checkpoint:
            raise CheckpointError(
                "ckpt_path: must be a checkpoint of a PopulationModule, got one of another module"
            )
        known = checkpoint[KEY]
        self.scores, self.steps = known["scores"], known["steps"]
        self.population.choice.resume(known["engine"])


def _called(step: Any, batch: Any, *places: int) -> Any:
    """A member's step, with as many of the places as it takes."""
    parameters = list(inspect.signature(step).parameters.values())
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return step(batch, *places)
    return step(batch, *places[: len(parameters) - 1])
