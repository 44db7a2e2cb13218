"""Values of every kind that comes into an argument by mistake, each with a word for it."""

import datetime
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

Value = tuple[str, Callable[[], Any]]


def _same(value: Any) -> Value:
    return repr(value), lambda: value


HUGE: list[Value] = [("2**63", lambda: 2**63), ("10**400", lambda: 10**400), _same(1e300)]
NUMBERS: list[Value] = [
    _same(value)
    for value in (
        -7, -1, 0, 1, 2, 3, -0.5, 0.0, 0.25, 0.5, 1.0, 1.5, 3.0,
        math.nan, math.inf, -math.inf, True, False, 1j, Fraction(1, 2),
        np.int64(2), np.int8(-1), np.uint8(3), np.float32(0.5), np.float64(math.nan),
        np.bool_(True),
    )
]  # fmt: skip
ARRAYS: list[Value] = [
    ("np.array(2)", lambda: np.array(2)),
    ("np.array([1, 2])", lambda: np.array([1, 2])),
    ("np.array(['a'])", lambda: np.array(["a"])),
    ("torch.tensor(2)", lambda: torch.tensor(2)),
    ("torch.tensor(0.5)", lambda: torch.tensor(0.5)),
    ("torch.ones(2)", lambda: torch.ones(2)),
    ("torch.empty((), device='meta')", lambda: torch.empty((), device="meta")),
    ("pd.Series([1, 2])", lambda: pd.Series([1, 2])),
    ("pd.DataFrame({'a': [1]})", lambda: pd.DataFrame({"a": [1]})),
]
WORDS: list[Value] = [
    _same(value)
    for value in (
        "", "auto", "loop", "no", "0", "a" * 300, "cuda:99", "gpu", "\0", b"bytes",
        Path("/dev/null"),
    )
]  # fmt: skip
HEAPS: list[Value] = [
    ("None", lambda: None),
    ("()", lambda: ()),
    ("[]", lambda: []),
    ("{}", lambda: {}),
    ("set()", lambda: set()),
    ("(1, 2)", lambda: (1, 2)),
    ("[0.5, 'a']", lambda: [0.5, "a"]),
    ("('lr',)", lambda: ("lr",)),
    ("['lr', 'lr']", lambda: ["lr", "lr"]),
    ("{'momentun': 0.9}", lambda: {"momentun": 0.9}),
    ("{1: 2}", lambda: {1: 2}),
    ("range(3)", lambda: range(3)),
    ("a generator", lambda: (i for i in range(3))),
]
THINGS: list[Value] = [
    ("object()", object),
    ("int", lambda: int),
    ("print", lambda: print),
    ("len", lambda: len),
    ("lambda: 1", lambda: lambda: 1),
    ("lambda *a: 'text'", lambda: lambda *a: "text"),
    ("nn.Linear", lambda: nn.Linear),
    ("nn.Linear(4, 3)", lambda: nn.Linear(4, 3)),
    ("nn.CrossEntropyLoss", lambda: nn.CrossEntropyLoss),
    ("torch.optim.Adam", lambda: torch.optim.Adam),
    ("an Adam", lambda: torch.optim.Adam(nn.Linear(4, 3).parameters())),
    ("torch.Generator()", torch.Generator),
    ("np.random.default_rng(0)", lambda: np.random.default_rng(0)),
    ("torch.device('cpu')", lambda: torch.device("cpu")),
    ("a date", lambda: datetime.date(2020, 1, 1)),
    ("ValueError('x')", lambda: ValueError("x")),
]
MODEST = [*NUMBERS, *ARRAYS, *WORDS, *HEAPS, *THINGS]  # no run of them is endless
VALUES = [*HUGE, *MODEST]
TYPED: list[Value] = [  # on a command line
    _same(word)
    for word in (
        "-1", "0", "1", "2", "0.5", "1.5", "nan", "inf", "-inf", "1e400", "True", "no", "", "a",
        "1,2", "a,b", ",", "loop", "gpu", "none", "None", "[1]",
    )
]  # fmt: skip
