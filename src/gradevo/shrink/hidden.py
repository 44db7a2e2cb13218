"""The hidden layers of a module: which of their units nobody reads, and which are constant.

Units that share a tensor with others, as those of a tied auto-encoder, form one space: what is
removed from one layer of it is removed from all.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain

import torch
from torch import Tensor, nn

from gradevo.operators.alignment import Axis
from gradevo.operators.symmetry import find_symmetry
from gradevo.shrink.untied import Untied, untie

Place = tuple[str, int]
"""A dimension of a tensor of the module."""

Layer = nn.Linear | nn.Conv1d | nn.Conv2d


@dataclass(frozen=True)
class Hidden:
    """The units between a layer that makes them, the feeder, and the next one, the reader.

    Attributes:
        units: how many.
        axes: dimensions of the twin's tensors that run over them.
        untied: the twin and where its tensors are from.
        seen: by name of a reader, the constants `(entries,)` it read; NaN for what varied.
    """

    units: int
    axes: tuple[Axis, ...]
    untied: Untied
    seen: dict[str, Tensor]

    @property
    def reader_name(self) -> str:
        return next(_owner(axis) for axis in self.axes if axis.dim == 1)

    @property
    def parts(self) -> list[nn.Module]:
        """The feeder, then what scales its units, then the reader."""
        names = dict.fromkeys(_owner(axis) for axis in self.axes)
        return [self.untied.module.get_submodule(name) for name in names]

    @property
    def reader(self) -> Layer:
        return _layer(self.parts[-1])

    @property
    def block(self) -> int:
        """Entries of the reader's input that a unit owns."""
        return next(axis.block for axis in self.axes if axis.dim == 1)

    @property
    def places(self) -> list[tuple[Place, int]]:
        """Where the units are in the module's tensors, and how many entries each owns there."""
        return [(self._place(axis), axis.block) for axis in self.axes]

    @property
    def columns(self) -> Place:
        """Where the units' outgoing weights are."""
        return next(self._place(axis) for axis in self.axes if axis.dim == 1)

    @property
    def bias(self) -> str | None:
        """The tensor of the module that is the reader's bias, if it has one."""
        origin = self.untied.origins.get(f"{self.reader_name}.bias")
        return None if origin is None else origin.name

    def _place(self, axis: Axis) -> Place:
        origin = self.untied.origins[axis.name]
        return origin.name, origin.dim(axis.dim)

    def unread(self) -> Tensor:
        """Which units have no outgoing weight but zero, `(units,)`."""
        columns = self.reader.weight.movedim(1, 0).reshape(self.units, -1)
        return (columns == 0).all(1)

    def constant(self) -> Tensor:
        """Which units are constants that the reader's bias can hold, `(units,)`."""
        value = self.seen[self.reader_name]  # (units * block,)
        held = value.isfinite() & (value == 0 if not self._holds() else True)
        return self._still() & held.reshape(self.units, -1).all(1)

    def _still(self) -> Tensor:
        """Which units do not depend on the input."""
        feeder = _layer(self.parts[0])
        still = (feeder.weight.flatten(1) == 0).all(1)
        for part in self.parts[1:-1]:
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.affine:
                still = still | (part.weight.reshape(self.units, -1) == 0).all(1)
        return still

    def _holds(self) -> bool:
        """Whether a bias of the reader can stand for a constant input."""
        if self.bias is None:
            free = self.reader_name not in self.untied.made  # a call of a function stays without
        else:
            free = self.untied.uses(self.bias) == 1
        return free and not _pads_zeros(self.reader)

    def given(self, constant: Tensor) -> Tensor:
        """What some constant units add to each output of the reader."""
        value = self.seen[self.reader_name].where(constant.repeat_interleave(self.block), 0)
        weight = self.reader.weight.flatten(1).unflatten(1, (len(value), -1)).sum(2)
        return (weight.cpu().double() @ value.cpu().double()).to(weight)


