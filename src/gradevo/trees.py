"""Batches and outputs that are more than one tensor: mappings and tuples of tensors, as one value.

A tree is a tensor, or a mapping, tuple, list or dataclass of trees. How a module is called with one
is decided here and nowhere else (`arguments`), and so is which of its outputs is the prediction.
Everywhere a single tensor is looked at first, so that it costs nothing more than it did.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Tree = Any  # a tensor, or a mapping, tuple, list or dataclass of trees
PREDICTION = "logits"  # what losses and ensembles look at, by name
PLAIN = (bool, int, float, str, type(None))


# --- how modules are called, and what they answer ------------------------------------------


def arguments(x: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a module for a batch of inputs.

    Example:
        >>> arguments({"ids": 1, "mask": 2}), arguments((1, 2)), arguments(1)
        (((), {'ids': 1, 'mask': 2}), ((1, 2), {}), ((1,), {}))
    """
    if isinstance(x, Tensor):
        return (x,), {}
    if isinstance(x, Mapping):
        return (), dict(cast(Any, x))
    return (tuple(x), {}) if isinstance(x, tuple | list) else ((x,), {})


def call(module: nn.Module, x: Tree) -> Any:
    """A module's output: `module(**x)` for a mapping, `module(*x)` for a tuple or list.

    A module whose one input is a mapping gets it in a tuple, `({...},)`.

    Example:
        >>> call(nn.Linear(4, 3), {"input": torch.zeros(2, 4)}).shape
        torch.Size([2, 3])
    """
    if isinstance(x, Tensor):
        return entered(module(x))
    inputs, named = arguments(x)
    return entered(module(*inputs, **named))


def entered(tree: Any) -> Tree:
    """The tree itself, once torch can look into the dataclasses in it."""
    if isinstance(tree, Tensor):
        return tree
    while kinds := {type(leaf) for leaf in pytree.tree_leaves(tree) if _is_closed(leaf)}:
        for kind in kinds:
            _open(kind)
    return tree


def _is_closed(leaf: Any) -> bool:
    """Whether a leaf is a dataclass that torch takes for something without parts."""
    known = isinstance(leaf, type | Mapping) or type(leaf) in pytree.SUPPORTED_NODES
    return dataclasses.is_dataclass(leaf) and not known


def _open(kind: Any) -> None:
    """Let torch take a dataclass apart, and put it together without calling its constructor."""
    names = tuple(field.name for field in dataclasses.fields(kind))

    def parts(value: Any) -> tuple[list[Any], Any]:
        there = tuple(name for name in names if hasattr(value, name))
        return [getattr(value, name) for name in there], there

    def named_parts(value: Any) -> tuple[list[Any], Any]:
        found, there = parts(value)
        keys = [pytree.GetAttrKey(name) for name in there]
        return list(zip(keys, found, strict=True)), there

    def together(found: Any, there: Any) -> Any:
        value = object.__new__(kind)
        for name, part in zip(there, found, strict=True):
            object.__setattr__(value, name, part)
        return value

    pytree.register_pytree_node(kind, parts, together, flatten_with_keys_fn=named_parts)


