"""Losses of the user's, called so that they cannot spoil what others see too.

At its first call a loss gets copies, which are compared with what they were copied from: that also
notices what is written through NumPy or `.data`. After that torch's version counters tell.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class Untouched:
    """Calls of a loss, which must leave its output and target as they are."""

    def __init__(self) -> None:
        self.known = False

    def __call__(self, loss: Callable[[Any, Any], Any], output: Tensor, target: Any) -> Any:
        """What the loss says; the containers of a target are copied for it.

        Raises:
            ValueError: the loss has changed one of the two.
        """
        given = opened(target)
        tensors = [output, *leaves(given)]
        before = [version(t) for t in tensors]
        value = loss(output, given)
        for i, tensor in enumerate(tensors):
            if version(tensor) != before[i]:
                raise changed("target" if i else "output")
        return value

    def first(self, loss: Callable[[Any, Any], Any], output: Tensor, target: Any) -> Any:
        """The same with copies, before anything of the user's is at stake.

        Raises:
            ValueError: the loss has changed one of the two, or depends on what learns.
        """
        if self.known:
            return self(loss, output, target)
        given = copied(output), copied(target)
        value = _with_graph(loss, given)
        for name, copy, original in zip(("output", "target"), given, (output, target), strict=True):
            if not identical(copy, original):
                raise changed(name)
        if isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(
                "loss: must not depend on parameters that learn, since it is only evaluated and "
                f"they would get no gradient, got one that depends on {_found(value)}; freeze "
                "them with requires_grad_(False)"
            )
        self.known = not torch.is_inference_mode_enabled()
        return value


def refuse_learnable(loss: Any) -> None:
    """Refuse a loss that holds parameters: they would never learn, as it is only evaluated.

    Raises:
        ValueError: names them. What a loss reaches otherwise is noticed when it is first called.
    """
    if found := sorted(_learnable(loss)):
        raise ValueError(
            "loss: must have no parameters that learn, since it is only evaluated and they would "
            f"get no gradient, got {', '.join(found)}; freeze them with requires_grad_(False)"
        )


def _learnable(loss: Any) -> Iterator[str]:
    if isinstance(loss, partial):
        yield from _learnable(loss.func)
        held = {**{str(i): t for i, t in enumerate(loss.args)}, **loss.keywords}
        yield from (n for n, t in held.items() if isinstance(t, Tensor) and t.requires_grad)
    if not isinstance(loss, nn.Module):
        return
    yield from (name for name, p in loss.named_parameters() if p.requires_grad)
    for path, module in loss.named_modules():
        for name, value in vars(module).items():
            held = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(t, Tensor) and t.requires_grad for t in held):
                yield f"{path}.{name}" if path else name


def changed(name: str) -> ValueError:
    return ValueError(
        "loss: must leave its output and target as they are, got one that changes its "
        f"{name} in place"
    )


def version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of a tree."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def opened(tree: Any) -> Any:
    """The same tensors in containers of their own."""
    return tree if isinstance(tree, Tensor) else pytree.tree_map(lambda leaf: leaf, tree)


def copied(tree: Any) -> Any:
    """A tree whose tensors and arrays are others, outside of any graph."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    return pytree.tree_map(_copied, tree)


def _copied(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def identical(copy: Any, original: Any) -> bool:
    """Whether a copy still has the containers and numbers of what it was copied from."""
    ours, spec = pytree.tree_flatten(copy)
    theirs, other = pytree.tree_flatten(original)
    return spec == other and all(map(_same, ours, theirs))


def _same(a: Any, b: Any) -> bool:
    """Bit for bit, but for NaN's."""
    if isinstance(a, Tensor):
        a, b = a.detach(), b.detach()
        return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    return a is b


def _with_graph(loss: Callable[[Any, Any], Any], given: Sequence[Any]) -> Any:
    """The loss with a graph, so that its value tells whether it depends on what learns."""
    with torch.enable_grad():
        try:
            return loss(*given)
        except RuntimeError as error:
            if "requires grad" not in str(error):
                raise
    return loss(*given)  # it leaves torch: `.numpy()` is refused where there is a graph


def _found(value: Tensor) -> str:
    """The shapes of the parameters that a value depends on."""
    seen: set[Any] = set()
    todo: list[Any] = [value.grad_fn]
    found = []
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):  # a leaf
                found.append(str(tuple(node.variable.shape)))
            todo.extend(function for function, _ in node.next_functions)
    return f"tensors of shape {', '.join(found[:4])}" if found else "some"
