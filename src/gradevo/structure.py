"""What the members of a population have in common: names, shapes, ties, frozen parts."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradevo.attributes import is_result, reached
from gradevo.closures import rebind

Tensors = dict[str, Tensor]
WRAPPERS = {  # classes of torch around a module, and what made them
    "ScriptModule": "torch.jit.script or torch.jit.trace",
    "OptimizedModule": "torch.compile",
    "DataParallel": "it is wrapped",
    "DistributedDataParallel": "it is wrapped",
    "FullyShardedDataParallel": "it is wrapped",
}


@dataclass(frozen=True)
class Structure:
    """Names of one architecture's tensors, each tensor once, under its first name.

    Attributes:
        trainable: parameters that require a gradient.
        frozen: parameters that do not.
        buffers: batch-norm statistics and the like, persistent or not; a sparse one is no part of
            a member: all have the same.
        still: rows of a table of words that stay as they are, its padding: their tensor and number.
    """

    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    buffers: tuple[str, ...]
    still: tuple[tuple[str, int], ...] = ()

    @property
    def carried(self) -> tuple[str, ...]:
        """What crossover never mixes: a child takes it whole from its fitter parent."""
        return self.frozen + self.buffers

    @property
    def names(self) -> tuple[str, ...]:
        return self.trainable + self.carried


def structure_of(module: nn.Module) -> Structure:
    """The structure of an ordinary module."""
    parameters = list(module.named_parameters())
    return Structure(
        trainable=tuple(name for name, p in parameters if p.requires_grad),
        frozen=tuple(name for name, p in parameters if not p.requires_grad),
        buffers=tuple(buffers_of(module)),
        still=_still(module, {id(p): name for name, p in parameters}),
    )


def _still(module: nn.Module, names: Mapping[int, str]) -> tuple[tuple[str, int], ...]:
    """Rows that no gradient reaches, for which nothing else may change them."""
    tables = [p for p in module.modules() if isinstance(p, nn.Embedding | nn.EmbeddingBag)]
    padded = [(table.weight, table.padding_idx) for table in tables]
    found = [(names.get(id(weight), ""), row) for weight, row in padded if row is not None]
    return tuple((name, int(row)) for name, row in found if name)


def keep_still(structure: Structure, children: Tensors, parents: Tensors) -> None:
    """Give children `(n, ...)` their parents' rows that stay as they are, in place."""
    for name, row in structure.still:
        if name in children:
            children[name][:, row] = parents[name][:, row]


def buffers_of(module: nn.Module) -> Tensors:
    """Buffers that can be stacked: all but sparse ones."""
    return {name: b for name, b in module.named_buffers() if b.layout == torch.strided}


def tensors_of(module: nn.Module) -> Tensors:
    """Parameters and buffers of a module, detached, each under its first name."""
    named = [*module.named_parameters(), *buffers_of(module).items()]
    return {name: tensor.detach() for name, tensor in named}


def keys_of(module: nn.Module) -> dict[str, str]:
    """For every tensor of a module's state dict, the name that it has in `tensors_of`.

    Example:
        >>> tied = nn.ModuleList([nn.Linear(2, 2, bias=False)] * 2)
        >>> keys_of(tied)
        {'0.weight': '0.weight', '1.weight': '0.weight'}
    """
    named = [*module.named_parameters(), *buffers_of(module).items()]
    first = {id(tensor): name for name, tensor in named}
    state = module.state_dict(keep_vars=True)
    return {key: first[id(tensor)] for key, tensor in state.items() if id(tensor) in first}


