"""What the speed benchmarks train: a network, its batches and a population's sizes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gradevo.models import LeNet5, mlp

ROWS = 4096  # of the data set that small networks draw their batches from


class SmallCNN(nn.Module):
    """Three convolutions with batch norm for 32 x 32 x 3 images."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for ins, outs in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(ins, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(64 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


class Recurrent(nn.Module):
    """LSTM with 9 inputs and 32 units."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(9, 32, batch_first=True)
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Attentive(nn.Module):
    """Two transformer encoder layers with 9 inputs and 32 units."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(9, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 128, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.first(x)).mean(1))


class Block(nn.Module):
    """Two convolutions with batch norm and the way around them."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.norm_one = nn.BatchNorm2d(outs)
        self.two = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.norm_two = nn.BatchNorm2d(outs)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or ins != outs:
            convolution = nn.Conv2d(ins, outs, 1, stride, bias=False)
            self.around = nn.Sequential(convolution, nn.BatchNorm2d(outs))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm_one(self.one(x)))
        return F.relu(self.norm_two(self.two(inner)) + self.around(x))


def resnet18() -> nn.Module:
    """ResNet-18 for 32 x 32 images (He et al., 2016)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    ins = 64
    for outs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(ins, outs, stride), Block(outs, outs, 1)]
        ins = outs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


@dataclass(frozen=True)
class Workload:
    """A network to train on random rows.

    Attributes:
        name: in the tables.
        build: makes a member.
        shape: of a row.
        batch: rows of a step.
        classes: of the targets.
        goals: population size -> how many times faster than the loop.
        threads: of the goals.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    classes: int
    goals: dict[int, float]
    threads: int = 1

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """Widths of a perceptron; None for other networks."""
        if len(self.shape) > 1:
            return None
        linear = [part for part in self.build().modules() if isinstance(part, nn.Linear)]
        return (linear[0].in_features, *(part.out_features for part in linear))

    def data(self, members: int, batches: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Random batches `(batches, g, B, ...)` and their classes."""
        generator = torch.Generator().manual_seed(seed)
        lead = batches, members, self.batch
        x = torch.randn(*lead, *self.shape, generator=generator)
        return x, torch.randint(self.classes, lead, generator=generator)

    def flops(self) -> int:
        """Of forward and backward of a member's batch."""
        member, x = self.build(), torch.randn(self.batch, *self.shape)
        with FlopCounterMode(display=False) as counter:
            member(x).sum().backward()
        return counter.get_total_flops()


WORKLOADS = {
    w.name: w
    for w in (
        Workload("MLP 4-10-3", mlp(4, 10, 3), (4,), 40, 3, {10: 350, 16: 600, 100: 500}),
        Workload("MLP 16-70-50-26", mlp(16, 70, 50, 26), (16,), 128, 26, {10: 5, 50: 6}),
        Workload("MLP 16-256-128-26", mlp(16, 256, 128, 26), (16,), 128, 26, {10: 1.9, 16: 2.3}),
        Workload("MLP 784-512-256-10", mlp(784, 512, 256, 10), (784,), 128, 10, {10: 1.3}),
        Workload("LeNet-5", LeNet5, (1, 28, 28), 128, 10, {10: 2.3, 50: 2.3}),
        Workload("CNN with batch norm", SmallCNN, (3, 32, 32), 128, 10, {8: 1.3}),
        Workload("LSTM 9-32", Recurrent, (32, 9), 64, 6, {10: 1.5}, threads=2),
        Workload("Transformer 9-32", Attentive, (16, 9), 16, 6, {10: 0.97}),
        Workload("ResNet-18", resnet18, (3, 32, 32), 16, 10, {2: 0.97}),
    )
}
