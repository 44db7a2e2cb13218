"""What a module or function holds besides parameters and buffers: numbers, functions, objects.

One walk answers whether members differ in something that no tensor carries, whether a call changes
something that nothing keeps, and whether a run is gone on with by another network or loss.
"""

import random
import types
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from weakref import ReferenceType

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import (  # pyright: ignore[reportMissingModuleSource]
    is_functorch_wrapped_tensor,
)

from gradevo.code import CODED, code_of, names_of, written
from gradevo.digests import digest

Description = dict[str, Any]  # from a path, as "encode.scale", to a plain value
DEEPEST, MOST = 16, 50_000
ABSENT = object()
DERIVED = {"_flat_weights", "_flat_weight_refs"}  # torch's recurrent layers make them anew
PLAIN = (bool, int, float, complex, str, bytes, type(None))
LEAVES = (
    *PLAIN, Tensor, np.ndarray, np.generic, type, types.ModuleType, types.BuiltinFunctionType,
    torch.dtype, torch.device, torch.Size, torch.Generator, ReferenceType,
)  # fmt: skip
OWN = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"}
HOOKS = {  # of a call, by numbers that a process counts on
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
}  # fmt: skip
BOOKKEEPING = {  # of torch's own, which says nothing of what is computed
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs", "_is_full_backward_hook",
}  # fmt: skip


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value is made of, by name: parts, attributes, items, what a function closes over."""
    if isinstance(value, LEAVES):
        return
    if isinstance(value, nn.Module):
        yield from value._modules.items()
        yield from ((n, b) for n, b in value._buffers.items() if b is not None and _is_sparse(b))
        yield from _attributes(value)
    elif isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in list(value.items()))
    elif isinstance(value, list | tuple | deque):
        yield from ((str(i), item) for i, item in enumerate(value))
    elif isinstance(value, CODED):
        yield from names_of(value)
    elif isinstance(value, types.MethodType):
        yield "self", value.__self__
        yield "function", value.__func__
    elif isinstance(value, partial):
        yield from (("function", value.func), ("arguments", value.args), ("named", value.keywords))
    elif not type(value).__module__.startswith(("torch._C", "_thread", "_io", "builtins")):
        slots = (n for kind in type(value).__mro__ for n in _slots(kind) if hasattr(value, n))
        yield from ((name, getattr(value, name)) for name in slots)
        yield from list(getattr(value, "__dict__", {}).items())


def _slots(kind: type) -> list[str]:
    found = vars(kind).get("__slots__", ())
    return [found] if isinstance(found, str) else [n for n in found if n != "__dict__"]


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(module).items()):
        if name in HOOKS:
            yield from ((f"hook {i}", hook) for i, hook in enumerate(value.values()))
        elif name not in OWN and name not in BOOKKEEPING:
            yield name, value


def _is_sparse(tensor: Tensor) -> bool:
    """Of a layout that cannot be stacked."""
    return tensor.layout != torch.strided


def reached(root: Any) -> list[Any]:
    """Everything that an object is made of, each object once, the object itself first."""
    found, ahead, seen = [], [root], {id(root)}
    while ahead:
        value = ahead.pop()
        found.append(value)
        for _, child in children(value):
            if id(child) not in seen:
                seen.add(id(child))
                ahead.append(child)
    return found


def where(root: Any, target: Any) -> str | None:
    """The path at which something is reached from an object; None: it is not."""
    ahead, seen = deque([("", root)]), {id(root)}
    while ahead:
        path, value = ahead.popleft()
        for name, child in children(value):
            place = f"{path}.{name}".lstrip(".")
            if child is target:
                return place
            if id(child) not in seen:
                seen.add(id(child))
                ahead.append((place, child))
    return None


def described(value: Any) -> Description:
    """What a module or function holds besides its tensors, as plain values by path.

    The same in every process. A tensor that a forward left in an attribute counts as "a result",
    whatever its numbers are; any other plain tensor by its content.

    Example:
        >>> described(nn.Dropout(0.3))["p"]
        0.3
    """
    walk = _Walk(value)
    walk.enter("", value, 0)
    return walk.found


def difference(one: Description, other: Description) -> str | None:
    """The first path at which two descriptions differ; None: nowhere."""
    if one == other:
        return None
    paths = dict.fromkeys([*one, *other])
    return next(path for path in paths if one.get(path, ABSENT) != other.get(path, ABSENT))


class _Walk:
    """Enters what is reached, each object once."""

    def __init__(self, root: Any) -> None:
        self.found: Description = {}
        self.known: dict[int, str] = {}
        self.kept: list[Any] = []  # whatever is known by its address must live as long
        if isinstance(root, nn.Module):
            buffers = [(n, b) for n, b in root.named_buffers() if not _is_sparse(b)]
            tensors = [*root.named_parameters(remove_duplicate=False), *buffers]
            self.known |= {id(t): f"the tensor {name}" for name, t in reversed(tensors)}

    def enter(self, path: str, value: Any, depth: int) -> None:
        if len(self.found) >= MOST or depth > DEEPEST:
            return
        if isinstance(value, PLAIN):
            self.found[path] = _plain(value)
            return
        if id(value) in self.known:
            self.found[path] = self.known[id(value)]
            return
        self.known[id(value)] = f"that of {path or 'the root'}"
        self.kept.append(value)
        self.found[path] = _word(value)
        for name, child in children(value):
            if name not in DERIVED:
                self.enter(f"{path}.{name}" if path else name, child, depth + 1)


def _plain(value: Any) -> Any:
    """As JSON has it, but for what it has no word for."""
    finite = not isinstance(value, float) or value - value == 0
    return value if finite and not isinstance(value, complex | bytes) else repr(value)


def _word(value: Any) -> str:
    """What a value is, without what it is made of."""
    if isinstance(value, Tensor):
        return "a result" if is_result(value) else f"tensor {digest([value])}"
    if isinstance(value, np.ndarray):
        return f"array {digest([value])}"
    if isinstance(value, torch.Generator):
        return f"generator {digest([value.get_state()])}"
    if isinstance(value, random.Random):
        return f"generator {digest([value.getstate()])}"
    if isinstance(value, np.random.Generator | np.random.RandomState):
        return f"generator {digest([repr(_numpy_state(value))])}"
    if isinstance(value, type | types.BuiltinFunctionType | np.ufunc):
        return written(value)
    if isinstance(value, torch.dtype | torch.device | torch.Size | np.generic):
        return repr(value)
    if isinstance(value, set | frozenset):
        return f"set {digest(sorted(map(repr, value)))}"
    if isinstance(value, list | tuple | deque | Mapping):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, nn.Module):
        return f"{written(type(value))} {code_of(type(value))}".strip()
    return (
        f"{written(value)} {code_of(value)}" if isinstance(value, CODED) else written(type(value))
    )


def _numpy_state(value: Any) -> Any:
    return value.bit_generator.state if hasattr(value, "bit_generator") else value.get_state()


def is_result(tensor: Tensor) -> bool:
    """Something that a forward computed, which cannot be copied and means nothing later."""
    return is_functorch_wrapped_tensor(tensor) or not tensor.is_leaf
