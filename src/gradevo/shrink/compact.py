"""Sparse networks made small: units that do nothing are really removed.

A hidden unit is dead if nobody reads it, or if it is a constant that its readers' biases can
hold. `compact` first folds constants into biases, which leaves them unread, and then removes
what is unread, layer after layer, until nothing more dies.
"""

import copy
import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gradevo.operators.alignment import Unaligned
from gradevo.operators.symmetry import TOLERANCE
from gradevo.randomness import preserved
from gradevo.shrink.hidden import Hidden, Space, find_spaces
from gradevo.structure import Tensors, evaluating, tensors_of, with_tensors

logger = logging.getLogger(__name__)


def compact(module: nn.Module, example: Tensor) -> nn.Module:
    """A smaller module that computes the same in eval mode, without its dead hidden units.

    Zeros in a mask save nothing; layers with fewer neurons and filters are smaller files and
    cost less on any hardware. Removed are hidden units of which every outgoing weight is zero,
    and those of which every incoming weight is (or whose batch norm scales by zero): they are
    constants, which go into the biases of the layer that reads them. Inputs and outputs stay,
    and so does one unit of every layer, and a constant before a convolution that pads with
    zeros, since no bias does what it does at the border. Tied tensors stay tied: a unit goes if
    it is dead wherever its tensors are used.

    Understood is what `gradevo.operators.symmetry.find_symmetry` understands (chains of Linear,
    Conv1d and Conv2d), and `F.linear` with parameters of the module or their transposes. Any
    other module comes back as an equal copy, and the reason is logged at level info. The result
    was compared with the module on the example, alone and twice in a batch.

    Args:
        module: an ordinary module; it is not altered.
        example: a small batch of inputs, batch axis first, shaped as later inputs will be.

    Returns:
        A copy of the module of the same class, parts in the modes they had, parameters frozen
        as they were; only layers and tensors are smaller. Outputs in eval mode are the same to
        1e-5 of their scale (half precision: to its own rounding). In training mode they may
        differ more: dropout no longer drops constants, batch norm no longer subtracts them.

    Raises:
        TypeError: `example` is not a tensor.
        ValueError: the module cannot compute `example`, or it holds no sample; or the module
            cannot be copied, as under torch's pruning before `prune.remove`.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> with torch.no_grad():
        ...     _ = net[2].weight[:, 2:].zero_()
        >>> compact(net, torch.ones(1, 4))
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
          (1): ReLU()
          (2): Linear(in_features=2, out_features=3, bias=True)
        )
    """
    reference = _copied(module).eval()
    with torch.no_grad(), preserved():
        _check_example(reference, example)
        small = _smaller(reference, example)
    if small is None:
        return _copied(module)
    for part, original in zip(small.modules(), module.modules(), strict=True):
        part.training = original.training
    return small


def flops(module: nn.Module, example: Tensor) -> int:
    """Multiply-adds of the matrix products and convolutions of a forward pass, biases left out.

    Every weight counts, zero or not: it is what dense hardware does. The number is for the
    whole example, so give a batch of one for the cost of a sample. Recurrent layers, which
    torch does not count, are left out too.

    Args:
        module: the network; it is computed in eval mode and left as it was.
        example: a batch of inputs.

    Example:
        >>> flops(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.ones(1, 4))
        56
    """
    counter = FlopCounterMode(display=False)
    with evaluating(module), torch.no_grad(), preserved(), counter:
        module(example)
    return counter.get_total_flops() // 2  # torch counts a multiplication and an addition


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # whatever a user's module may hold
        name = type(module).__name__
        raise ValueError(
            f"module: must be one that can be copied, got {name} ({_line(error)})"
        ) from error


