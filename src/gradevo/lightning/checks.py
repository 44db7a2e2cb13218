"""What of Lightning a population cannot do, said by name before training starts."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

FORWARDED = {
    "on_fit_start", "on_fit_end", "on_train_start", "on_train_end", "on_train_epoch_start",
    "on_train_epoch_end", "on_validation_start", "on_validation_end", "on_validation_epoch_start",
    "on_validation_epoch_end", "on_test_start", "on_test_end", "on_test_epoch_start",
    "on_test_epoch_end",
}  # fmt: skip
OTHERS = {
    "backward", "configure_callbacks", "configure_gradient_clipping", "configure_model",
    "configure_sharded_model", "lr_scheduler_step", "optimizer_step", "optimizer_zero_grad",
    "transfer_batch_to_device",
}  # fmt: skip
NEEDED = ("training_step", "validation_step", "configure_optimizers")


def building_lightning(build: Callable[[], Any]) -> Callable[[], LightningModule]:
    """`build`, which must give LightningModules that train by themselves.

    Raises:
        TypeError: it gives something else.
        ValueError: what it gives needs more than a population does.
    """

    def checked() -> LightningModule:
        module = build()
        if not isinstance(module, LightningModule):
            raise TypeError(
                "build: must return a lightning.pytorch.LightningModule, got a "
                f"{type(module).__module__}.{type(module).__name__}"
            )
        check_member(module)
        return module

    if isinstance(build, nn.Module) or not callable(build):
        raise TypeError(
            "build: must be a function that returns a new module at every call, "
            f"got a {type(build).__name__}; write `lambda: Net(...)`"
        )
    return checked


def check_member(module: LightningModule) -> None:
    """Refuse what would silently be left out or would couple members."""
    name = type(module).__name__
    if not module.automatic_optimization:
        raise ValueError(
            "build: must return modules with automatic optimisation, got a "
            f"{name} with automatic_optimization = False"
        )
    for method in NEEDED:
        if not _overridden(module, method):
            raise ValueError(f"build: must return modules with a {method}, got a {name} without")
    hooks = {hook for hook in dir(LightningModule) if hook.startswith("on_")} | OTHERS
    for hook in sorted(hooks - FORWARDED):
        if _overridden(module, hook):
            raise ValueError(
                f"build: must return modules that leave {hook} to Lightning, got a {name} with one "
                "of its own"
            )


def _overridden(module: LightningModule, method: str) -> bool:
    mine = getattr(type(module), method, None)
    return mine is not None and mine is not getattr(LightningModule, method, None)


def check_trainer(trainer: Trainer) -> None:
    """Refuse a Trainer under which members would not be trained alone, or not be compared."""
    if trainer.world_size > 1:
        raise ValueError(
            f"devices: must be one process with one device, got {trainer.world_size}; members over "
            "processes are in gradevo.fit"
        )
    if trainer.precision == "16-mixed":
        raise ValueError(
            "precision: must not be 16-mixed, whose gradient scaler skips a step of all members "
            "when one overflows, got 16-mixed; use bf16-mixed"
        )
    if trainer.state.fn == TrainerFn.FITTING and not trainer.enable_validation:
        raise ValueError(
            "val_dataloaders: must be given, members are compared on them, got none (or "
            "limit_val_batches=0)"
        )
