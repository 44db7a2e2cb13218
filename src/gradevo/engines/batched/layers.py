"""Layers of torch.nn for all members at once; of other modules each member's own is called.

A layer takes the members' tensors, the population's module and the value that flows in.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradevo.engines.batched import chance, direct
from gradevo.engines.batched.bank import Bank
from gradevo.engines.batched.each import each
from gradevo.engines.batched.values import Value, folded, members

Layer = Callable[[Bank, Any, Value], Value]


def linear(bank: Bank, module: nn.Linear, value: Value) -> Value:
    return linear_of(bank, value, _need(bank, module, "weight"), bank.of(module, "bias"))


def linear_of(bank: Bank, value: Value, weight: Tensor, bias: Tensor | None) -> Value:
    """Rows `(..., in)` times weights `(g, out, in)`; bias `(g, out)`."""
    g = bank.g
    if value.layout == "shared":  # one product: the rows are the same for all
        flat = None if bias is None else bias.flatten()
        wide = F.linear(value.data, weight.flatten(0, 1), flat)  # (..., g * out)
        return Value(wide.unflatten(-1, (g, -1)).movedim(-2, 0), "members")
    x = members(value, g)
    rows = x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)  # (g, rows, in)
    if direct.has_sink(bank, weight, bias):
        product = direct.product(bank, rows, weight, bias)
    elif bias is None:
        product = torch.bmm(rows, weight.mT)
    else:
        product = torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
    return Value(product.view(*x.shape[:-1], weight.shape[1]), "members")


def convolution(bank: Bank, module: nn.Conv1d | nn.Conv2d, value: Value) -> Value:
    """Members are groups of channels; on a shared input they are but more channels."""
    if module.padding_mode != "zeros":
        return each(bank, module, value)
    weight, bias = _need(bank, module, "weight").flatten(0, 1), _flat(bank, module, "bias")
    alone = value.layout == "shared" and module.groups == 1
    x, groups = (value.data, 1) if alone else (folded(value, bank.g), bank.g * module.groups)
    flat = x.dim() == 3  # signals as images one pixel high: only images have channels last
    if flat:
        x, weight = x.unsqueeze(2), weight.unsqueeze(2)
    settings: Any = (module.stride, module.padding, module.dilation)
    stride, padding, dilation = _two(settings) if flat else settings
    x = x.contiguous(memory_format=torch.channels_last)
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return Value(y.squeeze(2) if flat else y, "folded")


def _two(settings: tuple[Any, ...]) -> Sequence[Any]:
    """Stride, padding and dilation of a signal for an image that is one pixel high."""
    neutral = (1, 0, 1)
    return [
        one if isinstance(one, str) else (first, *one)
        for first, one in zip(neutral, settings, strict=True)
    ]


def transposed(bank: Bank, module: nn.ConvTranspose1d | nn.ConvTranspose2d, value: Value) -> Value:
    weight, bias = _need(bank, module, "weight").flatten(0, 1), _flat(bank, module, "bias")
    function: Any = (
        F.conv_transpose1d if isinstance(module, nn.ConvTranspose1d) else F.conv_transpose2d
    )
    y = function(
        folded(value, bank.g), weight, bias, module.stride, module.padding, module.output_padding,
        bank.g * module.groups, module.dilation,
    )  # fmt: skip
    return Value(y, "folded")


def batch_norm(bank: Bank, module: nn.BatchNorm1d | nn.BatchNorm2d, value: Value) -> Value:
    """All members' channels are channels of one batch norm."""
    if module.momentum is None or module.running_mean is None:
        return each(bank, module, value)
    if module.training and module.num_batches_tracked is not None:
        _need(bank, module, "num_batches_tracked").add_(1)
    rank = len(value.shape(bank.g))
    rows = members(value, bank.g).transpose(0, 1).flatten(1) if rank == 2 else None
    x = folded(value, bank.g) if rows is None else rows  # (B, g * C, ...)
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (_flat(bank, module, name) for name in names)
    y = F.batch_norm(x, mean, variance, weight, bias, module.training, module.momentum, module.eps)
    if rank == 2:
        return Value(y.unflatten(1, (bank.g, -1)).transpose(0, 1), "members")
    return Value(y, "folded")


def layer_norm(bank: Bank, module: nn.LayerNorm, value: Value) -> Value:
    x = members(value, bank.g)
    y = F.layer_norm(x, list(module.normalized_shape), eps=module.eps)
    ones = (1,) * (x.dim() - 1 - len(module.normalized_shape))
    for name, combine in (("weight", torch.mul), ("bias", torch.add)):
        if (tensor := bank.of(module, name)) is not None:
            y = combine(y, tensor.view(bank.g, *ones, *tensor.shape[1:]))
    return Value(y, "members")


