"""What has no batched form: each member's own call, and vmap where that is known to do."""

from collections.abc import Callable
from threading import RLock
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from gradevo.engines.batched.bank import Bank
from gradevo.engines.batched.chance import draws_in
from gradevo.engines.batched.values import Value, is_tensor, members
from gradevo.engines.buffers import lend, take_back
from gradevo.randomness import draws

_ONE_AT_A_TIME = RLock()  # a call with a member's tensors puts them into the module all share


def each(bank: Bank, module: nn.Module, *arguments: Any, **named: Any) -> Any:
    """A module of every member, one after another, on each one's part of the arguments."""
    with _ONE_AT_A_TIME:
        parameters, buffers = bank.named(module), bank.buffers(module)
        outputs, streams = [], bank.generators if draws() and draws_in(module) else []
        for i in range(bank.g):
            if streams:
                seed = int(torch.randint(2**62, (), generator=streams[i]))
                torch.default_generator.manual_seed(seed)
            mine = {name: tensor[i] for name, tensor in parameters.items()}
            own = {name: tensor[i] for name, tensor in buffers.items()}
            given = {**mine, **lend(own)}
            taken, named_taken = _part((arguments, named), i, bank.g)
            outputs.append(functional_call(module, given, taken, named_taken))
            take_back(own, given)
    return _stacked(outputs)


def mapped(bank: Bank, function: Callable[..., Any], arguments: Any, named: Any) -> Any:
    """A function without tensors of its own, over all members by vmap, else one by one."""
    leaves, tree = pytree.tree_flatten((arguments, named), is_leaf=is_tensor)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Value)]
    tensors = [members(leaves[i], bank.g) for i in places]

    def run(*rows: Any) -> Any:
        for i, row in zip(places, rows, strict=True):
            leaves[i] = row
        taken, named_taken = pytree.tree_unflatten(leaves, tree)
        return function(*taken, **named_taken)

    try:
        output = torch.func.vmap(run, randomness="different")(*tensors)
        return pytree.tree_map(_of_members, output)
    except (RuntimeError, ValueError, UserWarning):  # no batching rule, or a number asked for
        return in_turn(bank, function, arguments, named)


def in_turn(bank: Bank, function: Callable[..., Any], arguments: Any, named: Any) -> Any:
    """A function of every member, one after another."""
    outputs = []
    for i in range(bank.g):
        taken, named_taken = _part((arguments, named), i, bank.g)
        outputs.append(function(*taken, **named_taken))
    return _stacked(outputs)


def _part(arguments: Any, i: int, g: int) -> Any:
    """What member i sees."""

    def row(leaf: Any) -> Any:
        return members(leaf, g)[i] if isinstance(leaf, Value) else leaf

    return pytree.tree_map(row, arguments, is_leaf=is_tensor)


def _stacked(outputs: list[Any]) -> Any:
    """Members' outputs as values; what is no tensor must be the same for all."""

    def stack(*rows: Any) -> Any:
        if torch.is_tensor(rows[0]):
            return Value(torch.stack(rows), "members")
        if any(row != rows[0] for row in rows):
            raise ValueError("members differ in a number that is no tensor")
        return rows[0]

    return pytree.tree_map(stack, *outputs)


def _of_members(leaf: Any) -> Any:
    return Value(leaf, "members") if torch.is_tensor(leaf) else leaf
