"""Modules that hold more than parameters and buffers, each in another way."""

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH, CLASSES = 4, 3


class Base(nn.Module):
    """Two layers, of which a subclass reaches the first in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, 5), nn.Linear(5, CLASSES)
        self.hold()

    def hold(self) -> None:
        """Keep something."""

    def encode(self, x: Tensor) -> Tensor:
        return self.a(x).tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.encode(x))


class Closure(Base):
    def hold(self) -> None:
        self.encode = lambda x: self.a(x).tanh()


class Nested(Base):
    def hold(self) -> None:
        first = self.a

        def linear(x: Tensor) -> Tensor:
            return first(x)

        def encode(x: Tensor) -> Tensor:
            return linear(x).tanh()

        self.encode = encode


class Default(Base):
    def hold(self) -> None:
        def encode(x: Tensor, layer: nn.Module = self.a, *, other: nn.Module = self.b) -> Tensor:
            return layer(x).tanh()

        self.encode = encode


class Rebound(Base):
    def hold(self) -> None:
        self.encode = types.MethodType(lambda own, x: own.a(x).tanh(), self)


class Partial(Base):
    def hold(self) -> None:
        self.encode = functools.partial(lambda layer, x: layer(x).tanh(), self.a)


class Table(Base):
    def hold(self) -> None:
        self.table = {"tanh": [(lambda x: self.a(x).tanh(),)]}

    def encode(self, x: Tensor) -> Tensor:
        return self.table["tanh"][0][0](x)


class Hooked(Base):
    def hold(self) -> None:
        self.b.register_forward_pre_hook(lambda layer, given: (given[0] + self.a.bias,))


class Helper:
    """An object that is no module."""

    def __init__(self, owner: nn.Module) -> None:
        self.owner = owner
        self.call: Callable[[Tensor], Tensor] = lambda x: owner.a(x).tanh()


class Object(Base):
    def hold(self) -> None:
        self.helper = Helper(self)

    def encode(self, x: Tensor) -> Tensor:
        return self.helper.call(x)


class Listed(Base):
    """A parameter in a plain list."""

    def hold(self) -> None:
        self.weights = [self.a.weight]

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.weights[0].T + self.a.bias).tanh()


class Reentrant(Base):
    """Computes a part again during backward."""

    def encode(self, x: Tensor) -> Tensor:
        again: Any = checkpoint(self.a, x + 0 * self.b.bias.sum(), use_reentrant=True)
        return again.tanh()


FOLLOWED = (Closure, Nested, Default, Rebound, Partial, Table, Hooked, Object, Listed, Reentrant)


class Seen(Base):
    """Keeps an activation to look at later."""

    def hold(self) -> None:
        self.seen: Any = None

    def encode(self, x: Tensor) -> Tensor:
        self.seen = {"first": [self.a(x).tanh()]}
        return self.seen["first"][0]


class Counter(Base):
    """Anneals by a count of its own, slowly."""

    def hold(self) -> None:
        self.step = 0

    def encode(self, x: Tensor) -> Tensor:
        self.step += self.training
        return self.a(x).tanh() * (1.0 if self.step < 100 else 0.5)


class Recurrent(Base):
    """Keeps its last state in a plain tensor."""

    def hold(self) -> None:
        self.state = torch.zeros(5)

    def encode(self, x: Tensor) -> Tensor:
        out = (self.a(x) + self.state).tanh()
        self.state = out.detach().mean(0)
        return out


class FirstBatch(Base):
    """Standardises by the first rows that it has ever seen."""

    def hold(self) -> None:
        self.mean: Any = None

    def encode(self, x: Tensor) -> Tensor:
        self.mean = x.mean(0) if self.mean is None else self.mean
        return self.a(x - self.mean).tanh()


class OldWeights(Base):
    """Computes with a norm of weights from its first call."""

    def hold(self) -> None:
        self.norm: Any = None

    def encode(self, x: Tensor) -> Tensor:
        self.norm = float(self.a.weight.detach().norm()) if self.norm is None else self.norm
        return (self.a(x) / self.norm).tanh()


class Draws(Base):
    """Draws from a generator of its own."""

    def hold(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def encode(self, x: Tensor) -> Tensor:
        return self.a(x + torch.rand(x.shape, generator=self.generator)).tanh()


class Stray(Base):
    """Learns by a tensor that is no parameter of its."""

    def hold(self) -> None:
        self.scale = torch.ones(5, requires_grad=True)

    def encode(self, x: Tensor) -> Tensor:
        return self.a(x).tanh() * self.scale


_shared: list[nn.Module] = []


class Global(Base):
    """Calls whichever of its kind was made last."""

    def hold(self) -> None:
        _shared[:] = [self.a]

    def encode(self, x: Tensor) -> Tensor:
        return _shared[0](x).tanh()


class Cached(Base):
    """Keeps what follows from shapes alone."""

    def hold(self) -> None:
        self.mask: Any = None

    def encode(self, x: Tensor) -> Tensor:
        if self.mask is None or self.mask.shape != x.shape[1:]:
            self.mask = torch.ones(x.shape[1:])
        return self.a(x * self.mask).tanh()


class Named(Base):
    """Has a number that says nothing."""

    made = 0

    def hold(self) -> None:
        Named.made += 1
        self.number = Named.made
