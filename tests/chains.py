"""Networks whose hidden units can be matched, and tools of the alignment tests."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradevo.operators.alignment import Symmetry

IMAGES, VECTORS, SERIES = (5, 1, 12, 12), (5, 6), (5, 2, 16)
FEW = settings(max_examples=15, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)


class Functional(nn.Module):
    """A forward of functions and methods, with the size of the batch used in a view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Sequential(nn.Sequential(nn.Linear(5 * 25, 9), nn.PReLU(9)), nn.Linear(9, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))) * 2 - 0.1, 2)
        x = F.dropout(x, 0.3, training=self.training).tanh()
        return F.log_softmax(self.head(x.view(x.size(0), -1)), dim=1)


class Flattened(nn.Module):
    """Conv, a flatten given from outside, Linear."""

    def __init__(self, flatten) -> None:
        super().__init__()
        self.conv, self.out, self.flatten = nn.Conv2d(1, 4, 3), nn.Linear(400, 3), flatten

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.flatten(torch.sigmoid(self.conv(x))))


def two_names(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, channels * height * width)


FLATTENS = {
    "size": lambda x: x.view(x.size(0), -1),
    "shape": lambda x: x.reshape(x.shape[0], -1),
    "tuple": lambda x: x.reshape((x.size()[0], -1)),
    "dim": lambda x: x.view(x.size(dim=0), 400),
    "len": lambda x: x.reshape(len(x), -1),
    "unpacked": two_names,
    "method": lambda x: x.flatten(1),
    "start": lambda x: x.flatten(start_dim=1),
    "function": lambda x: torch.flatten(x, 1),
    "reshape": lambda x: torch.reshape(x, (x.size(0), -1)),
    "module": nn.Flatten(),
}

NETS = {
    "mlp": (
        lambda: nn.Sequential(
            nn.Linear(6, 11), nn.ReLU(), nn.Linear(11, 9), nn.GELU(), nn.Linear(9, 3)
        ),
        VECTORS,
    ),
    "normed mlp": (
        lambda: nn.Sequential(
            *(nn.BatchNorm1d(6), nn.Linear(6, 11), nn.BatchNorm1d(11), nn.SiLU()),
            *(nn.Dropout(), nn.Linear(11, 9, bias=False), nn.LayerNorm(9), nn.PReLU()),
            *(nn.Linear(9, 3), nn.BatchNorm1d(3), nn.Softmax(1)),
        ),
        VECTORS,
    ),
    "lenet": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 8, 2), nn.PReLU(8), nn.AdaptiveAvgPool2d(2), nn.Dropout2d()),
            *(nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, 10), nn.ELU(), nn.Linear(10, 3)),
        ),
        IMAGES,
    ),
    "functional": (Functional, IMAGES),
    "conv1d": (
        lambda: nn.Sequential(
            *(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(5, 7, 2), nn.Softplus()),
            *(nn.AdaptiveMaxPool1d(3), nn.Flatten(), nn.LayerNorm(21), nn.Linear(21, 3)),
        ),
        SERIES,
    ),
}
EVERY = pytest.mark.parametrize("kind", NETS)


def made(kind: str, seed: int) -> nn.Module:
    """A net in eval mode whose every parameter and statistic is random."""
    generator = torch.Generator().manual_seed(seed)
    net = NETS[kind][0]().eval()
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator))
                signs = torch.rand(tensor.shape, generator=generator) < 0.5
                tensor.copy_(torch.where(signs & (tensor.dim() > 1), -tensor, tensor))
    return net


def tensors(*nets: nn.Module) -> dict[str, Tensor]:
    states = [net.state_dict() for net in nets]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def shuffles(symmetry: Symmetry, pairs: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.stack([torch.randperm(n, generator=generator) for _ in range(pairs)])
        for n in symmetry.units
    ]


def inner(first: dict[str, Tensor], second: dict[str, Tensor], net: nn.Module) -> Tensor:
    names = [name for name, _ in net.named_parameters()]
    return sum((first[n] * second[n]).double().flatten(1).sum(1) for n in names)


def distance(first: dict[str, Tensor], second: dict[str, Tensor], net: nn.Module) -> Tensor:
    names = [name for name, _ in net.named_parameters()]
    return sum((first[n] - second[n]).double().square().flatten(1).sum(1) for n in names)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[n], second[n]) for n in first) and first.keys() == second.keys()


def loaded(net: nn.Module, state: dict[str, Tensor], pair: int = 0) -> nn.Module:
    twin = copy.deepcopy(net)
    twin.load_state_dict({name: tensor[pair] for name, tensor in state.items()})
    return twin
