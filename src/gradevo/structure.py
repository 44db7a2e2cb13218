"""What the members of a population have in common: names, shapes, ties, frozen parts."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Structure:
    """Names of one architecture's tensors, each tensor once, under its first name.

    Attributes:
        trainable: parameters that require a gradient.
        frozen: parameters that do not.
        buffers: batch-norm statistics and the like, persistent or not.
    """

    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    buffers: tuple[str, ...]

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
        buffers=tuple(name for name, _ in module.named_buffers()),
    )


def tensors_of(module: nn.Module) -> Tensors:
    """Parameters and buffers of a module, detached, each under its first name."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}


def with_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `module` that holds `tensors` themselves, not copies of them.

    Ties stay ties and frozen parameters stay frozen: every place that held a tensor of
    `module` holds its replacement.
    """
    memo: dict[int, object] = {}
    for name, parameter in module.named_parameters():
        memo[id(parameter)] = nn.Parameter(tensors[name], requires_grad=parameter.requires_grad)
    for name, buffer in module.named_buffers():
        memo[id(buffer)] = tensors[name]
    return copy.deepcopy(module, memo)


def stack(modules: Sequence[nn.Module]) -> Tensors:
    """Tensors of all members with a leading member axis, each `(g, ...)`."""
    rows = [tensors_of(module) for module in modules]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def copy_modes(source: nn.Module, target: nn.Module) -> None:
    """Give every part of `target` the train or eval mode of its counterpart."""
    for mine, theirs in zip(source.modules(), target.modules(), strict=True):
        theirs.training = mine.training


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


def check_members(modules: Sequence[nn.Module]) -> None:
    """Refuse what is not a population of one architecture.

    Raises:
        TypeError: a member is not an `nn.Module`.
        ValueError: the same module or tensor twice, two architectures, lazy parameters, or
            trainable parameters of several types.
    """
    for i, module in enumerate(modules):
        if not isinstance(module, nn.Module):
            raise TypeError(f"build: must return an nn.Module, got {type(module).__name__}")
        if any(is_lazy(p) for p in module.parameters()):
            raise ValueError(
                "build: must return a module with known shapes, got lazy parameters; "
                "run one batch through the module inside build"
            )
        if any(module is other for other in modules[:i]):
            raise ValueError("build: must return a new module at every call, got the same one")
    _check_shared(modules)
    for i, module in enumerate(modules[1:], start=1):
        _check_same(modules[0], module, i)
    _check_types(modules[0])


def _check_shared(modules: Sequence[nn.Module]) -> None:
    """Trainable tensors must belong to one member each."""
    owner: dict[int, int] = {}
    for i, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and owner.setdefault(id(parameter), i) != i:
                raise ValueError(
                    f"build: members must not share parameters, got the same {name!r} in "
                    f"members {owner[id(parameter)]} and {i}"
                )


def _check_same(first: nn.Module, other: nn.Module, index: int) -> None:
    """One architecture: the same class, names, shapes, types, ties and frozen parts."""
    rule = "build: must return one architecture at every call"
    if type(first) is not type(other):
        raise ValueError(
            f"{rule}, got {type(first).__name__} and {type(other).__name__} (member {index})"
        )
    mine, theirs = structure_of(first), structure_of(other)
    if mine != theirs:
        different = sorted(set(mine.names) ^ set(theirs.names)) or "what is frozen"
        raise ValueError(f"{rule}, got members 0 and {index} that differ in {different}")
    a, b = tensors_of(first), tensors_of(other)
    for name in mine.names:
        if a[name].shape != b[name].shape or a[name].dtype != b[name].dtype:
            raise ValueError(
                f"{rule}, got {name!r} of shape {tuple(a[name].shape)} ({a[name].dtype}) and "
                f"{tuple(b[name].shape)} ({b[name].dtype}, member {index})"
            )


def _check_types(module: nn.Module) -> None:
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("build: must return a module with trainable parameters, got none")
    types = sorted({str(p.dtype) for p in trainable})
    if len(types) > 1:
        raise ValueError(f"build: trainable parameters must have one dtype, got {types}")
