"""A member's forward as a graph, and its run for many members."""

import inspect
import random
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from gradevo.engines.batched import functions
from gradevo.engines.batched.attention import part
from gradevo.engines.batched.bank import Bank
from gradevo.engines.batched.values import Value, is_tensor, members
from gradevo.randomness import TURN
from gradevo.trees import Tree, arguments


class Untraceable(Exception):
    """The forward cannot be written as a graph; the message is one line that says why."""


class _Tracer(fx.Tracer):
    """Buffers are parts of the graph, so that one that the forward assigns is noticed."""

    proxy_buffer_attributes = True

    def create_node(self, *arguments: Any, **named: Any) -> fx.Node:
        if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") != self.autocast:
            raise Untraceable("it switches gradients or autocast")
        return super().create_node(*arguments, **named)

    def trace(self, *arguments: Any, **named: Any) -> fx.Graph:
        self.autocast = torch.is_autocast_enabled("cpu")
        return super().trace(*arguments, **named)


def trace(member: nn.Module, inputs: Collection[str] | None = None) -> fx.Graph:
    """The graph of a module's forward in the mode it is in.

    Args:
        member: an ordinary module of its own: tracing may leave marks on it.
        inputs: names of the arguments that are given; None: the first.

    Raises:
        Untraceable: the forward looks at numbers, writes to a buffer, or has hooks.
    """
    hooks = ("forward", "forward_pre", "backward", "backward_pre")
    if any(getattr(part, f"_{kind}_hooks") for part in member.modules() for kind in hooks):
        raise Untraceable("it has hooks")
    if any(buffer.layout != torch.strided for buffer in member.buffers()):
        raise Untraceable("it has a sparse buffer")
    member.to("meta")  # so that whoever looks at a weight's numbers is found out
    buffers, draws, state = _buffers(member), _random_state(), _plain_state(member)
    try:
        with TURN, torch.inference_mode(False), torch.enable_grad():  # torch is changed for a while
            graph = _Tracer().trace(member, _defaults(member, inputs))
    except Exception as error:  # whatever a forward does with a stand-in for a tensor
        first = str(error).strip().partition("\n")[0]
        raise Untraceable(f"{type(error).__name__}: {first}") from None
    if _random_state() != draws:
        raise Untraceable("it draws random numbers of its own")
    if _plain_state(member) != state:
        raise Untraceable("it changes a number of its own")
    if any(t.is_meta for n, t in vars(member).items() if n.startswith("_tensor_constant")):
        raise Untraceable("it computes with weights beside the graph")
    if assigned := [n for n, b in _buffers(member).items() if b is not buffers.get(n)]:
        raise Untraceable(f"it assigns to {assigned[0]}")
    for node in graph.nodes:
        if _writes(node):
            raise Untraceable(f"{node.target} writes into a tensor")
    _pool_first(graph, member)
    return graph


def _pool_first(graph: fx.Graph, member: nn.Module) -> None:
    """Swap relu and the max pooling after it: the same numbers, fewer of them to go through."""
    for node in list(graph.nodes):
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or len(before.users) > 1:
            continue
        if _is(node, member, nn.MaxPool2d, _POOLS) and _is(before, member, nn.ReLU, _RELUS):
            node.replace_all_uses_with(before)
            node.args = (before.args[0], *node.args[1:])
            before.args = (node, *before.args[1:])
            node.append(before)


_POOLS, _RELUS = (F.max_pool2d, torch.max_pool2d), (F.relu, torch.relu, "relu")


def _is(node: fx.Node, member: nn.Module, kind: type[nn.Module], functions: Any) -> bool:
    """Whether a node calls a layer of a kind, or one of its functions."""
    if node.op == "call_module":
        module = member.get_submodule(str(node.target))
        return type(module) is kind and not getattr(module, "return_indices", False)
    return node.target in functions and not node.kwargs.get("return_indices")


def _random_state() -> tuple[Any, ...]:
    numbers = np.random.get_state(legacy=False)
    return torch.get_rng_state().tolist(), random.getstate(), repr(numbers)


def _plain_state(module: nn.Module) -> list[dict[str, Any]]:
    """Numbers and words that a module's parts keep beside their tensors."""
    simple = (bool, int, float, complex, str, type(None))
    return [{n: value for n, value in vars(part).items() if isinstance(value, simple)}
            for part in module.modules()]  # fmt: skip


