"""The members' own modules without their tensors: what else `build` has given to each of them.

Nearly always members differ in their tensors alone, and one module stands for all.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from gradevo.attributes import described, difference
from gradevo.structure import Tensors, tensors_of, with_tensors


class Shells:
    """What members are copied from.

    Attributes:
        modules: one for all members, or one each.
        differs: the attribute in which members differ and the first member that does; None: they
            differ in tensors alone.
    """

    def __init__(self, modules: Sequence[nn.Module], differs: tuple[str, int] | None) -> None:
        self.modules, self.differs = list(modules), differs

    @classmethod
    def of(cls, modules: Sequence[nn.Module], common: nn.Module) -> Self:
        """Of members as they are.

        Args:
            modules: the members.
            common: stands for all that are like it but for their tensors.
        """
        first = described(modules[0])
        for i, module in enumerate(modules[1:], start=1):
            if (path := difference(first, described(module))) is not None:
                return cls([_emptied(m) for m in modules], (path, i))
        alike = first == described(common)
        return cls([common if alike else _emptied(modules[0])], None)

    def __getitem__(self, i: int) -> nn.Module:
        return self.modules[i if len(self.modules) > 1 else 0]

    def select(self, indices: Sequence[int]) -> "Shells":
        """Of some of the members."""
        if len(self.modules) == 1:
            return self
        return Shells([self[i] for i in indices], self.differs)


def like(shell: nn.Module, stacked: nn.Module, tensors: Tensors) -> nn.Module:
    """A member with tensors of its own: in the population's modes, and what learns there learns."""
    module = with_tensors(shell, tensors)
    for part, theirs in zip(module.modules(), stacked.modules(), strict=True):
        part.training = theirs.training
    for mine, theirs in zip(module.parameters(), stacked.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return module


def _emptied(module: nn.Module) -> nn.Module:
    """A copy with tensors that take no memory."""
    return with_tensors(module, {name: _hollow(t) for name, t in tensors_of(module).items()})


def _hollow(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
