"""The permutable hidden units of a module, found by tracing its forward.

The traced graph is walked from input to output as a chain: one value flows, and a hidden layer
is open from the layer that makes its units to the next layer that reads them. What is not known
to treat every unit alike is held against the open layer, and only counts once another layer
reads it: a softmax at the output is harmless, one in the middle is not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from gradevo import trees
from gradevo.operators.alignment import Axis, Symmetry, Unaligned, permute
from gradevo.randomness import preserved
from gradevo.trees import Tree

TOLERANCE = 1e-5  # largest change of an output, relative to their scale, that counts as none

_LENGTH = 7919  # what len(x) gives while tracing: python wants an int, so one that no shape has


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LAYERS = {nn.Linear: "features", nn.Conv1d: "1d", nn.Conv2d: "2d"}  # layer -> layout it makes
_SCALED: dict[type[nn.Module], Callable[[Any], int]] = {  # -> number of features it scales
    nn.BatchNorm1d: lambda module: module.num_features,
    nn.BatchNorm2d: lambda module: module.num_features,
    nn.LayerNorm: lambda module: module.normalized_shape[-1],
    nn.PReLU: lambda module: module.num_parameters,
}
_POOLS = {
    f"{kind}Pool{n}d" for kind in ("Max", "Avg", "AdaptiveAvg", "AdaptiveMax") for n in (1, 2)
}
_ELEMENTWISE_MODULES = _words(
    "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish "
    "ReLU ReLU6 RReLU SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink Threshold "
    "AlphaDropout Dropout Dropout1d Dropout2d FeatureAlphaDropout"
)
_POOL_FUNCTIONS = {
    f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2)
}
_ARITHMETIC = _words("add sub mul truediv div floordiv neg pow iadd isub imul itruediv")
_ELEMENTWISE = _ARITHMETIC | _words(
    "abs alpha_dropout celu clamp clone contiguous cos detach double dropout dropout1d dropout2d "
    "elu erf exp feature_alpha_dropout float gelu hardshrink hardsigmoid hardswish hardtanh "
    "leaky_relu log_sigmoid mish relu relu6 rrelu selu sigmoid silu sin softplus softshrink "
    "softsign square tanh tanhshrink threshold to"
)


def find_symmetry(module: nn.Module, example: Tree | None = None) -> Symmetry:
    """Return the hidden units of a module that may be permuted without changing its function.

    Before parents are crossed their units must be matched, and that must not change what they
    compute; so a module is either understood from input to output or declined with a reason.
    Understood are chains of Linear, Conv1d and Conv2d with elementwise activations, pooling,
    dropout, batch norm, layer norm over the hidden features, PReLU and a flatten, as a
    Sequential or as a forward that `torch.fx` can trace. The module is not altered.

    Args:
        module: The network; its forward takes tensors, batch axis first.
        example: A small batch of inputs, a tensor or a tree, default None. With it the symmetry
            is verified numerically too, and `view(-1, n)` is trusted as a flatten.

    Returns:
        The symmetry; without groups if there is no hidden layer.

    Raises:
        Unaligned: If units cannot be permuted or the module is not understood; one line.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> find_symmetry(net).units
        (8,)
        >>> [axis.name for axis in find_symmetry(net).groups[0]]
        ['0.weight', '0.bias', '2.weight']

    Source: Ainsworth et al. 2022, "Git Re-Basin", section 3 (permutation specifications);
    Reed et al. 2022, "torch.fx".
    """
    _check_untied(module)
    root = _root(module)
    chain = _Chain(root, trusting=example is not None)
    for node in _traced(root).nodes:
        chain.step(node)
    _check_covered(root, chain.owned)
    symmetry = Symmetry(tuple(chain.groups), tuple(chain.sizes))
    if example is not None and symmetry.groups:
        verify(module, symmetry, example)
    return symmetry


def verify(module: nn.Module, symmetry: Symmetry, example: Tree) -> None:
    """Check on inputs that random permutations keep what a module computes in eval mode.

    A wrong symmetry would scramble parents silently. The check runs on a double-precision copy
    on the CPU (single, where the forward insists on it), whose weights are shaken first: at
    initialisation many are equal, which would hide an error. Neither the module nor the global
    random state is touched.

    Args:
        module: The network.
        symmetry: What is claimed about it.
        example: A small batch of inputs.

    Raises:
        Unaligned: If the outputs differ by more than 1e-5 of their scale, or the example fails.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
        >>> verify(net, Symmetry(((Axis("0.weight", 0),),), (8,)), torch.ones(2, 4))
        Traceback (most recent call last):
        gradevo.operators.alignment.Unaligned: Sequential: permuting hidden units changes the output
    """
    try:
        expected, found = _outputs(module, symmetry, example, torch.float64)
    except Unaligned:  # its forward may insist on single precision, as with x.float()
        expected, found = _outputs(module, symmetry, example, torch.float32)
    if found.shape != expected.shape or not _close(found, expected):
        raise _because(module, "permuting hidden units changes the output")


def _outputs(
    module: nn.Module, symmetry: Symmetry, example: Tree, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return what a shaken copy of the module computes before and after random permutations."""
    generator = torch.Generator().manual_seed(0)
    twin = copy.deepcopy(module).cpu().to(dtype).eval()
    named = [*twin.named_parameters(), *twin.named_buffers()]
    state = {n: _shaken(t.detach(), generator) for n, t in named}
    orders = [torch.randperm(n, generator=generator)[None] for n in symmetry.units]  # (1, units)
    stacked = permute(symmetry, {n: t[None] for n, t in state.items()}, orders)
    inputs = trees.each(lambda t: _as(t.detach().cpu(), dtype), example)
    permuted = {n: t[0] for n, t in stacked.items()}
    return _output(twin, state, inputs), _output(twin, permuted, inputs)