def _check_example(module: nn.Module, example: Tensor) -> None:
    if not isinstance(example, Tensor):
        raise TypeError(f"example: must be a tensor, got {type(example).__name__}")
    name, shape = type(module).__name__, tuple(example.shape)
    if not example.dim() or not len(example):
        raise ValueError(f"example: must hold at least one sample, got shape {shape}")
    try:
        module(example)
    except Exception as error:  # whatever a user's forward may raise
        raise ValueError(
            f"example: must be a batch that {name} can compute, got shape {shape} ({_line(error)})"
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _smaller(module: nn.Module, example: Tensor) -> nn.Module | None:
    """The module without dead units, compared with it; None if that could not be made.

    A forward may name the length of its flatten, as `view(-1, 400)`. Then the units before the
    flatten have to stay, which shows only when they have gone; so there are two attempts.
    """
    reason = ""
    for flattened in (True, False):
        try:
            small = _shrunk(module, example, flattened)
        except Unaligned as error:
            reason = reason or str(error)
            continue
        if _agree(module, small, example):
            return small
        reason = f"{type(module).__name__}: without dead units its output changes"
    logger.info("compact: module left as it is; %s", reason)
    return None


def _shrunk(module: nn.Module, example: Tensor, flattened: bool) -> nn.Module:
    """The module after as many rounds as it takes until nothing more dies."""
    while True:
        spaces = find_spaces(module, example, flattened)
        smaller = _folded(module, spaces)
        if smaller is None:
            smaller = _dropped(module, spaces)
        if smaller is None:
            return module
        module = smaller


def _agree(module: nn.Module, small: nn.Module, example: Tensor) -> bool:
    """Whether both compute the same, whatever the number of samples."""
    for inputs in (example, torch.cat([example, example])):
        try:
            if not _close(module(inputs), small(inputs)):
                return False
        except Exception:  # whatever a user's forward may raise
            return False
    return True


def _close(expected: Tensor, found: Tensor) -> bool:
    """Whether outputs differ by no more than 1e-5 of their scale, or than a short type rounds."""
    rounding = torch.finfo(expected.dtype).eps if expected.is_floating_point() else 0
    wanted, given = expected.cpu().double(), found.cpu().double()
    error = max(TOLERANCE, 4 * rounding) * (wanted.abs().max() if wanted.numel() else 0)
    return given.shape == wanted.shape and bool(((given - wanted).abs() <= error).all())


# --- a round -------------------------------------------------------------------------------


def _folded(module: nn.Module, spaces: Sequence[Space]) -> nn.Module | None:
    """A copy in which biases hold what constant units gave, and nobody reads those."""
    tensors, biases = dict(tensors_of(module)), dict[str, Tensor]()
    folded = False
    for space in spaces:
        dead = space.dead()
        for layer in space.layers:
            constant = dead & ~layer.unread()  # (units,)
            if constant.any():
                folded = True
                _fold(layer, constant, tensors, biases)
    if not folded:
        return None
    copied = with_tensors(module, tensors)
    for name, bias in biases.items():
        reader = copied.get_submodule(name)
        trained = all(parameter.requires_grad for parameter in reader.parameters())
        reader.bias = nn.Parameter(bias, requires_grad=trained)
    return copied


def _fold(layer: Hidden, constant: Tensor, tensors: Tensors, biases: Tensors) -> None:
    """Move what constant units give their reader into its bias."""
    shift = layer.given(constant)  # (outputs of the reader,)
    if layer.bias is None and shift.any():
        biases[layer.reader_name] = shift
    elif layer.bias is not None:
        tensors[layer.bias] = tensors[layer.bias] + shift
    weight, dim = layer.columns
    entries = constant.repeat_interleave(layer.block).nonzero().squeeze(1)
    tensors[weight] = tensors[weight].index_fill(dim, entries, 0)


def _dropped(module: nn.Module, spaces: Sequence[Space]) -> nn.Module | None:
    """A copy without the units that nobody reads, but one of every layer."""
    tensors, dropped = dict(tensors_of(module)), False
    for space in spaces:
        stay = ~space.unread()  # (units,)
        stay[0] |= not stay.any()
        dropped |= not stay.all()
        for (name, dim), block in space.places.items():
            entries = stay.repeat_interleave(block).nonzero().squeeze(1)
            tensors[name] = tensors[name].index_select(dim, entries)
    if not dropped:
        return None
    copied = with_tensors(module, tensors)
    for part in copied.modules():
        _resize(part)
    return copied


def _resize(part: nn.Module) -> None:
    """Let a layer know the sizes of its tensors."""
    if isinstance(part, nn.Linear):
        part.out_features, part.in_features = part.weight.shape
    elif isinstance(part, nn.Conv1d | nn.Conv2d):
        part.out_channels, part.in_channels = len(part.weight), part.weight.shape[1] * part.groups
    elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
        sizes = [len(t) for t in (part.weight, part.running_mean) if t is not None]
        part.num_features = sizes[0] if sizes else part.num_features
    elif isinstance(part, nn.PReLU):
        part.num_parameters = len(part.weight)
