"""Attention for all members at once: members' batches are rows of one larger batch.

Masks and dropout are those of `torch.nn.MultiheadAttention`. What is rare there (keys of another
width, a learnt extra key, one sequence without a batch) is computed member by member.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradevo.engines.batched import chance, functions
from gradevo.engines.batched.bank import Bank
from gradevo.engines.batched.each import each
from gradevo.engines.batched.layers import LAYERS, linear_of
from gradevo.engines.batched.values import Value, is_tensor, members


def part(bank: Bank, module: nn.Module, *arguments: Any, **named: Any) -> Any:
    """What a module gives, in the batched form that there is for it."""
    if (whole := WHOLE.get(type(module))) is not None:
        found = whole(bank, module, *arguments, **named)
        return each(bank, module, *arguments, **named) if found is None else found
    layer = LAYERS.get(type(module))
    if layer is None or len(arguments) != 1 or named or not is_tensor(arguments[0]):
        return each(bank, module, *arguments, **named)
    return layer(bank, module, arguments[0])


def encoder(
    bank: Bank, module: Any, src: Any, mask: Any = None, src_key_padding_mask: Any = None,
    is_causal: bool | None = None,
) -> Any:  # fmt: skip
    """A stack of encoder layers; None where torch takes a way of its own."""
    if src_key_padding_mask is not None and not module.training:
        return None  # torch may give zeros where there is padding
    for layer in module.layers:
        src = part(bank, layer, src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
    return src if module.norm is None else part(bank, module.norm, src)


def encoder_layer(
    bank: Bank, module: Any, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None,
    is_causal: bool = False,
) -> Any:  # fmt: skip
    """Attention and two linear layers, each with a residual and a norm, before or after."""
    if not is_tensor(src) or (src_key_padding_mask is not None and not module.training):
        return None

    def mix(x: Value) -> Value:
        masks = {"attn_mask": src_mask, "key_padding_mask": src_key_padding_mask}
        mixed, _ = part(bank, module.self_attn, x, x, x, need_weights=False, **masks)
        return part(bank, module.dropout1, mixed)

    def feed(x: Value) -> Value:
        wide = _activated(bank, module.activation, part(bank, module.linear1, x))
        narrow = part(bank, module.linear2, part(bank, module.dropout, wide))
        return part(bank, module.dropout2, narrow)

    for block, norm in ((mix, module.norm1), (feed, module.norm2)):
        if module.norm_first:
            src = _sum(bank, src, block(part(bank, norm, src)))
        else:
            src = part(bank, norm, _sum(bank, src, block(src)))
    return src


def attention(
    bank: Bank, module: Any, query: Any, key: Any, value: Any, key_padding_mask: Any = None,
    need_weights: bool = True, attn_mask: Any = None, average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:  # fmt: skip
    """Outputs and, where asked for, weights; None for what has no batched form."""
    if not _usual(bank, module, (query, key, value), attn_mask, is_causal):
        return None
    q, k, v = (_heads(module, x) for x in _projected(bank, module, query, key, value))
    mask = _mask(bank, q, attn_mask, key_padding_mask)
    rate = module.dropout if module.training else 0.0
    if need_weights or rate:
        mixed, weights = _explicit(bank, q, k, v, mask, rate)
    else:
        mixed, weights = F.scaled_dot_product_attention(q, k, v, mask), None
    mixed = mixed.unflatten(0, (bank.g, -1))  # (g, B, heads, T, d)
    order = (0, 1, 3, 2, 4) if module.batch_first else (0, 3, 1, 2, 4)
    joined = Value(mixed.permute(order).flatten(-2), "members")
    last = module.out_proj
    output = linear_of(bank, joined, _of(bank, last, "weight"), bank.of(last, "bias"))
    if not need_weights or weights is None:
        return output, None
    weights = weights.unflatten(0, (bank.g, -1))
    return output, Value(weights.mean(dim=2) if average_attn_weights else weights, "members")


# --- parts -------------------------------------------------------------------------


def _usual(bank: Bank, module: Any, inputs: Any, mask: Any, is_causal: bool) -> bool:
    """Whether inputs are batches of one width, and a mask is one for all rows and heads."""
    if not all(is_tensor(x) and len(x.shape(bank.g)) == 3 for x in inputs):
        return False
    extra = module.bias_k is not None or module.add_zero_attn
    if extra or not module._qkv_same_embed_dim:
        return False
    if mask is None:
        return not is_causal
    return is_tensor(mask) and len(mask.shape(bank.g)) == 2


def _projected(bank: Bank, module: Any, query: Value, key: Value, value: Value) -> list[Tensor]:
    """Queries, keys and values: one product where they are of the same rows."""
    weight, bias = _of(bank, module, "in_proj_weight"), bank.of(module, "in_proj_bias")
    if query is key and key is value:
        return list(linear_of(bank, query, weight, bias).data.chunk(3, dim=-1))
    weights = weight.chunk(3, dim=1)
    biases = [None] * 3 if bias is None else bias.chunk(3, dim=1)
    parts = zip((query, key, value), weights, biases, strict=True)
    return [linear_of(bank, x, w, b).data for x, w, b in parts]


def _heads(module: Any, rows: Tensor) -> Tensor:
    """`(g * B, heads, T, d)` of what is `(g, B, T, E)`, or `(g, T, B, E)`."""
    split = rows.unflatten(-1, (module.num_heads, module.head_dim))
    return split.permute((0, 1, 3, 2, 4) if module.batch_first else (0, 2, 3, 1, 4)).flatten(0, 1)


def _mask(bank: Bank, q: Tensor, attn_mask: Any, padding: Any) -> Tensor | None:
    """What is added to the products, `(T, S)` or `(g * B, 1, T or 1, S)`."""
    parts = []
    if attn_mask is not None:
        if attn_mask.layout == "shared" and padding is None:
            return _added(attn_mask.data, q)
        parts.append(_added(members(attn_mask, bank.g), q)[:, None])  # (g, 1, T, S)
    if padding is not None:
        parts.append(_added(members(padding, bank.g), q)[:, :, None])  # (g, B, 1, S)
    if not parts:
        return None
    rows = sum(parts)
    assert torch.is_tensor(rows)
    return rows.expand(-1, len(q) // bank.g, -1, -1).flatten(0, 1).unsqueeze(1)


def _added(mask: Tensor, q: Tensor) -> Tensor:
    """A mask as numbers to add: True means left out."""
    if mask.dtype != torch.bool:
        return mask.to(q.dtype)
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, -math.inf)


def _explicit(
    bank: Bank, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float
) -> tuple[Tensor, Tensor]:
    """Attention with its weights, of which dropout leaves some out."""
    scores = torch.matmul(q / math.sqrt(q.shape[-1]), k.mT)
    weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
    if rate:
        weights = chance.drop(bank, weights.unflatten(0, (bank.g, -1)), rate).flatten(0, 1)
    return torch.matmul(weights, v), weights


def _activated(bank: Bank, activation: Any, value: Value) -> Value:
    if isinstance(activation, nn.Module):
        return part(bank, activation, value)
    return functions.call(bank, activation, (value,), {})


def _sum(bank: Bank, one: Value, other: Value) -> Value:
    return functions.call(bank, torch.add, (one, other), {})


def _of(bank: Bank, module: nn.Module, name: str) -> Tensor:
    tensor = bank.of(module, name)
    assert tensor is not None
    return tensor


WHOLE: dict[type[nn.Module], Any] = {
    nn.MultiheadAttention: attention,
    nn.TransformerEncoderLayer: encoder_layer,
    nn.TransformerEncoder: encoder,
}
