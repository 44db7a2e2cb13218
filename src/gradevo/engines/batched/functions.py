"""Functions and methods between layers, for all members at once."""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

from gradevo.engines.batched.bank import Bank
from gradevo.engines.batched.each import in_turn, mapped
from gradevo.engines.batched.layers import dropped, linear_of
from gradevo.engines.batched.values import Value, aligned, is_tensor, members

_NAMES = {
    *("abs", "add", "celu", "clamp", "cos", "div", "elu", "erf", "exp", "gelu", "hardsigmoid"),
    *("hardswish", "hardtanh", "leaky_relu", "log", "logsigmoid", "maximum", "minimum", "mish"),
    *("mul", "neg", "pow", "relu", "relu6", "rsqrt", "rsub", "selu", "sigmoid", "silu", "sin"),
    *("softplus", "softsign", "sqrt", "square", "sub", "tanh", "tanhshrink", "true_divide"),
    *("truediv", "where"),
}
ELEMENTWISE = {
    getattr(home, name)
    for home in (torch, F, operator) for name in _NAMES if hasattr(home, name)
}  # fmt: skip
METHODS = {name: getattr(torch.Tensor, name) for name in _NAMES if hasattr(torch.Tensor, name)}
POOLS = {getattr(F, f"{kind}_pool{n}d")
         for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2)}  # fmt: skip


def call(bank: Bank, function: Any, arguments: Any, named: Any) -> Any:
    """The function's value, in the batched form that there is for it."""
    if named.get("inplace"):  # the choice of an engine finds out where that matters
        named = {**named, "inplace": False}
    values = [leaf for leaf in _leaves((arguments, named)) if is_tensor(leaf)]
    if not values:
        return function(*arguments, **named)
    if function is operator.getitem and isinstance(arguments[0], tuple | list):
        return function(*arguments, **named)  # of what several outputs were
    if function in ELEMENTWISE:
        return _together(bank, function, arguments, named)
    if (special := SPECIAL.get(function)) is not None:
        found = special(bank, *arguments, **named) if _fits(special, arguments, named) else None
        if found is not None:
            return found
    if all(value.layout == "shared" for value in values) and not _draws(function):
        return _plain(function, arguments, named)
    if (
        function in POOLS
        and arguments
        and _is_folded(function, arguments[0])
        and not named.get("return_indices")
    ):
        return Value(function(arguments[0].data, *arguments[1:], **named), "folded")
    return mapped(bank, function, arguments, named)


def method(bank: Bank, name: str, arguments: Any, named: Any) -> Any:
    """A tensor's method."""
    receiver = arguments[0]
    if not isinstance(receiver, Value):
        return getattr(receiver, name)(*arguments[1:], **named)
    if name in ("size", "dim", "numel"):
        shape = torch.Size(receiver.shape(bank.g))
        return _measure(name, shape, *arguments[1:], **named)
    if name in METHODS:
        return _together(bank, METHODS[name], arguments, named)
    if name == "view" and all(isinstance(size, int) for size in arguments[1:]):
        name = "reshape"  # a member's part of what is folded has strides of its own
    if name == "flatten":
        return call(bank, torch.flatten, arguments, named)
    return call(bank, _Method(name), arguments, named)


def _draws(function: Any) -> bool:
    """Whether a function draws random numbers, so that each member needs its own."""
    name = getattr(function, "__name__", "") or getattr(function, "name", "")
    drawing = ("rand", "dropout", "attention", "bernoulli", "normal", "poisson", "multinomial",
               "rrelu", "gumbel", "exponential", "geometric", "cauchy")  # fmt: skip
    return any(word in name for word in drawing)


def _is_folded(function: Any, value: Any) -> bool:
    """Whether a pooling function finds the rank that it is for."""
    rank = 2 + int(function.__name__[-2])
    return is_tensor(value) and value.layout == "folded" and value.data.dim() == rank