def _shaken(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return floating entries scaled at random, zeros made positive; signs are kept."""
    if not tensor.is_floating_point():
        return tensor
    noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
    return tensor * (0.5 + noise) + 0.1 * noise * (tensor == 0)


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _output(twin: nn.Module, state: dict[str, Tensor], inputs: Tree) -> Tensor:
    try:
        with torch.no_grad(), preserved():
            output = torch.func.functional_call(twin, state, *trees.arguments(inputs))
    except Exception as error:  # whatever a user's forward may raise
        raise _because(twin, f"the example cannot be run ({_line(error)})") from error
    if not isinstance(output, Tensor):
        raise _because(twin, f"the output is a {type(output).__name__}, not a tensor")
    return output


def _close(found: Tensor, expected: Tensor) -> bool:
    if not expected.numel():
        return True
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _because(module: nn.Module, reason: str) -> Unaligned:
    return Unaligned(f"{type(module).__name__}: {reason}")


class _Sized(fx.Proxy):
    """A proxy that has a length, so that `x.view(len(x), -1)` can be traced."""

    def __len__(self) -> int:
        return _LENGTH


class _Tracer(fx.Tracer):
    """The tracer of torch.fx, kept from writing tensors made in a forward into the module."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Sized(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not self._owns(a):
            raise _because(self.root, "its forward makes a tensor of its own")
        return super().create_arg(a)

    def _owns(self, tensor: Tensor) -> bool:
        buffers = any(tensor is buffer for buffer in self.root.buffers())
        return buffers or isinstance(tensor, nn.Parameter) or tensor in self.tensor_attrs


def _root(module: nn.Module) -> nn.Module:
    """Return the module, in a Sequential if it is a lone layer, as a root is traced through."""
    return nn.Sequential(module) if _Tracer().is_leaf_module(module, "") else module


def _traced(module: nn.Module) -> fx.Graph:
    try:
        with preserved():
            return _Tracer().trace(module)
    except Unaligned:
        raise
    except Exception as error:  # whatever a user's forward may raise on a proxy
        raise _because(module, f"torch.fx cannot trace it ({_line(error)})") from error


def _check_untied(module: nn.Module) -> None:
    """Raise if a parameter or buffer has two names, as under a layer that is registered twice."""
    first: dict[int, str] = {}
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in named:
        if id(tensor) in first:
            raise _because(module, f"{first[id(tensor)]} and {name} are one tied tensor")
        first[id(tensor)] = name


def _check_covered(module: nn.Module, owned: set[int]) -> None:
    for name, parameter in module.named_parameters():
        if id(parameter) not in owned:
            raise _because(module, f"parameter {name} is outside the chain of layers")


class _Chain:
    """The walk along a traced graph: the value that flows and the hidden layer it carries."""

    def __init__(self, module: nn.Module, trusting: bool) -> None:
        self.module = module
        self.trusting = trusting  # whether view(-1, n) may be taken for a flatten
        self.groups: list[tuple[Axis, ...]] = []
        self.sizes: list[int] = []
        self.owned: set[int] = set()  # parameters of the layers met, by id
        self.value: fx.Node | None = None  # the newest value of the chain
        self.values: set[fx.Node] = set()
        self.shapes: dict[fx.Node, str] = {}  # "shape", "batch" or "number"
        self.called: set[int] = set()
        self.layout = "input"  # then "features" (..., C), "flat" (N, C*H*W), "1d" or "2d" maps
        self.units = 0
        self.open: list[Axis] = []
        self.obstacle = ""  # why the open units could not be permuted

    def step(self, node: fx.Node) -> None:
        """Take one node of the graph."""
        if node.op == "output":
            self._finish(node)
        elif node.op == "placeholder":
            self.value = self.value or node
            self.values.add(self.value)
        elif node.op != "get_attr" and not self._is_shape(node) and self._follow(node):
            self._apply(node)

    def _fail(self, reason: str) -> Unaligned:
        return _because(self.module, reason)

    def _finish(self, node: fx.Node) -> None:
        if node.args[0] is not self.value:
            raise self._fail("the output is not the one tensor at the end of a chain")

    def _is_shape(self, node: fx.Node) -> bool:
        """Note a node that holds a shape or a size; such nodes are no users of a value."""
        kind = self._shape_kind(_name(node), (*node.args, *node.kwargs.values()))
        if _name(node) in _ARITHMETIC and not set(node.all_input_nodes) - set(self.shapes):
            kind = "number"
        if kind:
            self.shapes[node] = kind
        return bool(kind)

    def _shape_kind(self, name: str, args: tuple[Any, ...]) -> str:
        """Return what x.shape, x.size(), x.size(i) or an item of a shape holds, "" if other."""
        first, rest = args[:1], args[1:]
        if name == "getitem" and self._shape(first[0]) == "shape":
            return _size(rest[0])
        if (name == "size" or rest == ("shape",)) and set(first) <= self.values:
            return "shape" if rest in ((), ("shape",)) else _size(rest[0])
        return ""

    def _shape(self, argument: Any) -> str:
        return self.shapes.get(argument, "") if isinstance(argument, fx.Node) else ""

    def _follow(self, node: fx.Node) -> bool:
        """Move the value on to a node that reads it, and tell whether the node does."""
        inputs = [n for n in node.all_input_nodes if n not in self.shapes]
        read = [n for n in inputs if n in self.values]
        if not read:
            return False
        if len(read) > 1:
            raise self._fail(f"{node.name} joins two paths (residual or concatenation)")
        if read[0] is not self.value:
            raise self._fail(f"{read[0].name} is read a second time, by {node.name}: a branch")
        if len(inputs) > 1:
            self._obstruct(f"{node.name} reads a tensor beside the chain")
        self.value = node
        self.values.add(node)
        return True

    def _obstruct(self, reason: str) -> None:
        self.obstacle = self.obstacle or reason

    def _apply(self, node: fx.Node) -> None:
        if node.op == "call_module":
            self._call(str(node.target), self.module.get_submodule(str(node.target)))
        else:
            self._compute(_name(node), node)

    def _call(self, name: str, module: nn.Module) -> None:
        """Take a module that the chain runs through."""
        self._claim(name, module)
        kind = type(module)
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and kind in _LAYERS:
            self._layer(name, module)
        elif kind in _SCALED:
            self._scaled(name, module, _SCALED[kind](module))
        elif kind is nn.Flatten:
            self._flatten((module.start_dim, module.end_dim) == (1, -1), name)
        elif _builtin(kind) and kind.__name__ in _POOLS:
            self._pool(name, kind.__name__)
        elif not (_builtin(kind) and kind.__name__ in _ELEMENTWISE_MODULES):
            self._unknown(name, module)

    def _claim(self, name: str, module: nn.Module) -> None:
        """Own a module's parameters, once; a weight computed from others is declined."""
        held = [*module.parameters(), *module.buffers()]
        if held and id(module) in self.called:
            raise self._fail(f"{name} ({type(module).__name__}) is called twice")
        self.called.add(id(module))
        computed = {key for key, _ in module.named_parameters()} - {"weight", "bias"}
        if type(module) in (*_LAYERS, *_SCALED) and computed:
            raise self._fail(f"{name} is reparametrised ({min(computed)})")
        self.owned.update(id(parameter) for parameter in module.parameters(recurse=False))

    def _unknown(self, name: str, module: nn.Module) -> None:
        reason = f"{name} ({type(module).__name__}) is not known to treat hidden units alike"
        if [*module.parameters()]:
            raise self._fail(reason)
        self._obstruct(reason)

    def _layer(self, name: str, module: nn.Linear | nn.Conv1d | nn.Conv2d) -> None:
        """Close the open hidden layer at the layer that reads it, and open the next."""
        if isinstance(module, nn.Linear):
            width, units = module.in_features, module.out_features
        else:
            width, units = module.in_channels, module.out_channels
            if module.groups != 1:
                raise self._fail(f"{name} is a grouped convolution ({module.groups} groups)")
        if self.layout != "input":
            self._close(name, _LAYERS[type(module)], width)
        self.open = [Axis(f"{name}.{key}", 0) for key, _ in module.named_parameters()]
        self.units, self.layout, self.obstacle = units, _LAYERS[type(module)], ""

    def _close(self, name: str, layout: str, width: int) -> None:
        """Let the open units be read by a layer that reads `width` entries of a layout."""
        if self.obstacle:
            raise self._fail(self.obstacle)
        block = self._block(width)
        if self.layout.replace("flat", "features") != layout or not block:
            flow = f"{self.units} units in {self.layout} layout"
            raise self._fail(f"{name} reads {width} entries, which do not divide over {flow}")
        self.groups.append((*self.open, Axis(f"{name}.weight", 1, block)))
        self.sizes.append(self.units)

    def _block(self, width: int) -> int:
        """Return how many of `width` entries a unit owns, 0 if they are not the units'."""
        block, rest = divmod(width, max(self.units, 1))
        return block if not rest and (block == 1 or self.layout == "flat") else 0

    def _scaled(self, name: str, module: nn.Module, width: int) -> None:
        """Take a module that holds numbers per feature: a norm, or a PReLU."""
        if self.layout == "input" or (isinstance(module, nn.PReLU) and width == 1):
            return
        block = self._block(width)
        if isinstance(module, nn.LayerNorm):
            own = len(module.normalized_shape) == 1 and self.layout in ("features", "flat")
            block = block if own else 0
        if not block:
            kind = type(module).__name__
            return self._obstruct(f"{name} ({kind}) is not over the {self.units} hidden units")
        weights = [(key, True) for key, _ in module.named_parameters()]
        running = [(key, False) for key, buffer in module.named_buffers() if buffer.dim()]
        self.open += [Axis(f"{name}.{key}", 0, block, c) for key, c in (*weights, *running)]

    def _pool(self, name: str, kind: str) -> None:
        if self.layout not in ("input", kind[-2:].lower()):
            self._obstruct(f"{name} ({kind}) pools across hidden units")

    def _flatten(self, known: bool, name: str) -> None:
        if not known:
            self._obstruct(f"{name} does not keep the batch axis and flatten the rest")
        elif self.layout in ("1d", "2d"):
            self.layout = "flat"

    def _compute(self, name: str, node: fx.Node) -> None:
        """Take a function or a method that the chain runs through."""
        if name in _POOL_FUNCTIONS:
            self._pool(node.name, name)
        elif name == "flatten":
            self._flatten(_dims(node) == (1, -1), node.name)
        elif name in ("view", "reshape"):
            self._flatten(self._flattens(node), node.name)
        elif name not in _ELEMENTWISE:
            self._obstruct(f"{node.name} is not known to treat hidden units alike")

    def _flattens(self, node: fx.Node) -> bool:
        """Tell whether a view is `(batch, rest)`."""
        shape = (*node.args[1:], *node.kwargs.values())
        if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
            shape = tuple(shape[0])
        if len(shape) != 2:
            return False
        if isinstance(shape[0], fx.Node):
            return self._shape(shape[0]) == "batch"
        return shape[0] in ((_LENGTH, -1) if self.trusting else (_LENGTH,))


def _builtin(kind: type) -> bool:
    return kind.__module__.startswith("torch.nn.modules")


def _name(node: fx.Node) -> str:
    """Return the bare name of a method, or of a function of torch or python; relu_ is relu."""
    target = node.target
    home = getattr(target, "__module__", None) or "torch"
    known = isinstance(target, str) or home.split(".")[0] in ("torch", "_operator", "builtins")
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return name.rstrip("_") if known else ""


def _size(index: Any) -> str:
    return "batch" if index == 0 else "number"


def _dims(node: fx.Node) -> tuple[Any, Any]:
    """Return the first and the last dimension of a traced flatten."""
    given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
    return given.get("start_dim", 0), given.get("end_dim", -1)
