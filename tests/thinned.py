"""Networks with dead units, and tools of the tests that remove them."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chains import IMAGES, NETS, VECTORS, made
from gradevo.models import FaceNet, LeNet5, mlp


class Tied(nn.Module):
    """An auto-encoder whose decoder is its encoder, turned; `sizes` from input to code."""

    def __init__(self, *sizes: int, turn=lambda w: w.t(), act=torch.sigmoid) -> None:
        super().__init__()
        pairs = list(pairwise(sizes))
        self.weights = nn.ParameterList(torch.randn(n, m) for m, n in pairs)
        self.coding = nn.ParameterList(torch.randn(n) for _, n in pairs)
        self.decoding = nn.ParameterList(torch.randn(m) for m, _ in pairs)
        self.turn, self.act = turn, act

    def forward(self, x: Tensor) -> Tensor:
        for weight, bias in zip(self.weights, self.coding, strict=True):
            x = self.act(F.linear(x, weight, bias))
        for i in reversed(range(len(self.weights))):
            x = self.act(F.linear(x, self.turn(self.weights[i]), self.decoding[i]))
        return x


class HalfTied(nn.Module):
    """An encoder that is a layer, a decoder that is a function of its weight, without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.encoder(x).tanh(), weight=self.encoder.weight.T)


def deep() -> nn.Module:
    acts = [nn.ReLU(), nn.Tanh(), nn.Dropout(), nn.Sigmoid(), nn.GELU(), nn.Dropout()]
    layers = [nn.Linear(6, 9), *acts[:1], nn.Linear(9, 8), *acts[1:3], nn.Linear(8, 7)]
    return nn.Sequential(*layers, acts[3], nn.Linear(7, 6, bias=False), *acts[4:], nn.Linear(6, 3))


def padded(**settings) -> nn.Module:
    first = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Sigmoid(), nn.MaxPool2d(2))
    second = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1, **settings), nn.Tanh())
    return nn.Sequential(*first, *second, nn.AvgPool2d(3, 2, 1), nn.Flatten(), nn.Linear(45, 3))


MORE = {
    "deep": (deep, VECTORS),
    "padded": (padded, IMAGES),
    "reflecting": (lambda: padded(padding_mode="reflect", bias=False), IMAGES),
    "builder": (mlp(6, 12, 10, 3, dropout=0.3), VECTORS),
    "lenet5": (lambda: LeNet5(3), (2, 1, 28, 28)),
    "faces": (lambda: FaceNet(3, side=12), IMAGES),
    "tied": (lambda: Tied(6, 9), VECTORS),
    "deeply tied": (lambda: Tied(6, 9, 7, 5, turn=lambda w: w.transpose(0, 1)), VECTORS),
    "tied tanh": (lambda: Tied(6, 9, 4, turn=torch.t, act=torch.tanh), VECTORS),
    "half tied": (HalfTied, VECTORS),
}
ALL = NETS | MORE
KINDS = pytest.mark.parametrize("kind", ALL)


def example(kind: str, seed: int = 0) -> Tensor:
    return torch.randn(ALL[kind][1], generator=torch.Generator().manual_seed(seed))


def masked(kind: str, seed: int, share: float | None = None) -> nn.Module:
    """A random net in which single weights, and all those of a share of units, are zero."""
    net = made(kind, seed) if kind in NETS else ALL[kind][0]()
    generator = torch.Generator().manual_seed(seed)
    share = float(torch.rand((), generator=generator)) if share is None else share
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() > 1:
                for dim in (0, 1):
                    shape = [n if d == dim else 1 for d, n in enumerate(weight.shape)]
                    weight *= torch.rand(shape, generator=generator) > share
                weight *= torch.rand(weight.shape, generator=generator) < 0.7
    return net


def sizes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def entries(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def check_same(net: nn.Module, small: nn.Module, inputs: Tensor) -> None:
    """Both compute the same on inputs that were not the example."""
    with torch.no_grad():
        expected = copy.deepcopy(net).eval()(inputs)
        found = copy.deepcopy(small).eval()(inputs)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def check_sizes_known(net: nn.Module) -> None:
    """What layers say of themselves is what their tensors are."""
    for part in net.modules():
        if isinstance(part, nn.Linear):
            assert part.weight.shape == (part.out_features, part.in_features)
        if isinstance(part, nn.Conv1d | nn.Conv2d):
            assert part.weight.shape[:2] == (part.out_channels, part.in_channels)
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            assert part.weight.shape == part.running_mean.shape == (part.num_features,)
        if isinstance(part, nn.PReLU):
            assert part.weight.shape == (part.num_parameters,)


def kill(weight: Tensor, dim: int, *units: int) -> None:
    with torch.no_grad():
        weight.index_fill_(dim, torch.tensor(units), 0)
