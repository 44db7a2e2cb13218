"""The code of functions and classes as short words: another body is another word.

Names of lines and files do not count, and neither do comments or docstrings. What a function reads
from its module counts where it is a function, a class or a constant of the user's own.
"""

import dis
import inspect
import sys
import types
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn

from gradevo.digests import digest

CODED = types.FunctionType
LIBRARIES = ("torch", "numpy", "scipy", "sklearn", "builtins")
CONSTANTS = (bool, int, float, str, tuple, type(None))


def written(value: Any) -> str:
    """What something is called, in a library with its place there.

    A file of the user's own is `__main__` when it is run, and has its name when it is imported.

    Example:
        >>> written(nn.Linear)
        'torch.nn.modules.linear.Linear'
    """
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", type(value).__name__)
    return f"{value.__module__}.{name}" if _of_library(value) else name


def code_of(value: Any) -> str:
    """A short word for the body of a function, or of all methods of a class; "" for a library's.

    Bytecode differs between versions of Python, so the version is part of it.
    """
    if _of_library(value):
        return ""
    codes = list(_codes(value, set()))
    return f"py{sys.version_info.minor}:{digest(codes)[:16]}" if codes else ""


def names_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function was made with: what it closes over and does not itself set, and defaults."""
    set_here = _sets(function.__code__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name not in set_here and _is_filled(cell):
            yield name, cell.cell_contents
    for i, value in enumerate(function.__defaults__ or ()):
        yield f"default {i}", value
    yield from (function.__kwdefaults__ or {}).items()


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


@cache
def _sets(code: types.CodeType) -> frozenset[str]:
    """Names outside of a function that its body assigns to: counters and the like."""
    stores = {"STORE_DEREF", "STORE_GLOBAL", "DELETE_DEREF"}
    own = {i.argval for i in dis.get_instructions(code) if i.opname in stores}
    return frozenset(own).union(
        *(_sets(c) for c in code.co_consts if isinstance(c, types.CodeType))
    )


def _of_library(value: Any) -> bool:
    room = getattr(value, "__module__", None) or ""
    return room.partition(".")[0] in LIBRARIES


def _codes(value: Any, seen: set[int]) -> Iterator[Any]:
    """Bodies of a function or class, and of what they name of the user's own."""
    if id(value) in seen or _of_library(value):
        return
    seen.add(id(value))
    if isinstance(value, type):
        for name, method in _methods(value).items():
            yield from ((name, found) for found in _codes(method, seen))
    elif isinstance(value, CODED):
        yield _body(value.__code__)
        for name in _names(value.__code__):
            named = value.__globals__.get(name)
            if isinstance(named, CONSTANTS) and name.isupper():
                yield name, repr(named)
            elif isinstance(named, CODED) or _is_module_class(named):
                yield from _codes(named, seen)


def _methods(kind: type) -> dict[str, types.FunctionType]:
    """The user's own methods of a class; of a module those that its forward leads to."""
    every = {
        name: _plain_function(part)
        for base in reversed(kind.__mro__)
        if not _of_library(base)
        for name, part in vars(base).items()
    }
    own = {name: part for name, part in every.items() if isinstance(part, CODED)}
    if not issubclass(kind, nn.Module):
        return dict(sorted(own.items()))
    found, ahead = dict[str, types.FunctionType](), ["forward", "__call__", "train", "__getattr__"]
    while ahead:
        name = ahead.pop()
        if name in own and name not in found:
            found[name] = own[name]
            ahead += _names(own[name].__code__)
    return dict(sorted(found.items()))


def _plain_function(part: Any) -> Any:
    part = part.fget if isinstance(part, property) else part
    return getattr(part, "__func__", getattr(part, "__wrapped__", part))


def _is_module_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _body(code: types.CodeType) -> tuple[Any, ...]:
    constants = [_body(c) if isinstance(c, types.CodeType) else _sorted(c) for c in code.co_consts]
    return code.co_code.hex(), constants[1:] if _has_docstring(code) else constants, code.co_names


def _has_docstring(code: types.CodeType) -> bool:
    """Whether the first constant is one, or, before Python 3.14, stands in its place."""
    if sys.version_info >= (3, 14):
        return bool(code.co_flags & inspect.CO_HAS_DOCSTRING)
    first = code.co_consts[:1]
    return not code.co_name.startswith("<") and isinstance((*first, None)[0], str | None)


def _sorted(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _names(code: types.CodeType) -> list[str]:
    inner = [n for c in code.co_consts if isinstance(c, types.CodeType) for n in _names(c)]
    return sorted({*code.co_names, *inner})
