"""A zoo of small modules, each with a habit that a population must cope with."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradevo as ge
from gradevo.models import mlp
from gradevo.randomness import generator_from

Shape = tuple[int, ...]


class ConvNet(nn.Module):
    """Statistics updated in place, and draws in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.4)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.norm(self.conv(x)).relu(), 3)
        return self.head(self.drop(x.flatten(1)))


class Recurrent(nn.Module):
    """Keeps its weights a second time, in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Transformer(nn.Module):
    """Attention, layer norm, a buffer that is only read, and a fast path in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.register_buffer("position", torch.randn(5, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x + self.position).mean(1))


class Tied(nn.Module):
    """An auto-encoder with one matrix under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 4)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x).tanh())


class Branching(nn.Module):
    """Takes another way for some inputs, which it looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 3)
        self.two = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.one(x), self.two(x)
        return one + 2 * two if one.sum() > 0 else one - two


class Reassigning(nn.Module):
    """Puts a new tensor in place of a buffer whose old value the gradient needs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("level", torch.rand(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        output = self.layer(x) * self.level
        if self.training:
            self.level = 0.9 * self.level + 0.1 * output.detach().mean(0)
            self.calls += 1
        return output


class Frozen(nn.Module):
    """A body that does not learn, with a mode of its own: its batch norm stays in eval."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU()).eval()
        self.body.requires_grad_(False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@dataclass(frozen=True)
class Case:
    """A module to build, the shape of one row, and how it is scored."""

    build: Callable[[], nn.Module]
    row: Shape
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def batch(self, rows: int = 6, *leading: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = generator_from(seed)
        x = torch.randn(*leading, rows, *self.row, generator=generator)
        if self.loss is F.mse_loss:
            return x, x
        return x, torch.randint(3, (*leading, rows), generator=generator)


ZOO = {
    "mlp": Case(mlp(4, 7, 3), (4,)),
    "convolution": Case(ConvNet, (2, 6, 6)),
    "lstm": Case(Recurrent, (4, 3)),
    "transformer": Case(Transformer, (5, 8)),
    "tied": Case(Tied, (4,), F.mse_loss),
    "branching": Case(Branching, (4,)),
    "reassigning": Case(Reassigning, (4,)),
    "frozen": Case(Frozen, (4,)),
}

# What an engine cannot compute, and what it says.
DECLINES = {
    "vmap": {
        "lstm": "atching rule not implemented for aten::lstm",
        "transformer": "batching rule for aten::_(transformer_encoder|scaled_dot_product)",
        "branching": "data-dependent control flow",
    },
    "batched": {
        "branching": "symbolically traced variables cannot be used as inputs to control flow",
        "reassigning": "it assigns to level",
    },
}
DECLINES["batched/2"] = DECLINES["batched"]
DECLINES["simd"] = DECLINES["batched"] | {
    "convolution": "it has Conv2d",
    "lstm": "it has LSTM",
    "transformer": "its layers are not one after another",
    "tied": "a weight is used twice",
    "reassigning": "its layers are not one after another",
}
ENGINES = ["loop", "vmap", "batched", "batched/2", "simd"]


def close(a: Tensor, b: Tensor) -> None:
    """Equal to 1e-5, the promise of every engine."""
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """The same names and the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SEVERAL = 3


def population(name: str, engine: str) -> ge.Population:
    """A few members of a module of the zoo."""
    return ge.Population(ZOO[name].build, SEVERAL, generator=generator_from(3), engine=engine)
