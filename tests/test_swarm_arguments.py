"""Every argument of the swarms' functions and configs: a right run, or an error that names it."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from gradevo.errors import CheckpointError
from gradevo.swarm import EMPSO, PSO, REMPSO, MomentumPSO, SwarmLoss, emulate, gradient, minimize

OUTPUT, TARGET = torch.linspace(0.1, 0.9, 6).view(3, 2), torch.linspace(0.8, 0.2, 6).view(3, 2)
BOX = ([-1.0, -1.0], [1.0, 1.0])


def bowl(x):
    return (x - 0.3).square().sum(dim=1)


def line(x):
    return x[:, 0]


def minimum(**more):
    given = {"f": bowl, "bounds": BOX, "particles": 4, "iterations": 2, "constraints": line}
    found = minimize(**{**given, **more})
    return found.x, found.value


def around_a_point(**more):
    found = minimize(**{"f": bowl, "x0": [0.1, 0.2], "particles": 4, "iterations": 2, **more})
    return found.x, found.value


def emulation(**more):
    run = emulate(**{"f": bowl, "bounds": BOX, "particles": 4, "iterations": 2, **more})
    return run.path, run.values


def slope(**more):
    return (gradient(**{"f": bowl, "w": [0.1, 0.2], "estimator": "near", **more}).direction,)


def criterion(**more):
    loss = SwarmLoss(**{"loss": nn.MSELoss(), "particles": 4, "estimator": "near", **more})
    assert repr(loss)
    output = OUTPUT.clone().requires_grad_()
    loss(output, TARGET).backward()
    return (output.grad,)


def moved(kind):
    return lambda **more: minimum(dynamics=kind(**more))


CALLS = {
    minimum: ["f", "bounds", "particles", "swarms", "dynamics", "constraints", "tolerance",
              "iterations", "evaluations", "target", "cube", "seed", "resume"],
    around_a_point: ["x0", "bounds", "spread"],
    emulation: ["f", "x0", "bounds", "w0", "lr", "momentum", "iterations", "particles", "swarms",
                "spread", "dynamics", "estimator", "seed"],
    slope: ["f", "w", "estimator", "particles", "iterations", "spread", "dynamics", "eta",
            "generator"],
    criterion: ["loss", "scope", "particles", "iterations", "dynamics", "estimator", "start",
                "spread", "bounds", "saturating", "eta", "engine", "seed"],
    **{moved(kind): [field.name for field in fields(kind)]
       for kind in (EMPSO, PSO, MomentumPSO, REMPSO)},
}  # fmt: skip
ARGUMENTS = [(call, name) for call, names in CALLS.items() for name in names]
SAID = {*(name for _, name in ARGUMENTS), "c1 + c2", "checkpoint"}

plain = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 6), st.floats(-3, 3),
    st.sampled_from([math.nan, math.inf, -math.inf, 2**64, -(10**30), 10**400, 1e300, 1e-300, 1j]),
    st.sampled_from(["", "x", "rank", "row", "entry", "batch", "torch", "range", b"", {}, set()]),
    st.sampled_from([print, len, bowl, nn.MSELoss, nn.MSELoss(), nn.Linear(2, 2), EMPSO,
                     PSO(), torch.Generator(), torch.float32, slice(3), object(), iter([1, 2])]),
)  # fmt: skip
lists = st.lists(
    st.one_of(st.floats(-1, 1), plain, st.lists(st.floats(-1, 1), max_size=3)), max_size=3
)
arrays = st.sampled_from([
    torch.tensor(0.5), torch.ones(2), torch.ones(2).half(), torch.ones(2, dtype=torch.complex64),
    torch.empty(0), torch.empty(2, device="meta"), torch.eye(2).to_sparse(), torch.ones(2, 2, 2, 2),
    np.array(0.5), np.ones(3), np.array(["x"]), np.array([None]), np.array([]), np.bool_(True),
    np.float16(0.5), np.datetime64("2020-01-01"), np.array([-1.0, 1.0]),
])  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(ARGUMENTS), st.one_of(plain, lists, lists.map(tuple), arrays))
def test_whatever_is_given_is_right_or_refused_by_name(argument, value):
    call, name = argument
    assume(name != "iterations" or not isinstance(value, int) or value < 10)  # it would take long
    try:
        found = call(**{name: value})
    except (ValueError, TypeError, ImportError, CheckpointError) as error:
        assert str(error).split(":")[0].split("[")[0] in SAID
    else:
        assert all(bool(t.isfinite().all()) for t in found)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ARGUMENTS), st.integers(1, 4), st.floats(0.01, 0.99), st.booleans())
def test_numbers_of_numpy_and_tensors_without_axes_are_numbers(argument, whole, share, flag):
    call, name = argument
    for value, *same in (
        (whole, np.int64(whole), np.uint8(whole), np.array(whole), torch.tensor(whole)),
        (share, np.float64(share), np.array(share), torch.tensor(share, dtype=torch.float64)),
        (flag, np.bool_(flag), torch.tensor(flag)),
    ):
        try:
            expected = call(**{name: value})
        except (ValueError, TypeError, CheckpointError):
            expected = None
        for other in same:
            if expected is None:
                with pytest.raises((ValueError, TypeError), match=rf"{name}|c1 \+ c2"):
                    call(**{name: other})
            else:
                assert all(map(torch.equal, call(**{name: other}), expected))