def _defaults(member: nn.Module, inputs: Collection[str] | None) -> dict[str, Any]:
    """Arguments that are not given are what they are by default: a forward may ask for them."""
    parameters = list(inspect.signature(member.forward).parameters.values())
    given = [p.name for p in parameters[:1]] if inputs is None else inputs
    others = [p for p in parameters if p.name not in given]
    return {p.name: p.default for p in others if p.default is not p.empty}


def named_inputs(member: nn.Module, x: Tree) -> dict[str, Any] | None:
    """Inputs by the names of a forward's arguments; None for a tensor, its first one."""
    if isinstance(x, Tensor):
        return None
    inputs, named = arguments(x)
    return inspect.signature(member.forward).bind(*inputs, **named).arguments


def _buffers(module: nn.Module) -> dict[str, Any]:
    parts = module.named_modules()
    return {f"{place}.{n}".strip("."): b for place, part in parts for n, b in part._buffers.items()}


def _writes(node: fx.Node) -> bool:
    """Whether a node changes a tensor in place, which somebody may read again."""
    name = str(node.target)
    written = node.op == "call_method" and name.endswith("_") and not name.endswith("__")
    return written or "out" in node.kwargs


class Run:
    """A pass through a graph with the tensors of some members."""

    def __init__(self, graph: fx.Graph, stacked: nn.Module, constants: nn.Module) -> None:
        self.nodes = list(graph.nodes)
        self.stacked, self.constants = stacked, constants
        self.last = _last_readers(self.nodes)
        self.calls: dict[str, Callable[..., Any]] = {
            "call_module": self._module,
            "call_function": self._function,
            "call_method": self._method,
            "get_attr": self._attribute,
        }

    def __call__(self, bank: Bank, x: Any) -> Any:
        """Outputs of the members, `(g, ...)` each.

        Args:
            bank: the members' tensors.
            x: the input, a value; or several by their arguments' names, trees of values.
        """
        found: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node.op == "placeholder":
                found[node] = self._input(node, x, found)
                continue
            arguments, named = map_arg((node.args, node.kwargs), found.__getitem__)
            if node.op == "output":
                return pytree.tree_map(
                    lambda leaf: members(leaf, bank.g).contiguous() if is_tensor(leaf) else leaf,
                    arguments[0], is_leaf=is_tensor,
                )  # fmt: skip
            found[node] = self.calls[node.op](bank, node.target, arguments, named)
            for read in self.last.get(node, ()):
                del found[read]
        raise Untraceable("the graph has no output")

    def _input(self, node: fx.Node, x: Any, found: dict[fx.Node, Any]) -> Any:
        name = str(node.target)
        if isinstance(x, dict) and name.lstrip("*") in x:
            return x[name.lstrip("*")]
        if isinstance(x, dict) or any(other.op == "placeholder" for other in found):
            return {} if name.startswith("**") else () if name.startswith("*") else node.args[0]
        return (x,) if name.startswith("*") else x

    def _module(self, bank: Bank, target: str, arguments: Any, named: Any) -> Any:
        return part(bank, self.stacked.get_submodule(target), *arguments, **named)

    def _function(self, bank: Bank, target: Any, arguments: Any, named: Any) -> Any:
        if target is getattr:
            return functions.attribute(bank, *arguments)
        return functions.call(bank, target, arguments, named)

    def _method(self, bank: Bank, target: str, arguments: Any, named: Any) -> Any:
        return functions.method(bank, target, arguments, named)

    def _attribute(self, bank: Bank, target: str, arguments: Any, named: Any) -> Any:
        place, _, name = target.rpartition(".")
        owner = self.stacked.get_submodule(place)
        if name in owner._parameters or name in owner._buffers:
            tensor = bank.of(owner, name)
            return None if tensor is None else Value(tensor, "members")
        constant: Tensor = getattr(self.constants.get_submodule(place), name)
        return Value(constant, "shared") if torch.is_tensor(constant) else constant


def _last_readers(nodes: list[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """For every node the values that nobody reads after it, but for inputs."""
    reader = {read: node for node in nodes for read in node.all_input_nodes}
    dying: dict[fx.Node, list[fx.Node]] = {}
    for read, node in reader.items():
        if read.op != "placeholder":
            dying.setdefault(node, []).append(read)
    return dying
