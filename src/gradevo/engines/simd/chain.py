"""A member as a chain of layers, one after another, or the reason why it is none."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from gradevo.engines.batched.graph import trace
from gradevo.engines.check import Declined
from gradevo.engines.criteria import ignored, kind_of, smoothing
from gradevo.engines.simd.layout import Kind, Loss

ACTIVATIONS: dict[type[nn.Module], Kind] = {
    nn.ReLU: Kind.RELU, nn.Tanh: Kind.TANH, nn.Sigmoid: Kind.SIGMOID, nn.GELU: Kind.GELU,
}  # fmt: skip
FUNCTIONS: dict[Any, Kind] = {
    F.relu: Kind.RELU, torch.relu: Kind.RELU, "relu": Kind.RELU, F.gelu: Kind.GELU,
    F.tanh: Kind.TANH, torch.tanh: Kind.TANH, "tanh": Kind.TANH,
    F.sigmoid: Kind.SIGMOID, torch.sigmoid: Kind.SIGMOID, "sigmoid": Kind.SIGMOID,
}  # fmt: skip


class Unchained(Declined):
    """The member is no chain of known layers; the message is one line that says why."""


@dataclass(frozen=True)
class Link:
    """A layer of a chain.

    Attributes:
        kind: what it computes.
        ins: numbers of a row that go in.
        outs: and that come out.
        module: the population's own, whose tensors it uses; None: it has none.
        relu: whether relu follows (linear layers).
        numbers: dropout's rate and scale, or a norm's eps and momentum.
        active: in train mode (norms).
    """

    kind: Kind
    ins: int
    outs: int
    module: nn.Module | None = None
    relu: bool = False
    numbers: tuple[float, float] = (0.0, 0.0)
    active: bool = False


@dataclass(frozen=True)
class Chain:
    """Layers one after another.

    Attributes:
        links: the layers.
        flattens: whether a row may have several axes, which come to lie in a line first.
    """

    links: list[Link]
    flattens: bool


def chain_of(member: nn.Module, stacked: nn.Module) -> Chain:
    """The layers of a member in the modes that its parts are in.

    Args:
        member: an ordinary module of its own.
        stacked: the population's module, of the same parts.

    Raises:
        Unchained: it has other layers or a graph that branches.
        Untraceable: its forward cannot be written as a graph.
    """
    kinds = {torch.float32}
    if {p.dtype for p in member.parameters()} != kinds or next(member.parameters()).is_cuda:
        raise Unchained("its weights are not float32 on the CPU")
    graph = trace(member)
    if type(stacked) is nn.Linear:  # the trace shows what is in it
        return Chain([Link(Kind.LINEAR, stacked.in_features, stacked.out_features, stacked)], False)
    nodes, flattens = list(graph.nodes), False
    links: list[Link] = []
    width = _first_width(nodes, stacked)
    for before, node in pairwise(nodes):
        if node.all_input_nodes != [before] or len(before.users) != 1:
            raise Unchained("its layers are not one after another")
        if node.op == "output":
            if node.args[0] is not before:
                raise Unchained("its output is not a tensor")
            break
        found = _link(node, stacked, width)
        if any(link.ins != width for link in found):
            raise Unchained("a layer is not as wide as the one before it")
        flattens |= not links and not found and type(_module(node, stacked)) is not nn.Identity
        links += found
        width = links[-1].outs if links else width
    _check(links, stacked)
    return Chain(_fused(links), flattens)


def _module(node: fx.Node, stacked: nn.Module) -> nn.Module | None:
    return stacked.get_submodule(str(node.target)) if node.op == "call_module" else None


def _first_width(nodes: list[fx.Node], stacked: nn.Module) -> int:
    """Numbers of a row, which the first layer with weights tells."""
    for node in nodes:
        module = _module(node, stacked)
        if type(module) is nn.Linear:
            return module.in_features
        if type(module) is nn.BatchNorm1d:
            return module.num_features
    raise Unchained("it has no linear layer")


def _link(node: fx.Node, stacked: nn.Module, width: int) -> list[Link]:
    """A node as one layer, or none where it does nothing to rows."""
    module = _module(node, stacked)
    if _flattens(node, module):
        return []
    if type(module) is nn.Linear:
        return [Link(Kind.LINEAR, module.in_features, module.out_features, module)]
    if type(module) is nn.BatchNorm1d:
        return [_norm(module)]
    if type(module) is nn.Dropout:
        rate = module.p
        scale = 1 / (1 - rate) if rate < 1 else 0.0
        quiet = not module.training or rate == 0
        return [] if quiet else [Link(Kind.DROPOUT, width, width, numbers=(rate, scale))]
    kind = FUNCTIONS.get(node.target) if module is None else ACTIVATIONS.get(type(module))
    settings = {k: v for k, v in node.kwargs.items() if k != "inplace"}
    plain = getattr(module, "approximate", "none") == "none" and not settings
    if kind is None or not plain or len(node.args) > 1:
        raise Unchained(f"it has {_name(node, module)}")
    return [Link(kind, width, width)]


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node only lays a row's numbers one after another."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    if node.target in (torch.flatten, "flatten"):
        return node.args[1:] == (1,) and not node.kwargs
    return type(module) is nn.Identity


def _norm(module: nn.BatchNorm1d) -> Link:
    if not module.affine or module.momentum is None or module.running_mean is None:
        raise Unchained("it has a batch norm without weights, statistics or momentum")
    width, numbers = module.num_features, (module.eps, module.momentum)
    return Link(Kind.NORM, width, width, module, numbers=numbers, active=module.training)


def _name(node: fx.Node, module: nn.Module | None) -> str:
    return str(node.target) if module is None else type(module).__name__


def _check(links: list[Link], stacked: nn.Module) -> None:
    """A chain must use every parameter, each once."""
    modules = [link.module for link in links if link.module is not None]
    used = [id(p) for module in modules for p in module.parameters()]
    if len(set(used)) < len(used):
        raise Unchained("a weight is used twice")
    if {id(p) for p in stacked.parameters()} != set(used):
        raise Unchained("it has weights outside its layers")
    if not any(p.requires_grad for p in stacked.parameters()):
        raise Unchained("nothing in it learns")


def _fused(links: list[Link]) -> list[Link]:
    """Relu as the end of the linear layer before it."""
    fused: list[Link] = []
    for link in links:
        last = fused[-1] if fused else None
        if link.kind == Kind.RELU and last and last.kind == Kind.LINEAR and not last.relu:
            fused[-1] = Link(Kind.LINEAR, last.ins, last.outs, last.module, relu=True)
        else:
            fused.append(link)
    return fused


def loss_of(loss: Any, links: list[Link]) -> Loss | None:
    """The kernel's own form of a loss of these layers' outputs; None: it has none."""
    name = kind_of(loss)
    if name is None:
        return None
    if name == "CROSS_ENTROPY":
        every = not 0 <= ignored(loss) < links[-1].outs  # class counts
        return Loss[name] if every and smoothing(loss) == 0 else None
    unsure = name == "BCE" and links[-1].kind != Kind.SIGMOID  # torch checks its range
    return None if unsure else Loss[name]
