"""Hooks of the user's LightningModule, called on every member."""

from collections.abc import Sequence

from lightning.pytorch import LightningModule


class MemberHooks(LightningModule):
    """Forwards Lightning's hooks; what members log in them is said under their names."""

    def everyone(self) -> Sequence[LightningModule]:
        """The members."""
        raise NotImplementedError

    def tested(self) -> Sequence[LightningModule]:
        """The members that are tested: the best."""
        raise NotImplementedError

    def say_training(self) -> None:
        """Log what members have just logged."""
        raise NotImplementedError

    def note(self) -> None:
        """Keep what members have just logged for the end of the evaluation."""
        raise NotImplementedError

    # --- fit ---------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        for member in self.everyone():
            member.on_fit_start()

    def on_fit_end(self) -> None:
        for member in self.everyone():
            member.on_fit_end()

    def on_train_start(self) -> None:
        for member in self.everyone():
            member.on_train_start()
        self.say_training()

    def on_train_epoch_start(self) -> None:
        for member in self.everyone():
            member.on_train_epoch_start()
        self.say_training()

    def on_train_epoch_end(self) -> None:
        for member in self.everyone():
            member.on_train_epoch_end()
        self.say_training()

    def on_train_end(self) -> None:
        for member in self.everyone():
            member.on_train_end()

    # --- validation --------------------------------------------------------------------

    def on_validation_start(self) -> None:
        for member in self.everyone():
            member.on_validation_start()
        self.note()

    def on_validation_epoch_start(self) -> None:
        for member in self.everyone():
            member.on_validation_epoch_start()
        self.note()

    def on_validation_epoch_end(self) -> None:
        for member in self.everyone():
            member.on_validation_epoch_end()
        self.note()

    def on_validation_end(self) -> None:
        for member in self.everyone():
            member.on_validation_end()

    # --- test --------------------------------------------------------------------------

    def on_test_start(self) -> None:
        for member in self.tested():
            member.on_test_start()
        self.note()

    def on_test_epoch_start(self) -> None:
        for member in self.tested():
            member.on_test_epoch_start()
        self.note()

    def on_test_epoch_end(self) -> None:
        for member in self.tested():
            member.on_test_epoch_end()
        self.note()

    def on_test_end(self) -> None:
        for member in self.tested():
            member.on_test_end()
