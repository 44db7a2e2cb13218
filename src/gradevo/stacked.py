"""Stacked auto-encoders: deep encoders trained one layer after another."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradevo import validation
from gradevo.algorithms.gemonn import GEMONN
from gradevo.autoencoder import TiedAutoencoder
from gradevo.front import Front
from gradevo.run import fit


@dataclass(frozen=True)
class Stack:
    """What `stacked` trained.

    Attributes:
        layers: the auto-encoder picked for every layer, the first one reads the data.
        fronts: where each was picked from.
    """

    layers: tuple[TiedAutoencoder, ...]
    fronts: tuple[Front, ...]

    @property
    def encoder(self) -> nn.Sequential:
        """All encoders in a row, Linear and Sigmoid a layer, zeros in place; a copy."""
        halves = [(layer.weight.t(), layer.code) for layer in self.layers]
        return nn.Sequential(*(part for half in halves for part in _sigmoid(*half)))

    @property
    def autoencoder(self) -> nn.Sequential:
        """The encoder and, in reverse order, all decoders; no longer tied; a copy."""
        halves = [(layer.weight, layer.bias) for layer in reversed(self.layers)]
        return nn.Sequential(*self.encoder, *(part for half in halves for part in _sigmoid(*half)))

    def classifier(self, classes: int) -> nn.Sequential:
        """A copy of the encoder and a new Linear on top of it, to be fine-tuned.

        Example:
            >>> Stack((TiedAutoencoder(8, 3),), ()).classifier(2)(torch.rand(5, 8)).shape
            torch.Size([5, 2])
        """
        like = self.layers[-1].code
        head = nn.Linear(len(like), classes, device=like.device, dtype=like.dtype)
        return nn.Sequential(*self.encoder, head)


def stacked(
    algorithm: GEMONN,
    hidden: Sequence[int],
    x: Tensor,
    *,
    valid: Tensor | None = None,
    pick: Callable[[Front], Any] = Front.best,
    **settings: Any,
) -> Stack:
    """Train tied auto-encoders greedily: each on the codes of the one before.

    Deep sigmoid networks learn badly from random weights; here each layer first learns to keep
    what the layers below found. Fine-tune the whole afterwards: `fit` with `stack.classifier` as
    `build` goes on from its weights, and gives a front of the deep network.

    Args:
        algorithm: a run of it trains one layer.
        hidden: units of every layer, from the data upwards; at least one layer.
        x: `(rows, inputs)`, values in [0, 1], as a sigmoid is to give them back.
        valid: the same, rows on which members are compared; default: a fifth of `x`.
        pick: the network of a layer's front that the next layer reads; default: the best.
            `lambda front: front.best(min_sparsity=0.9)` for a sparse one.
        settings: further arguments of `fit`, the same for all layers, `seed` for example; not
            `checkpoint`.

    Returns:
        The layers and their fronts.

    Raises:
        ValueError: no layer, or values outside of [0, 1].
        DivergedError: as `fit`.

    Example:
        >>> import gradevo as ge
        >>> x = torch.rand(80, 6, generator=torch.Generator().manual_seed(0))
        >>> algorithm = ge.GEMONN(population=2, generations=3, steps=5, batch_size=16)
        >>> stacked(algorithm, (4, 2), x).encoder(x).shape
        torch.Size([80, 2])

    Source: Bengio et al., "Greedy layer-wise training of deep networks", 2006; the GEMONN paper's
    deep networks.
    """
    validation.at_least("hidden", min(hidden, default=0), 1)
    for name, rows in (("x", x), ("valid", valid)):
        _check_range(name, rows)
    layers: list[TiedAutoencoder] = []
    fronts: list[Front] = []
    for units in hidden:
        build = partial(TiedAutoencoder, x.shape[1], units, agree=algorithm.search == "crossover")
        held = None if valid is None else (valid, valid)
        fronts.append(fit(algorithm, build, nn.MSELoss(), (x, x), valid=held, **settings))
        layers.append(deepcopy(pick(fronts[-1])))
        x = _codes(layers[-1], x)
        valid = None if valid is None else _codes(layers[-1], valid)
    return Stack(tuple(layers), tuple(fronts))


def _check_range(name: str, rows: Tensor | None) -> None:
    if rows is None:
        return
    if rows.dim() != 2 or not len(rows):
        raise ValueError(f"{name}: must be (rows, inputs), got shape {tuple(rows.shape)}")
    low, high = float(rows.min()), float(rows.max())
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{name}: must lie in [0, 1], got {low:g} to {high:g}")


@torch.no_grad()
def _codes(layer: TiedAutoencoder, x: Tensor) -> Tensor:
    """What the hidden units of an auto-encoder make of the rows."""
    linear, sigmoid = _sigmoid(layer.weight.t(), layer.code)
    parts = [sigmoid(linear(rows.to(layer.code.device))) for rows in x.split(4096)]
    return torch.cat(parts).to(x.device)


@torch.no_grad()
def _sigmoid(weight: Tensor, bias: Tensor) -> tuple[nn.Linear, nn.Sigmoid]:
    """A layer with copies of these weights."""
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, device="meta")  # without numbers of its own
    linear.weight, linear.bias = (nn.Parameter(tensor.clone()) for tensor in (weight, bias))
    return linear, nn.Sigmoid()
