"""A module with a layer for every use of a weight, so that tied weights can be told apart.

`gradevo.operators.symmetry` understands chains of layers that own their tensors. An auto-encoder
whose decoder is `F.linear(h, self.weight.t(), self.bias)` is one too, once that call is a layer;
so it is given a twin that computes the same, and a record of where the twin's tensors are from.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from gradevo.operators.alignment import Unaligned
from gradevo.randomness import preserved

_SWAPS = [(0, 1), (1, 0), (-1, -2), (-2, -1)]
_TURNS: dict[tuple[str, Any], list[tuple[int, ...]]] = {  # a transpose -> arguments after the first
    ("call_method", "t"): [()],
    ("call_method", "transpose"): _SWAPS,
    ("call_function", torch.t): [()],
    ("call_function", torch.transpose): _SWAPS,
}
_TURNED = ("T", "mT")  # attributes that are a matrix's transpose
_ABOUT = ("dtype", "device", "requires_grad")  # attributes that no removal of units changes


@dataclass(frozen=True)
class Origin:
    """Where a tensor of the twin is from.

    Attributes:
        name: of the tensor in the module, its first one if it has several.
        turned: whether the twin holds the transpose.
    """

    name: str
    turned: bool = False

    def dim(self, dim: int) -> int:
        """The dimension of the module's tensor that is `dim` of the twin's."""
        return 1 - dim if self.turned else dim


@dataclass(frozen=True)
class Untied:
    """A twin of a module that has tied nothing.

    Attributes:
        module: the twin.
        origins: parameters and buffers of the twin, and where they are from.
        made: names of layers that are calls of a function in the module.
    """

    module: nn.Module
    origins: dict[str, Origin]
    made: frozenset[str]

    def uses(self, name: str) -> int:
        """How often a tensor of the module is used."""
        return sum(origin.name == name for origin in self.origins.values())


def untie(module: nn.Module) -> Untied:
    """The twin of a module in which every use of a weight is a layer with a copy of its own.

    A module without such calls and without ties has an equal twin. What `torch.fx` cannot
    trace is left as it is.

    Raises:
        Unaligned: a parameter is read by something else than a layer; one line.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        >>> net[2].weight = net[0].weight
        >>> [origin.name for origin in untie(net).origins.values()]
        ['0.weight', '0.bias', '0.weight', '2.bias']
    """
    twin = copy.deepcopy(module)
    first = {id(p): name for name, p in twin.named_parameters()}
    graph = _traced(twin)
    made = {} if graph is None else _lift(twin, graph)
    if graph is not None:
        _check_read_by_layers(twin, graph)
    if graph is not None and made:
        twin = fx.GraphModule(twin, graph, type(module).__name__)
    owned = {name: origin for layer in made.values() for name, origin in layer.items()}
    return Untied(twin, _separated(twin, first, owned), frozenset(made))


def _traced(module: nn.Module) -> fx.Graph | None:
    try:
        with preserved():
            return fx.Tracer().trace(module)
    except Exception:  # whatever a user's forward may raise on a proxy
        return None


def _lift(twin: nn.Module, graph: fx.Graph) -> dict[str, dict[str, Origin]]:
    """Turn calls of `F.linear` into layers; their names, and where their tensors are from."""
    made: dict[str, dict[str, Origin]] = {}
    known = {name for name, _ in twin.named_parameters()}
    for node in list(graph.nodes):
        given = _given(node) if node.target is F.linear else {}
        read = {
            key: _origin(given[key]) for key in ("weight", "bias") if given.get(key) is not None
        }
        owned = {key: origin for key, origin in read.items() if origin and origin.name in known}
        if given and owned.keys() == read.keys() and not owned.get("bias", Origin("")).turned:
            name = _free_name(twin, node.name)
            twin.add_module(name, _layer(twin, owned["weight"], owned.get("bias")))
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.call_module(name, (given["input"],)))
            graph.erase_node(node)
            made[name] = {f"{name}.{key}": origin for key, origin in owned.items()}
    for node in reversed(graph.nodes):
        if not node.users and _origin(node):
            graph.erase_node(node)
    return made


def _given(node: fx.Node) -> dict[str, Any]:
    return dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs


def _free_name(twin: nn.Module, name: str) -> str:
    while hasattr(twin, name):
        name += "_"
    return name


def _origin(node: Any) -> Origin | None:
    """Which attribute of the module a node is, or is the transpose of."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        return Origin(str(node.target))
    source = _origin(node.args[0]) if _turns(node) else None
    return None if source is None else Origin(source.name, not source.turned)


def _turns(node: fx.Node) -> bool:
    """Whether a node is a transpose of its first argument."""
    if node.target is getattr:
        return node.args[1] in _TURNED
    rest = tuple(node.args[1:])
    return not node.kwargs and rest in _TURNS.get((node.op, node.target), [])


def _layer(twin: nn.Module, weight: Origin, bias: Origin | None) -> nn.Linear:
    """A layer with copies of the tensors that a call reads."""
    matrix = _tensor(twin, weight.name).detach().clone()
    matrix = matrix.t().contiguous() if weight.turned else matrix
    rows, columns = matrix.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(matrix)
    if bias is not None:
        layer.bias = nn.Parameter(_tensor(twin, bias.name).detach().clone())
    return layer.train(twin.training)


def _tensor(module: nn.Module, name: str) -> torch.Tensor:
    owner, _, key = name.rpartition(".")
    return getattr(module.get_submodule(owner), key)


def _check_read_by_layers(twin: nn.Module, graph: fx.Graph) -> None:
    """Raise if anything but a layer computes with a parameter."""
    for node in graph.nodes:
        parameter = node.op == "get_attr" and isinstance(
            _tensor(twin, str(node.target)), nn.Parameter
        )
        if parameter and not all(_asks_about(user) for user in node.users):
            raise Unaligned(f"{type(twin).__name__}: {node.target} is read outside of a layer")


def _asks_about(node: fx.Node) -> bool:
    return node.target is getattr and node.args[1] in _ABOUT


def _separated(
    twin: nn.Module, first: dict[int, str], owned: dict[str, Origin]
) -> dict[str, Origin]:
    """Give every layer a tensor of its own, and say where each is from."""
    origins: dict[str, Origin] = {}
    met: set[int] = set()
    for name, parameter in list(twin.named_parameters(remove_duplicate=False)):
        origins[name] = owned[name] if name in owned else Origin(first[id(parameter)])
        if id(parameter) in met:
            _set_parameter(twin, name, parameter)
        met.add(id(parameter))
    return origins | dict(_buffers(twin))


def _set_parameter(twin: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, key = name.rpartition(".")
    own = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
    setattr(twin.get_submodule(owner), key, own)


def _buffers(twin: nn.Module) -> Iterator[tuple[str, Origin]]:
    return ((name, Origin(name)) for name, _ in twin.named_buffers())