def with_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `module` that holds `tensors` themselves, not copies of them.

    Ties stay ties and frozen parameters stay frozen: every place that held a tensor of
    `module` holds its replacement, and functions in attributes that close over the module or its
    parts close over those of the copy.
    """
    memo: dict[int, Any] = {}
    for name, parameter in module.named_parameters():
        memo[id(parameter)] = nn.Parameter(tensors[name], requires_grad=parameter.requires_grad)
    for name, buffer in module.named_buffers():
        memo[id(buffer)] = tensors.get(name, buffer)  # a sparse one is the same for all
    held = reached(module)
    memo.update((id(t), None) for t in held if isinstance(t, Tensor) and is_result(t))
    copied = copy.deepcopy(module, memo)
    rebind(module, held, copied, memo)
    return copied


def stack(modules: Sequence[nn.Module]) -> Tensors:
    """Tensors of all members with a leading member axis, each `(g, ...)`."""
    rows = [tensors_of(module) for module in modules]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every part has the mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def check_modes(modules: Sequence[nn.Module], argument: str) -> None:
    """Refuse members of which a part is in train mode in one and in eval mode in another.

    Raises:
        ValueError: names the part.
    """
    first = [(name, part.training) for name, part in modules[0].named_modules()]
    for i, module in enumerate(modules[1:], start=1):
        for (name, training), part in zip(first, module.modules(), strict=True):
            if part.training != training:
                raise ValueError(
                    f"{argument}: must give members in one mode, got {name or 'the module'!r} with "
                    f"training={training} in member 0 and {part.training} in member {i}"
                )


def check_members(modules: Sequence[nn.Module], argument: str = "build") -> None:
    """Refuse what is not a population of one architecture.

    Args:
        modules: the members to be.
        argument: what errors call the place they came from.

    Raises:
        TypeError: a member is not an `nn.Module`, or a compiled or wrapped one.
        ValueError: the same module or tensor twice, two architectures, lazy parameters or ones with
            hooks, or trainable parameters of several types or none.
    """
    for module in modules:
        _check_kind(module, argument)
        for name, parameter in module.named_parameters():
            _check_parameter(name, parameter, argument)
    if len({id(module) for module in modules}) < len(modules):
        raise ValueError(
            f"{argument}: must give a new module for every member, got the same one twice"
        )
    _check_shared(modules, argument)
    for i, module in enumerate(modules[1:], start=1):
        _check_same(modules[0], module, i, f"{argument}: must give one architecture")
    _check_types(modules[0], argument)


def _check_kind(module: Any, argument: str) -> None:
    """Refuse what is no module, or one whose forward is not code that can be called with others."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{argument}: must give an nn.Module, got {type(module).__name__}")
    kind = next((k for k in type(module).__mro__ if k.__name__ in WRAPPERS), None)
    if kind is not None and kind.__module__.startswith("torch."):
        raise TypeError(
            f"{argument}: must give ordinary modules, got a {type(module).__name__}; give the "
            f"module before {WRAPPERS[kind.__name__]}"
        )


def _check_parameter(name: str, parameter: nn.Parameter, argument: str) -> None:
    if is_lazy(parameter):
        raise ValueError(
            f"{argument}: must give modules with known shapes, got lazy parameters; "
            "run one batch through the module first"
        )
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        raise ValueError(
            f"{argument}: must give parameters without hooks, which stacked ones cannot have, got "
            f"{name!r} with one; change the gradient in forward, by a mask on the weight say"
        )


def _check_shared(modules: Sequence[nn.Module], argument: str) -> None:
    """Trainable tensors must belong to one member each."""
    owner: dict[int, int] = {}
    for i, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and owner.setdefault(id(parameter), i) != i:
                raise ValueError(
                    f"{argument}: must give members that share no parameters, got the same "
                    f"{name!r} in members {owner[id(parameter)]} and {i}"
                )


def _check_same(first: nn.Module, other: nn.Module, index: int, rule: str) -> None:
    """One architecture: the same parts, names, shapes, types, ties and frozen tensors."""
    for mine, theirs in zip_longest(_parts(first), _parts(other)):
        if mine != theirs:
            raise ValueError(f"{rule}, got {mine} in member 0 and {theirs} in member {index}")
    a, b = structure_of(first), structure_of(other)
    if a != b or _ties(first) != _ties(other):
        different = sorted(set(a.names) ^ set(b.names)) or "what is frozen or tied"
        raise ValueError(f"{rule}, got members 0 and {index} that differ in {different}")
    mine, theirs = tensors_of(first), tensors_of(other)
    for name in a.names:
        x, y = mine[name], theirs[name]
        if x.shape != y.shape or x.dtype != y.dtype:
            raise ValueError(
                f"{rule}, got {name!r} of shape {tuple(x.shape)} ({x.dtype}) in member 0 and "
                f"{tuple(y.shape)} ({y.dtype}) in member {index}"
            )


def _parts(module: nn.Module) -> list[str]:
    """What a module is made of; torch's own parts with their settings.

    Classes count by name: a parametrised module, or one defined in a function, has a class
    of its own at every call.
    """
    return [
        f"{name} {type(part).__name__}({_settings(part)})".lstrip()
        for name, part in module.named_modules()
    ]


def _settings(part: nn.Module) -> str:
    """Sizes, stride, dropout rate and the like."""
    return part.extra_repr() if type(part).__module__.startswith("torch.nn.modules") else ""


def _ties(module: nn.Module) -> list[str]:
    """For every place that holds a parameter, the first name of that parameter."""
    first = {id(p): name for name, p in module.named_parameters()}
    return [first[id(p)] for _, p in module.named_parameters(remove_duplicate=False)]


def _check_types(module: nn.Module, argument: str) -> None:
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError(f"{argument}: must give modules with trainable parameters, got none")
    types = sorted({f"{p.dtype} on {p.device}" for p in trainable})
    if len(types) > 1:
        raise ValueError(
            f"{argument}: must give trainable parameters of one dtype on one device, got {types}"
        )
