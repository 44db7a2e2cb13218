"""Dropout from a generator of one's own, so that threads do not take turns at torch's."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, fx, nn


def drop(data: Tensor, rate: float, generator: Generator | None) -> Tensor:
    """Zeros some numbers and scales the others; without a generator, by torch's global one."""
    if generator is None or rate in (0, 1):
        return F.dropout(data, rate, True)
    kept = torch.empty_like(data).bernoulli_(1 - rate, generator=generator)
    return data * kept.div_(1 - rate)


def drops(nodes: list[fx.Node], stacked: nn.Module) -> bool:
    """Whether a graph has dropout, in the modes its parts are in."""
    return any(_drops(node, stacked) for node in nodes)


def _drops(node: fx.Node, stacked: nn.Module) -> bool:
    if node.op == "call_module":
        parts = stacked.get_submodule(str(node.target)).modules()
        return any(_draws(part) and part.training for part in parts)
    return node.target is F.dropout


def _draws(part: nn.Module) -> bool:
    if isinstance(part, nn.MultiheadAttention):
        return part.dropout > 0
    return type(part) is nn.Dropout


def generators(count: int) -> list[Generator]:
    """CPU generators, started from torch's global one."""
    seeds = torch.randint(2**62, (count,)).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]
