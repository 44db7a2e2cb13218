"""Functions that a copied module keeps, bound to the copy: `copy.deepcopy` shares them as they are.

`self.encode = lambda x: self.layer(x)` in a copy would go on calling the layer of the original.
"""

import copy
import types
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn

from gradevo.attributes import HOOKS, OWN, children, reached
from gradevo.code import CODED

Memo = dict[int, Any]  # of `copy.deepcopy`: what became of an object, by its address


def rebind(module: nn.Module, held: Iterable[Any], copied: nn.Module, memo: Memo) -> None:
    """Let functions in a module's copy close over the copy where they closed over the module.

    Args:
        module: the original.
        held: everything that it is made of.
        copied: what `copy.deepcopy(module, memo)` gave.
        memo: of that call.
    """
    functions = [value for value in held if isinstance(value, CODED)]
    if not functions:
        return
    own = {id(part) for part in module.modules()} | {id(t) for t in module.parameters()}
    own |= {id(buffer) for buffer in module.buffers()}
    if any(_binds(function, own) for function in functions):
        _Follow(own, memo).into(copied)


def _held(function: Any) -> list[Any]:
    """What a function closes over or has as defaults."""
    return [child for _, child in children(function)]


def _binds(function: Any, own: set[int]) -> bool:
    """Whether a function was made with something that belongs to the module."""
    return any(id(value) in own for held in _held(function) for value in reached(held))


class _Follow:
    """Replaces functions in what was copied.

    Args:
        own: addresses of the original's parts and tensors.
        memo: what became of them.
    """

    def __init__(self, own: set[int], memo: Memo) -> None:
        self.own, self.memo = own, memo
        self.done: Memo = {}

    def into(self, value: Any) -> Any:
        """The value, with functions in it replaced; containers stay what they are."""
        if id(value) not in self.done:
            self.done[id(value)] = value
            self.done[id(value)] = self._replaced(value)
        return self.done[id(value)]

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, CODED):
            return self._function(value) if _binds(value, self.own) else value
        if isinstance(value, partial):
            named = {name: self.into(item) for name, item in value.keywords.items()}
            return partial(self.into(value.func), *map(self.into, value.args), **named)
        if type(value) is tuple:
            return tuple(map(self.into, value))
        if isinstance(value, list):
            value[:] = map(self.into, value)
        elif isinstance(value, dict):
            value.update({key: self.into(item) for key, item in value.items()})
        elif isinstance(value, nn.Module):
            self._module(value)
        elif any(True for _ in children(value)) and hasattr(value, "__dict__"):
            self.into(value.__dict__)
        return value

    def _module(self, module: nn.Module) -> None:
        for part in module._modules.values():
            self.into(part)
        for name, value in list(vars(module).items()):
            if name in HOOKS or name not in OWN:
                vars(module)[name] = self.into(value)

    def _function(self, function: Any) -> Any:
        """The same function made with what has become of the things that it was made with."""
        cells = [types.CellType() for _ in function.__closure__ or ()]
        made = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, None, tuple(cells)
        )
        self.done[id(function)] = made
        made.__dict__.update(function.__dict__)
        made.__qualname__, made.__module__ = function.__qualname__, function.__module__
        made.__defaults__ = self._here(function.__defaults__)
        made.__kwdefaults__ = self._here(function.__kwdefaults__)
        for cell, before in zip(cells, function.__closure__ or (), strict=True):
            _fill(cell, before, self._here)
        return made

    def _here(self, value: Any) -> Any:
        """What has become of a value; one that holds nothing of the module stays."""
        if isinstance(value, CODED):
            return self.into(value)
        if id(value) in self.memo:
            return self.memo[id(value)]
        if not any(id(part) in self.own for part in reached(value)):
            return value
        return self.into(copy.deepcopy(value, self.memo))


def _fill(cell: types.CellType, before: types.CellType, here: Callable[[Any], Any]) -> None:
    try:
        value = before.cell_contents
    except ValueError:  # a name that is not bound yet
        return
    cell.cell_contents = here(value)
