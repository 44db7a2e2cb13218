"""A module's keyword inputs by their names: torch.export asks the signature for them."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn


def with_names(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """A module that has these inputs in its signature and hands them on.

    torch.export cannot leave the number of rows of `**inputs` open, only that of names.

    Args:
        module: takes them by keyword.
        names: of its inputs; none: the module as it is.

    Example:
        >>> import torch
        >>> linear = with_names(nn.Linear(4, 3), ["input"])
        >>> inspect.signature(linear.forward), linear(input=torch.zeros(2, 4)).shape
        (<Signature (input)>, torch.Size([2, 3]))
    """
    if not names:
        return module

    def forward(self: Any, *inputs: Any, **named: Any) -> Any:
        return self.module(**dict(zip(names, inputs, strict=False)), **named)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    listed = [inspect.Parameter(name, kind) for name in ("self", *names)]
    forward.__signature__ = inspect.Signature(listed)  # pyright: ignore[reportFunctionMemberAccess]
    named = type("Named", (nn.Module,), {"forward": forward})()
    named.module = module
    return named.eval()


def is_open(module: nn.Module) -> bool:
    """Whether a module's forward takes keywords that its signature does not name."""
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds
