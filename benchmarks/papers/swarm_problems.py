"""The functions of the AdaSwarm paper's tables I to III, and its supplement's test functions."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# --- tables I to III -----------------------------------------------------------------------


@dataclass(frozen=True)
class Function:
    """A function of one variable and what the paper prints for it.

    Attributes:
        formula: as in the paper.
        f: takes x, elementwise.
        minimum: its least value.
        printed: by method, the optimum and the iterations.
        clip: None; "start set", where f is unbounded below; or the box to stay in.
        note: what must be said beside the row.
    """

    formula: str
    f: Callable[[Tensor], Tensor]
    minimum: float
    printed: dict[str, tuple[float | None, int | None]] = field(default_factory=dict)
    clip: str | tuple[float, float] | None = None
    note: str = ""


def _root_and_sine(x: Tensor) -> Tensor:
    inside = torch.where(x > 0, x, 1.0)  # so that autograd sees no root of 0
    return torch.where(x > 0, inside ** (1 / 3) + inside.sin(), 0.0)


def _printed(gd: Any, emulated_gd: Any, sgd: Any, emulated_sgd: Any) -> dict[str, Any]:
    names = ("GD", "emulated GD", "SGD with momentum", "emulated SGD with momentum")
    rows = zip(names, (gd, emulated_gd, sgd, emulated_sgd), strict=True)
    return {name: row for name, row in rows if row is not None}


FUNCTIONS = [
    Function("-(3x^5 - x^10)", lambda x: -(3 * x**5 - x**10), -2.25,
             _printed((2.6, 31), (-2.249, 9), (-1.45, 667), (-2.249, 13))),
    Function("x^3 - 3x^2 + 7", lambda x: x**3 - 3 * x**2 + 7, 3.0,
             _printed((3.0, 17), (3.0, 11), (3.0, 71), (3.0, 16)), clip="start set",
             note="unbounded below: clipped to the start set; the printed 3 is the local minimum "
                  "at 2, on the wall of [0, 2]; in [-5, 5] the least value is -193 at -5"),
    Function("-exp(cos(x^2)) + x^2", lambda x: -(x**2).cos().exp() + x**2, -math.e,
             _printed((-2.718, 349), (-2.718, 9), (-2.718, 49), (-2.706, 8))),
    Function("x^15 - sin(x) + exp(x^6)", lambda x: x**15 - x.sin() + (x**6).exp(), 0.4747057803,
             _printed((2.6, 548), (0.4747, 11), (0.679, 66), (0.4747, 6))),
    Function("sqrt(x)", torch.sqrt, 0.0, _printed(None, None, (None, None), (0.01, 22)),
             clip=(0.0, math.inf), note="clipped to its domain, x >= 0"),
    Function("sqrt(x), NaN below 0", torch.sqrt, 0.0,
             _printed(None, None, (None, None), (0.01, 22)), note="w and particles may leave the "
             "domain, where the value is NaN and counts as not reached; with momentum w swings "
             "through 0 to the end, so settled only says how the last iterations fell"),
    Function("abs(x)", torch.abs, 0.0, _printed(None, None, (0.1, 1001), (0.03, 21))),
    Function("x^(1/3) + sin(x) if x > 0 else 0", _root_and_sine, 0.0,
             _printed(None, None, (0.14, 13), (0.004, 21)),
             note="every x <= 0 is a minimum of the formula as printed"),
    Function("x if x > 0 else x^2", lambda x: torch.where(x > 0, x, x**2), 0.0,
             _printed(None, None, (0.001, 50), (0.04, 20))),
]  # fmt: skip


# --- the supplement's functions ------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A function of two variables on its usual domain; each constraint holds where <= 0."""

    name: str
    f: Callable[[Tensor, Tensor], Tensor]
    low: tuple[float, float]
    high: tuple[float, float]
    minimum: float
    constraints: tuple[Callable[[Tensor, Tensor], Tensor], ...] = ()


