"""The members' tensors, all of them or a chunk, as the layers of a graph ask for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Generator, Tensor, nn

from gradevo.structure import buffers_of

Key = tuple[int, str]  # id of the module that owns a tensor, and its name there


@dataclass
class Bank:
    """Stacked tensors of consecutive members.

    Attributes:
        g: how many members.
        rows: working tensors `(g, ...)`. Looked up by owner, since a module that another
            thread is calling holds one member's tensors. Empty: those of the modules themselves.
        generators: what each member's dropout draws from; none: all from torch's global one.
        adding: whether a backward pass is under way that adds to the leaves' gradients.
    """

    g: int
    rows: Mapping[Key, Tensor] = field(default_factory=dict)
    generators: list[Generator] = field(default_factory=list)
    adding: bool = False

    def of(self, module: nn.Module, name: str) -> Tensor | None:
        """A parameter or buffer of a module of the population, `(g, ...)`."""
        return self.rows.get((id(module), name)) if self.rows else getattr(module, name)

    def named(self, module: nn.Module) -> dict[str, Tensor]:
        """All parameters of a module and its parts."""
        if not self.rows:
            return dict(module.named_parameters())
        return self._of_parts(module, lambda part: part._parameters)

    def buffers(self, module: nn.Module) -> dict[str, Tensor]:
        """All buffers of a module and its parts."""
        if not self.rows:
            return buffers_of(module)
        return self._of_parts(module, lambda part: part._buffers)

    def _of_parts(
        self, module: nn.Module, names: Callable[[nn.Module], Mapping[str, object]]
    ) -> dict[str, Tensor]:
        return {
            f"{place}.{name}".removeprefix("."): self.rows[id(part), name]
            for place, part in module.named_modules()
            for name in names(part)
            if (id(part), name) in self.rows
        }


def rows_by_owner(module: nn.Module, cut: Callable[[Tensor], Tensor]) -> dict[Key, Tensor]:
    """Every tensor of a module, cut, by who owns it; a tied one is cut once."""
    found: dict[Key, Tensor] = {}
    taken: dict[int, Tensor] = {}
    for part in module.modules():
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                if id(tensor) not in taken:
                    taken[id(tensor)] = cut(tensor)
                found[id(part), name] = taken[id(tensor)]
    return found
