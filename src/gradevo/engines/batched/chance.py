"""Dropout from generators of the members' own, so that threads do not take turns."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, fx, nn

from gradevo.engines.batched.bank import Bank
from gradevo.engines.batched.values import Layout
from gradevo.randomness import draws, generator_from

KINDS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
    nn.RReLU,
)  # fmt: skip


def drop(bank: Bank, data: Tensor, rate: float, layout: Layout = "members") -> Tensor:
    """Zeros some numbers and scales the others; without generators, by torch's global one."""
    if not bank.generators or rate in (0, 1):
        return F.dropout(data, rate, True)
    kept = torch.empty_like(data)
    rows = kept.unflatten(1, (bank.g, -1)).movedim(1, 0) if layout == "folded" else kept
    own = torch.empty(rows.shape[1:], dtype=data.dtype)
    for row, generator in zip(rows, bank.generators, strict=True):
        row.copy_(own.bernoulli_(1 - rate, generator=generator))
    return data * kept.div_(1 - rate)


def drops(nodes: list[fx.Node], stacked: nn.Module) -> bool:
    """Whether a graph has dropout, in the modes its parts are in."""
    return any(_drops(node, stacked) for node in nodes)


def _drops(node: fx.Node, stacked: nn.Module) -> bool:
    if node.op == "call_module":
        return draws_in(stacked.get_submodule(str(node.target)))
    return node.target is F.dropout


def draws_in(module: nn.Module) -> bool:
    """Whether a module, in the modes its parts are in, draws random numbers that we know of."""
    return any(part.training and _draws(part) for part in module.modules())


def _draws(part: nn.Module) -> bool:
    rate = getattr(part, "dropout", 0.0)  # of attention and recurrent layers
    return isinstance(part, KINDS) or (isinstance(rate, float) and rate > 0)


def generators(count: int, first: int) -> list[Generator]:
    """CPU generators of so many members: a run's own, else started from torch's global one."""
    found = draws()
    if found is not None:
        return [generator_from(found.seed(first + i)) for i in range(count)]
    return [generator_from(seed) for seed in torch.randint(2**62, (count,)).tolist()]