@dataclass(frozen=True)
class Space:
    """Hidden layers that share tensors, so that they are sliced together.

    Attributes:
        layers: at least one.
    """

    layers: tuple[Hidden, ...]

    @cached_property
    def places(self) -> dict[Place, int]:
        """Where the units are, and how many entries each owns there."""
        return dict(place for layer in self.layers for place in layer.places)

    def dead(self) -> Tensor:
        """Which units can be done without in every layer, `(units,)`."""
        return torch.stack([layer.unread() | layer.constant() for layer in self.layers]).all(0)

    def unread(self) -> Tensor:
        """Which units nobody reads in any layer, `(units,)`."""
        return torch.stack([layer.unread() for layer in self.layers]).all(0)

    def closed(self) -> bool:
        """Whether every use of the tensors, along these dimensions, is one of these layers'."""
        untied = self.layers[0].untied
        counts = Counter(place for layer in self.layers for place, _ in layer.places)
        blocks = {place for layer in self.layers for place in layer.places}
        return len(blocks) == len(counts) and all(
            count == untied.uses(name) for (name, _), count in counts.items()
        )


def find_spaces(module: nn.Module, example: Tensor, flattened: bool = True) -> list[Space]:
    """The hidden layers of a module from which single units can be removed.

    Left out are layers in which units are told from each other by their number, as by a layer
    norm, and those tied to an input or an output of the module.

    Args:
        module: in eval mode; it is not altered.
        example: a batch of inputs.
        flattened: whether to include layers of filters that are read through a flatten.

    Raises:
        gradevo.operators.alignment.Unaligned: the module is not understood; one line.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
        >>> [space.places for space in find_spaces(net, torch.ones(2, 4))]
        [{('0.weight', 0): 1, ('0.bias', 0): 1, ('2.weight', 1): 1}]
    """
    untied, seen = untie(module), dict[str, Tensor]()
    symmetry = find_symmetry(untied.module, example)
    layers = [
        Hidden(units, axes, untied, seen)
        for units, axes in zip(symmetry.units, symmetry.groups, strict=True)
    ]
    spaces = [space for space in _joined(layers) if space.closed()]
    spaces = [space for space in spaces if all(_fits(h, flattened) for h in space.layers)]
    seen.update(_constants(untied.module, [h for space in spaces for h in space.layers], example))
    return spaces


def _fits(layer: Hidden, flattened: bool) -> bool:
    mixed = any(isinstance(part, nn.LayerNorm) for part in layer.parts)
    return not mixed and (flattened or layer.block == 1)


def _joined(layers: Iterable[Hidden]) -> list[Space]:
    """Layers that share a dimension of a tensor, together."""
    spaces: list[Space] = []
    for layer in layers:
        here = {place for place, _ in layer.places}
        tied = [space for space in spaces if here & space.places.keys()]
        together = (*chain.from_iterable(space.layers for space in tied), layer)
        spaces = [space for space in spaces if space not in tied] + [Space(together)]
    return spaces


def _constants(twin: nn.Module, layers: list[Hidden], example: Tensor) -> dict[str, Tensor]:
    """For every reader the entries of its input that are one number throughout; NaN for others."""
    seen: dict[str, Tensor] = {}

    def note(name: str, reader: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        dim = -1 if isinstance(reader, nn.Linear) else 1
        entries = inputs[0].movedim(dim, 0).flatten(1)  # (entries, the rest)
        one = (entries == entries[:, :1]).all(1)
        seen[name] = entries[:, 0].where(one, torch.nan)

    hooks = [
        layer.reader.register_forward_pre_hook(partial(note, layer.reader_name)) for layer in layers
    ]
    twin(example)
    for hook in hooks:
        hook.remove()
    return seen


def _owner(axis: Axis) -> str:
    return axis.name.rpartition(".")[0]


def _layer(part: nn.Module) -> Layer:
    assert isinstance(part, Layer)
    return part


def _pads_zeros(reader: Layer) -> bool:
    """Whether a layer reads zeros beside its input, so that its borders see something else."""
    if isinstance(reader, nn.Linear) or reader.padding_mode != "zeros":
        return False
    if isinstance(reader.padding, str):
        return reader.padding == "same" and max(reader.kernel_size) > 1
    return any(reader.padding)
