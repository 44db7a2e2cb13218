"""Train or eval mode of every part of a population, handed on to modules that are its members."""

from collections.abc import Sequence

from torch import nn


class Modes:
    """What the members' parts were told last.

    Args:
        stacked: the population's module, which users switch.
        members: modules with the same parts, in the modes that it has now.
    """

    def __init__(self, stacked: nn.Module, members: Sequence[nn.Module]) -> None:
        self.parts = list(stacked.modules())
        self.members = members
        self.told = self._now()

    def _now(self) -> list[bool]:
        return [part.training for part in self.parts]

    def follow(self) -> None:
        """Bring every part of the members into the mode that it has in the population."""
        now = self._now()
        if now == self.told:
            return
        for member in self.members:
            for part, training in zip(member.modules(), now, strict=True):
                part.training = training
        self.told = now