def _ackley(x: Tensor, y: Tensor) -> Tensor:
    bowl = -20 * torch.exp(-0.2 * torch.sqrt(0.5 * (x**2 + y**2)))
    waves = torch.exp(0.5 * ((2 * math.pi * x).cos() + (2 * math.pi * y).cos()))
    return bowl - waves + math.e + 20


def _rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    return 100 * (y - x**2) ** 2 + (1 - x) ** 2


def _beale(x: Tensor, y: Tensor) -> Tensor:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _goldstein_price(x: Tensor, y: Tensor) -> Tensor:
    a = 19 - 14 * x + 3 * x**2 - 14 * y + 6 * x * y + 3 * y**2
    b = 18 - 32 * x + 12 * x**2 + 48 * y - 36 * x * y + 27 * y**2
    return (1 + (x + y + 1) ** 2 * a) * (30 + (2 * x - 3 * y) ** 2 * b)


def _bukin(x: Tensor, y: Tensor) -> Tensor:
    return 100 * (y - 0.01 * x**2).abs().sqrt() + 0.01 * (x + 10).abs()


def _levi(x: Tensor, y: Tensor) -> Tensor:
    first = (3 * math.pi * x).sin() ** 2 + (x - 1) ** 2 * (1 + (3 * math.pi * y).sin() ** 2)
    return first + (y - 1) ** 2 * (1 + (2 * math.pi * y).sin() ** 2)


def _cross_in_tray(x: Tensor, y: Tensor) -> Tensor:
    inner = torch.exp((100 - torch.sqrt(x**2 + y**2) / math.pi).abs())
    return -1e-4 * ((x.sin() * y.sin() * inner).abs() + 1) ** 0.1


def _bird(x: Tensor, y: Tensor) -> Tensor:
    first = y.sin() * torch.exp((1 - x.cos()) ** 2) + x.cos() * torch.exp((1 - y.sin()) ** 2)
    return first + (x - y) ** 2


def _easom(x: Tensor, y: Tensor) -> Tensor:
    return -x.cos() * y.cos() * torch.exp(-((x - math.pi) ** 2) - (y - math.pi) ** 2)


def _square(name: str, f: Any, side: float, minimum: float) -> Problem:
    return Problem(name, f, (-side, -side), (side, side), minimum)


PROBLEMS = [
    _square("Ackley", _ackley, 5, 0.0),
    _square("Rosenbrock 2D", _rosenbrock, 5, 0.0),
    _square("Beale", _beale, 4.5, 0.0),
    _square("Goldstein-Price", _goldstein_price, 2, 3.0),
    _square("Booth", lambda x, y: (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2, 10, 0.0),
    Problem("Bukin N.6", _bukin, (-15, -3), (-5, 3), 0.0),
    _square("Matyas", lambda x, y: 0.26 * (x**2 + y**2) - 0.48 * x * y, 10, 0.0),
    _square("Levi N.13", _levi, 10, 0.0),
    _square("Himmelblau", lambda x, y: (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2, 5, 0.0),
    _square("Three-hump camel", lambda x, y: 2 * x**2 - 1.05 * x**4 + x**6 / 6 + x * y + y**2,
            5, 0.0),
    _square("Easom", _easom, 100, -1.0),
    _square("Cross-in-tray", _cross_in_tray, 10, -2.0626118708),
    Problem("Rosenbrock, cubic and line", _rosenbrock, (-1.5, -0.5), (1.5, 2.5), 0.0,
            (lambda x, y: (x - 1) ** 3 - y + 1, lambda x, y: x + y - 2)),
    Problem("Rosenbrock, disc", _rosenbrock, (-1.5, -1.5), (1.5, 1.5), 0.0,
            (lambda x, y: x**2 + y**2 - 2,)),
    Problem("Mishra's bird", _bird, (-10, -6.5), (0, 0), -106.7645367,
            (lambda x, y: (x + 5) ** 2 + (y + 5) ** 2 - 25,)),
]  # fmt: skip
