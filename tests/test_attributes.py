"""What a module holds besides tensors: the same words for the same, others for another."""

import functools
import random

import numpy as np
import pytest
import torch
from torch import nn

import holders
from gradevo.attributes import described, difference, where
from gradevo.structure import tensors_of, with_tensors

SCALE = 2.0


def scaled(factor, power=2):
    return lambda x: x**power * factor * SCALE


def counting():
    count = 0

    def function(x):
        nonlocal count
        count += 1
        return x

    return function


def documented(x):
    """Words that are no code."""
    return x + 1


def undocumented(x):
    # a comment
    return x + 1


def loss_of(text):
    room = {"torch": torch}
    exec(f"def loss(o, y):\n    return {text}", room)
    return room["loss"]


SAME = {
    "a closure": lambda: scaled(3.0),
    "a counter": counting,
    "a module": lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)),
    "a partial": lambda: functools.partial(scaled, 2),
    "a generator": lambda: torch.Generator().manual_seed(3),
    "others": lambda: [random.Random(1), np.random.default_rng(2), np.arange(3), {1, 2}, 1j, b"a"],
    "code": lambda: loss_of("(o - y).square().mean()"),
}
OTHER = {
    "a number in a closure": (scaled(3.0), scaled(4.0)),
    "a default": (scaled(3.0, 2), scaled(3.0, 3)),
    "code": (loss_of("(o - y).abs().mean()"), loss_of("(o - y).square().mean()")),
    "a constant in code": (loss_of("(o - y).mean() + 1"), loss_of("(o - y).mean() + 2")),
    "a rate": (nn.Dropout(0.1), nn.Dropout(0.2)),
    "an activation": (nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh())),
    "a function of torch": ([torch.relu], [torch.tanh]),
    "a plain tensor": ([torch.zeros(2)], [torch.ones(2)]),
    "a shape": ([torch.zeros(2)], [torch.zeros(2, 1)]),
    "an array": ([np.zeros(2)], [np.zeros(2, np.float32)]),
    "a generator": (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
    "a method": (functools.partial(nn.Linear(1, 1).train), functools.partial(nn.Linear(1, 1).eval)),
    "a sparse buffer": (torch.eye(2).to_sparse(), (2 * torch.eye(2)).to_sparse()),
}


@pytest.mark.parametrize("what", SAME)
def test_what_is_made_twice_in_the_same_way_is_described_in_the_same_way(what):
    one, other = SAME[what](), SAME[what]()
    if what == "a counter":
        one(1)
    assert described(one) == described(other)
    assert difference(described(one), described(other)) is None


@pytest.mark.parametrize("what", OTHER)
def test_what_differs_is_described_otherwise(what):
    one, other = OTHER[what]
    assert difference(described(one), described(other)) is not None


def test_words_about_code_are_no_code_and_numbers_of_tensors_that_travel_do_not_count():
    assert described(documented)[""].split()[1:] == described(undocumented)[""].split()[1:]
    assert described(nn.Linear(2, 2)) == described(nn.Linear(2, 2))
    seen = holders.Seen()
    before = described(seen)
    seen(torch.zeros(1, holders.WIDTH))
    assert described(seen)["seen.first.0"] == "a result"
    assert difference(before, described(seen)) == "seen"


def test_a_path_leads_to_what_is_held_and_circles_end():
    module = holders.Object()
    module.helper.back = [module]
    assert where(module, module.helper.call) == "helper.call"
    assert where(module, torch.zeros(1)) is None
    assert described(module)["helper.back.0"] == "that of the root"


@pytest.mark.parametrize("kind", holders.FOLLOWED, ids=lambda kind: kind.__name__)
def test_functions_in_a_copy_use_the_copy(kind):
    module, x = kind(), torch.randn(6, holders.WIDTH)
    others = {name: t + 1 for name, t in tensors_of(module).items()}
    before = module(x)
    copied = with_tensors(module, others)
    again = with_tensors(copied, {name: t.clone() for name, t in others.items()})
    module.load_state_dict(others)
    expected = module(x)
    assert not torch.allclose(before, expected)
    torch.testing.assert_close(copied(x), expected)
    copied.load_state_dict({name: 0 * t for name, t in others.items()})
    torch.testing.assert_close(again(x), expected)
