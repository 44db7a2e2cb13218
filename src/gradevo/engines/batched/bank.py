"""The members' tensors, all of them or a chunk, as the layers of a graph ask for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Generator, Tensor, nn


@dataclass
class Bank:
    """Stacked tensors of consecutive members.

    Attributes:
        g: how many members.
        rows: working tensors `(g, ...)` by the id of the population's own; what is not
            here is used as it is.
        generator: what dropout draws from; None: torch's global one.
    """

    g: int
    rows: Mapping[int, Tensor] = field(default_factory=dict)
    generator: Generator | None = None

    def of(self, module: nn.Module, name: str) -> Tensor | None:
        """A parameter or buffer of a module of the population, `(g, ...)`."""
        tensor = getattr(module, name)
        return None if tensor is None else self.rows.get(id(tensor), tensor)

    def named(self, module: nn.Module) -> dict[str, Tensor]:
        """All parameters of a module and its parts."""
        return {name: self.rows.get(id(p), p) for name, p in module.named_parameters()}

    def buffers(self, module: nn.Module) -> dict[str, Tensor]:
        """All buffers of a module and its parts."""
        return {name: self.rows.get(id(b), b) for name, b in module.named_buffers()}
