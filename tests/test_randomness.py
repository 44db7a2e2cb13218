"""Random numbers come from generators, and global states are left alone."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradevo.randomness import following, generator_from, isolated, preserved, spawn

FEW = settings(max_examples=15, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)


def draws() -> tuple:
    """Something from each global source, of each kind that leaves a trace."""
    return float(torch.randn(())), random.gauss(0, 1), float(np.random.randn())


def global_states() -> tuple:
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())


@FEW
@given(seed=SEEDS)
def test_a_block_follows_its_generator_whatever_the_global_state(seed):
    with isolated(generator_from(seed)):
        first = draws()
    draws()
    with isolated(generator_from(seed)):
        assert draws() == first
    with isolated(generator_from(seed + 1)):
        other = draws()
    assert all(a != b for a, b in zip(first, other, strict=True))


@FEW
@given(count=st.integers(0, 3))
def test_global_states_are_put_back_exactly(count):
    for _ in range(count):
        draws()  # numpy and Python keep a second normal number
    before = global_states()
    with isolated(generator_from(0)):
        draws()
    assert global_states() == before


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_global_states_are_put_back_when_the_block_fails(error):
    before, generator = global_states(), generator_from(0)
    start = generator.get_state()
    with pytest.raises(error), isolated(generator):
        draws()
        raise error
    assert global_states() == before
    assert not torch.equal(generator.get_state(), start)


def test_a_generator_moves_on_through_its_blocks():
    generator = generator_from(0)
    seen = []
    for _ in range(3):
        with isolated(generator):
            seen.append(draws())
            end = torch.get_rng_state()
        assert torch.equal(generator.get_state(), end)
    for source in zip(*seen, strict=True):
        assert len(set(source)) == 3


def test_a_block_in_a_block_is_a_world_of_its_own():
    with isolated(generator_from(1)):
        expected = [draws(), draws()]
    with isolated(generator_from(1)):
        first = draws()
        with isolated(generator_from(2)):
            inner = draws()
        assert [first, draws()] == expected
    with isolated(generator_from(2)):
        assert draws() == inner


def test_following_within_preserved_is_isolated():
    """The cheap way to run many blocks: same draws, states put back once."""
    one, two, before = generator_from(5), generator_from(5), global_states()
    expected = []
    for _ in range(3):
        with isolated(one):
            expected.append(draws())
    with preserved():
        actual = []
        for _ in range(3):
            with following(two):
                actual.append(draws())
    assert actual == expected
    assert global_states() == before
    assert torch.equal(one.get_state(), two.get_state())


@FEW
@given(seed=SEEDS)
def test_spawned_streams_differ_and_follow_the_seed(seed):
    root, again = generator_from(seed), generator_from(seed)
    streams = [spawn(root) for _ in range(3)]
    numbers = [float(torch.rand((), generator=g, dtype=torch.float64)) for g in streams]
    assert len({*numbers, float(torch.rand((), generator=root, dtype=torch.float64))}) == 4
    repeated = [spawn(again) for _ in range(3)]
    assert numbers == [float(torch.rand((), generator=g, dtype=torch.float64)) for g in repeated]


def test_making_generators_draws_nothing_from_global_state():
    before = global_states()
    spawn(generator_from(3))
    assert global_states() == before