def group_norm(bank: Bank, module: nn.GroupNorm, value: Value) -> Value:
    weight, bias = _flat(bank, module, "weight"), _flat(bank, module, "bias")
    if len(value.shape(bank.g)) == 2:
        return each(bank, module, value)
    x = folded(value, bank.g)
    y = F.group_norm(x, bank.g * module.num_groups, weight, bias, module.eps)
    return Value(y, "folded")


def embedding(bank: Bank, module: nn.Embedding, value: Value) -> Value:
    """One table of all members' rows."""
    rules = (module.padding_idx, module.max_norm, module.sparse or None)
    if module.scale_grad_by_freq or any(rule is not None for rule in rules):
        return each(bank, module, value)
    table = _need(bank, module, "weight")  # (g, words, numbers)
    x = members(value, bank.g)
    if x.device.type == "cpu" and x.numel() and not 0 <= x.min() <= x.max() < table.shape[1]:
        raise IndexError("index out of range in self")  # it would be another member's row
    first = torch.arange(bank.g, device=x.device) * table.shape[1]
    first = first.view(bank.g, *[1] * (x.dim() - 1))
    return Value(F.embedding(x + first, table.flatten(0, 1)), "members")


def elementwise(bank: Bank, module: nn.Module, value: Value) -> Value:
    data = value.data
    if getattr(module, "inplace", False) and value.layout == "shared":
        data = data.clone()  # it is the other members' input too
    return Value(module(data), value.layout)


def dropout(bank: Bank, module: nn.Dropout, value: Value) -> Value:
    """Every member draws for itself."""
    return dropped(bank, value, module.p) if module.training else value


def dropped(bank: Bank, value: Value, rate: float) -> Value:
    """Dropout of what may be the same for all, of which each member keeps another part."""
    data = members(value, bank.g).contiguous() if value.layout == "shared" else value.data
    layout = "members" if value.layout == "shared" else value.layout
    return Value(chance.drop(bank, data, rate, layout), layout)


def drop(bank: Bank, module: nn.Module, value: Value) -> Value:
    """Every member draws for itself."""
    if module.training and bank.generators:
        return each(bank, module, value)
    if not module.training or value.layout != "shared":
        return elementwise(bank, module, value)
    return Value(module(members(value, bank.g).contiguous()), "members")


def drop_channels(bank: Bank, module: nn.Module, value: Value) -> Value:
    if not module.training:
        return value
    if bank.generators or len(value.shape(bank.g)) != _axes(module):
        return each(bank, module, value)
    return Value(module(folded(value, bank.g)), "folded")


def channelwise(bank: Bank, module: nn.Module, value: Value) -> Value:
    """Pooling: every channel for itself."""
    if getattr(module, "return_indices", False) or len(value.shape(bank.g)) != _axes(module):
        return each(bank, module, value)
    if value.layout == "shared":
        return Value(module(value.data), "shared")
    return Value(module(folded(value, bank.g)), "folded")


def _axes(module: nn.Module) -> int:
    """Of a batch for a layer of a kind like MaxPool2d: rows, channels and its own."""
    return 2 + int(type(module).__name__[-2])


def flatten(bank: Bank, module: nn.Flatten, value: Value) -> Value:
    if value.layout == "shared":
        return Value(module(value.data), "shared")
    start, end = (dim if dim < 0 else dim + 1 for dim in (module.start_dim, module.end_dim))
    return Value(members(value, bank.g).flatten(start, end), "members")


def _flat(bank: Bank, module: nn.Module, name: str) -> Tensor | None:
    """One number a channel of all members; a view, so statistics move with it."""
    tensor = bank.of(module, name)
    return None if tensor is None else tensor.flatten()


def _need(bank: Bank, module: nn.Module, name: str) -> Tensor:
    tensor = bank.of(module, name)
    assert tensor is not None
    return tensor


_ELEMENTWISE = (
    "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish "
    "ReLU ReLU6 SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink Threshold"
)
_POOLS = [
    f"{kind}Pool{n}d" for kind in ("Max", "Avg", "AdaptiveAvg", "AdaptiveMax") for n in (1, 2)
]
LAYERS: dict[type[nn.Module], Layer] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.ConvTranspose1d: transposed,
    nn.ConvTranspose2d: transposed,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.LayerNorm: layer_norm,
    nn.GroupNorm: group_norm,
    nn.Embedding: embedding,
    nn.Dropout: dropout,
    nn.AlphaDropout: drop,
    nn.Dropout1d: drop_channels,
    nn.Dropout2d: drop_channels,
    nn.Flatten: flatten,
    **{getattr(nn, name): elementwise for name in _ELEMENTWISE.split()},
    **{getattr(nn, name): channelwise for name in _POOLS},
}
"""By exact type: what a subclass changes is not known here."""
