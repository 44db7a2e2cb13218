"""Members as LightningModules of the user's own class, whose tensors are the population's."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer

from gradevo.engines.buffers import places_of, write_back
from gradevo.engines.modes import Modes
from gradevo.population import Population


class Views:
    """All members of a population; they see the Trainer, and what they log is heard.

    Args:
        population: of LightningModules. Its tensors must stay where they are.
        trainer: theirs.
        hear: called with the member's number and the arguments of its `self.log`.
    """

    def __init__(self, population: Population, trainer: Trainer, hear: Callable[..., None]) -> None:
        self.flat = population.flat
        self.members = [cast(LightningModule, population.view(i)) for i in range(population.size)]
        self.modes = Modes(population.stacked, self.members)
        self.places = [places_of(member) for member in self.members]
        self.rows = [
            (leaf, [member.get_parameter(name) for member in self.members])
            for name, leaf in population.leaves.items()
        ]
        for i, member in enumerate(self.members):
            member.trainer = trainer
            cast(Any, member).log = partial(hear, i)
            if trainer.state.fn is not None:
                member.setup(trainer.state.fn.value)

    def follow(self) -> None:
        """Every part of a member is in train or eval mode as in the population."""
        self.modes.follow()

    def write_back(self) -> None:
        """Bring buffers that a member assigned anew into the population."""
        for places in self.places:
            write_back(places)

    def hand_out(self) -> None:
        """Let members' gradients be rows of those of the stacked leaves."""
        for leaf, rows in self.rows:
            for i, row in enumerate(rows):
                row.grad = None if leaf.grad is None else leaf.grad[i]
