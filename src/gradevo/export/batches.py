"""Batches that a file is tried on, what the module answers to them, and how far off a file is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gradevo.errors import ExportError
from gradevo.randomness import generator_from, isolated
from gradevo.structure import evaluating
from gradevo.trees import call, tensors

TOLERANCE = 1e-5  # of the scale of the outputs


@dataclass(frozen=True)
class Batch:
    """Inputs, and the outputs of the module that is to be written.

    Attributes:
        inputs: a tensor, or a mapping or tuple of tensors, on the CPU.
        outputs: what the module returned for them.
    """

    inputs: Any
    outputs: Any

    @property
    def rows(self) -> int:
        return len(tensors(self.inputs)[0])


def checked(example: Any, to: str) -> Any:
    """An example on the CPU, with two rows at least: torch takes a length of one for fixed.

    Raises:
        TypeError: the example is something else than tensors.
        ValueError: there is none, or its tensors have no row, or not the same number of them.
    """
    if example is None:
        raise ValueError(f"example: must be a batch of inputs for {to}, got none")
    if isinstance(example, Mapping):
        example = dict(cast(Any, example))
    leaves = pytree.tree_leaves(example)
    kinds = {type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)}
    if kinds or not leaves:
        got = ", ".join(sorted(kinds)) or "none"
        raise TypeError(f"example: must be tensors, got {got}")
    lengths = {len(leaf) if leaf.dim() else 0 for leaf in leaves}
    if len(lengths) > 1 or not min(lengths):
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ValueError(f"example: must hold one row or more, as many in each, got {shapes}")
    example = pytree.tree_map(lambda leaf: leaf.detach().cpu(), example)
    return example if min(lengths) > 1 else _rows(example, [0, 0])


def _rows(example: Any, indices: Sequence[int]) -> Any:
    return pytree.tree_map(lambda leaf: leaf[list(indices)].clone(), example)


def of(module: nn.Module, example: Any) -> list[Batch]:
    """The example, one of its rows, and more rows than it has, with the module's outputs.

    Raises:
        ValueError: the module cannot compute one of them.
    """
    count = len(tensors(example)[0])
    picks = [range(count), [0], [i % count for i in range(2 * count + 1)]]
    return [_answered(module, _rows(example, pick)) for pick in picks]


def _answered(module: nn.Module, inputs: Any) -> Batch:
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    given = pytree.tree_map(lambda leaf: leaf.clone().to(device), inputs)
    try:
        with evaluating(module), torch.no_grad(), isolated(generator_from(0), device):
            outputs = call(module, given)
    except Exception as error:  # whatever a user's forward may raise
        shapes = [tuple(tensor.shape) for tensor in tensors(inputs)]
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"example: must be rows that {type(module).__name__} can compute, one or several, got "
            f"shape {', '.join(map(str, shapes))} ({line})"
        ) from error
    return Batch(inputs, outputs)


def checked_error(batch: Batch, found: Sequence[Tensor], to: str) -> float:
    """How far outputs of a file are from those of the module.

    Returns:
        The largest difference as a share of the scale: of the largest number, or of 1.

    Raises:
        ExportError: it is more than is allowed, or the outputs have other shapes.
    """
    wanted = tensors(batch.outputs)
    mine, theirs = ([tuple(tensor.shape) for tensor in given] for given in (wanted, found))
    if mine != theirs:
        raise ExportError(
            f"{to}: must give what the module does, but for {batch.rows} rows it gave shapes "
            f"{theirs} where the module gives {mine}"
        )
    worst = 0.0
    for expected, other in zip(wanted, found, strict=True):
        error, allowed = _difference(expected, other), _allowed(expected)
        if not error <= allowed:
            raise ExportError(
                f"{to}: must give what the module does to {allowed:.0e} of its scale, but for "
                f"{batch.rows} rows it differs by {error:.2g}"
            )
        worst = max(worst, error)
    return worst


def _allowed(expected: Tensor) -> float:
    rounding = torch.finfo(expected.dtype).eps if expected.is_floating_point() else 0.0
    return max(TOLERANCE, 4 * rounding)


def _difference(expected: Tensor, found: Tensor) -> float:
    """As a share of the scale; numbers that are not finite must be the same ones."""
    wanted, given = expected.cpu().double(), found.cpu().double()
    same = (wanted == given) | (wanted.isnan() & given.isnan())
    finite = wanted.isfinite()
    if not bool((same | finite).all()):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    wanted, given = wanted[finite], given[finite]
    return float((wanted - given).abs().max() / wanted.abs().max().clamp(min=1.0))