class _Method:
    """`tensor.name(...)` as a function."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, tensor: Any, *arguments: Any, **named: Any) -> Any:
        return getattr(tensor, self.name)(*arguments, **named)


def attribute(bank: Bank, value: Any, name: str) -> Any:
    """`value.shape` and the like, as a member sees it."""
    if not isinstance(value, Value):
        return getattr(value, name)
    if name == "shape":
        return torch.Size(value.shape(bank.g))
    if name == "ndim":
        return len(value.shape(bank.g))
    if name in ("device", "dtype"):
        return getattr(value.data, name)
    return mapped(bank, lambda tensor: getattr(tensor, name), (value,), {})


def _measure(name: str, shape: torch.Size, *dims: int, dim: int | None = None) -> Any:
    if name == "numel":
        return shape.numel()
    if name == "dim":
        return len(shape)
    place = dims[0] if dims else dim
    return shape if place is None else shape[place]


def _together(bank: Bank, function: Callable[..., Any], arguments: Any, named: Any) -> Value:
    """An elementwise function of values and numbers."""
    leaves, tree = pytree.tree_flatten((arguments, named), is_leaf=is_tensor)
    places = [i for i, leaf in enumerate(leaves) if is_tensor(leaf)]
    tensors, layout = aligned([leaves[i] for i in places], bank.g)
    for i, tensor in zip(places, tensors, strict=True):
        leaves[i] = tensor
    taken, named_taken = pytree.tree_unflatten(leaves, tree)
    return Value(function(*taken, **named_taken), layout)


def _plain(function: Any, arguments: Any, named: Any) -> Any:
    """The same for all members: once."""
    taken, named_taken = pytree.tree_map(
        lambda leaf: leaf.data if is_tensor(leaf) else leaf, (arguments, named), is_leaf=is_tensor
    )
    output = function(*taken, **named_taken)
    return pytree.tree_map(lambda x: Value(x, "shared") if torch.is_tensor(x) else x, output)


def _leaves(tree: Any) -> list[Any]:
    return pytree.tree_leaves(tree, is_leaf=is_tensor)


# --- functions with a form of their own; None: not for these arguments -----------


def _fits(special: Any, arguments: Any, named: Any) -> bool:
    """Whether the arguments have the names that the form of its own knows."""
    try:
        inspect.signature(special).bind(None, *arguments, **named)
    except TypeError:
        return False
    return True


def _flatten(bank: Bank, value: Value, start_dim: int = 0, end_dim: int = -1) -> Any:
    if value.layout == "shared" or start_dim == 0:
        return None
    start, end = (dim if dim < 0 else dim + 1 for dim in (start_dim, end_dim))
    return Value(members(value, bank.g).flatten(start, end), "members")


def _linear(bank: Bank, value: Any, weight: Any, bias: Any = None) -> Any:
    parts = [part for part in (weight, bias) if part is not None]
    if not all(is_tensor(part) and part.layout == "members" for part in parts):
        return None
    return linear_of(bank, value, weight.data, None if bias is None else bias.data)


def _cat(bank: Bank, tensors: Any, dim: int = 0) -> Any:
    """Channels of folded values, member by member."""
    if dim != 1 or not all(is_tensor(t) and t.layout == "folded" for t in tensors):
        return None
    parts = [t.data.unflatten(1, (bank.g, -1)) for t in tensors]
    return Value(torch.cat(parts, dim=2).flatten(1, 2), "folded")


def _dropout(
    bank: Bank, value: Value, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    return dropped(bank, value, p) if training else value


def _embedding(bank: Bank, *arguments: Any, **named: Any) -> Any:
    """With rules for some words' gradients that vmap does not keep."""
    return in_turn(bank, F.embedding, arguments, named)


def _attention(
    bank: Bank, query: Any, key: Any, value: Any, *, is_causal: bool = False,
    scale: float | None = None,
) -> Any:  # fmt: skip
    """Of batches of heads `(B, heads, T, d)`, without a mask: members are more rows."""
    inputs = (query, key, value)
    if not all(is_tensor(x) and len(x.shape(bank.g)) == 4 for x in inputs):
        return None
    q, k, v = (members(x, bank.g).flatten(0, 1) for x in inputs)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=scale)
    return Value(mixed.unflatten(0, (bank.g, -1)), "members")


SPECIAL: dict[Any, Callable[..., Any]] = {
    F.embedding: _embedding, F.scaled_dot_product_attention: _attention,
    torch.flatten: _flatten, F.linear: _linear, torch.cat: _cat, F.dropout: _dropout,
}  # fmt: skip