def prediction(output: Tree) -> Tensor:
    """The tensor that a loss of predictions is about: what is called `logits`, else the first one.

    Raises:
        ValueError: there is no tensor.

    Example:
        >>> prediction({"state": torch.zeros(2, 9), "logits": torch.zeros(2, 3)}).shape
        torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output
    named = output.get(PREDICTION) if isinstance(output, Mapping) else None
    named = getattr(output, PREDICTION, None) if dataclasses.is_dataclass(output) else named
    if isinstance(named, Tensor):
        return named
    found = tensors(output)
    if not found:
        raise ValueError(f"build: modules must return a tensor among others, got {kind(output)}")
    return found[0]


# --- rows ----------------------------------------------------------------------------------


def tensors(tree: Tree) -> list[Tensor]:
    """All tensors of a tree."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def each(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """The tree with every tensor replaced by what a function makes of it."""
    if isinstance(tree, Tensor):
        return function(tree)
    return pytree.tree_map_only(Tensor, function, tree)


def divided(tree: Tree) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Tree]]:
    """The tensors of a tree, and a function that makes such a tree of as many others.

    What is no tensor is as `common` says.
    """
    leaves, spec = pytree.tree_flatten(tree)
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    rest = [None if isinstance(leaf, Tensor) else common([leaf]) for leaf in leaves]
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def together(others: Sequence[Tensor]) -> Tree:
        filled = list(rest)
        for place, other in zip(places, others, strict=True):
            filled[place] = other
        return pytree.tree_unflatten(filled, spec)

    return found, together


def length(tree: Tree) -> int:
    """Rows of a batch: of its first tensor."""
    return len(tree) if isinstance(tree, Tensor) else len(tensors(tree)[0])


def take(tree: Tree, rows: Any) -> Tree:
    """Some rows, `tree[rows]` for every tensor."""
    return tree[rows] if isinstance(tree, Tensor) else each(lambda t: t[rows], tree)


def to(tree: Tree, device: torch.device) -> Tree:
    """The tree on a device."""
    return tree.to(device) if isinstance(tree, Tensor) else each(lambda t: t.to(device), tree)


def chunks(tree: Tree, rows: int) -> list[Tree]:
    """The rows in order, at most so many at a time."""
    if isinstance(tree, Tensor):
        return list(tree.split(rows))
    return [take(tree, slice(at, at + rows)) for at in range(0, length(tree), rows)]


def stack(trees: Sequence[Tree]) -> Tree:
    """One tree of stacked tensors; what is no tensor stays where it is the same in all."""
    if isinstance(trees[0], Tensor):
        return torch.stack(trees)  # pyright: ignore[reportArgumentType]
    return pytree.tree_map(_stacked, *trees)


def _stacked(*leaves: Any) -> Any:
    if isinstance(leaves[0], Tensor):
        return torch.stack(leaves)
    return common(leaves)


def common(leaves: Sequence[Any]) -> Any:
    """What stands for members' leaves that are no tensors: a value that all have, or None.

    None for a cache of keys and values and the like: no loss asks for it.
    """
    first = leaves[0]
    return first if isinstance(first, PLAIN) and all(leaf == first for leaf in leaves) else None


def cat(trees: Sequence[Tree]) -> Tree:
    """Batches one after another."""
    if isinstance(trees[0], Tensor):
        return torch.cat(trees)  # pyright: ignore[reportArgumentType]
    return pytree.tree_map(lambda *leaves: torch.cat(leaves), *trees)


def cat_outputs(parts: Sequence[Tree], rows: Sequence[int]) -> Tree:
    """Members' outputs `(g, n, ...)` of several chunks of rows as those of all.

    A number for a whole chunk, a model's own `loss` for example, becomes the mean over rows.

    Args:
        parts: one tree a chunk.
        rows: how many each has.
    """
    if len(parts) == 1:
        return parts[0]

    def joined(*leaves: Any) -> Any:
        if not isinstance(leaves[0], Tensor):
            return leaves[0]
        if leaves[0].dim() > 1:
            return torch.cat(leaves, dim=1)
        return sum(t * (n / sum(rows)) for t, n in zip(leaves, rows, strict=True))

    return pytree.tree_map(joined, *parts)


# --- what users hand over ------------------------------------------------------------------


def plain(value: Any, convert: Callable[[Any], Tensor]) -> Tree:
    """A tree of dicts and tuples from mappings of any class, tuples and lists.

    Args:
        value: what was given.
        convert: makes a tensor of a leaf, or raises.
    """
    if isinstance(value, Tensor):
        return convert(value)
    if isinstance(value, Mapping):
        return {str(name): plain(part, convert) for name, part in value.items()}
    if not _several(value):
        return convert(value)
    return tuple(plain(part, convert) for part in value)


def opened(x: Tree) -> Tree:
    """Inputs of an own loop as dicts and tuples, which torch's transforms can look into."""
    return x if isinstance(x, Tensor) else plain(x, lambda leaf: leaf)


def _several(value: Any) -> bool:
    """Whether a value is several tensors: else a list of numbers, or of rows, is one."""
    if isinstance(value, tuple) and any(isinstance(part, np.ndarray) for part in value):
        return True
    return isinstance(value, tuple | list) and any(
        isinstance(part, Mapping) or (isinstance(part, Tensor) and part.dim() > 0) or _several(part)
        for part in value
    )


def common_length(name: str, tree: Tree) -> int:
    """Rows of a batch, of which every tensor must have as many.

    Raises:
        ValueError: a tensor without rows, or two of different length.
    """
    if isinstance(tree, Tensor) and tree.dim() > 0:
        return len(tree)
    paths = pytree.tree_flatten_with_path(tree)[0]
    sizes = {pytree.keystr(path): len(t) if t.dim() else None for path, t in paths}
    if not sizes:
        raise ValueError(f"{name}: must hold at least one tensor, got none")
    if None in sizes.values() or len(set(sizes.values())) > 1:
        found = ", ".join(f"{path or 'x'} {size or 'a number'}" for path, size in sizes.items())
        raise ValueError(f"{name}: all tensors must have one length, got {found}")
    return next(size for size in sizes.values() if size is not None)


def kind(value: Any) -> str:
    """A word on what something is, for errors."""
    named = ", ".join(map(str, value)) if isinstance(value, Mapping) else ""
    return f"{type(value).__name__} of {named}" if named else type(value).__name__
