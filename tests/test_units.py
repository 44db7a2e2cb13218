"""Whole hidden units go once nothing reads them, and nothing else changes."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradevo.algorithms.ladder import foot
from gradevo.models import LeNet5, mlp
from gradevo.operators import masks as masking
from gradevo.operators import units
from gradevo.operators.symmetry import find_symmetry
from gradevo.population import Population
from gradevo.randomness import generator_from


def narrow() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 2)
    )


BUILDS = {
    "perceptron": (mlp(4, 6, 5, 3), (4,)),
    "convolutions": (narrow, (1, 4, 4)),
    "one layer": (lambda: nn.Sequential(nn.Linear(4, 3)), (4,)),
}
EACH = pytest.mark.parametrize("kind", BUILDS)


def start(kind, size=3, seed=0):
    build, shape = BUILDS[kind]
    population = Population(build, size, generator=generator_from(seed))
    names = masking.prunable(population.tensors, population.structure.trainable)
    x = torch.randn(5, *shape, generator=generator_from(1))
    return population, names, find_symmetry(population.member(0), x), x


def outputs(population, tensors, x):
    population.load(tensors)
    return [population.member(i).eval()(x) for i in range(len(population))]


@EACH
@settings(max_examples=60, deadline=None)
@given(density=st.floats(0.02, 1), seed=st.integers(0, 1000))
def test_what_nothing_reads_is_gone_and_the_function_stays(kind, density, seed):
    population, names, symmetry, x = start(kind)
    rates = torch.full((3,), density)
    masks = masking.drawn(population.tensors, names, rates, generator_from(seed))
    fewer = units.without_unread(symmetry, masks, masks)
    before = outputs(population, masking.masked(population.tensors, masks), x)
    after = outputs(population, masking.masked(population.tensors, fewer), x)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(before, after, strict=True))
    assert all(not (fewer[name] & ~mask).any() for name, mask in masks.items())
    again = units.without_unread(symmetry, fewer, fewer)
    assert all(torch.equal(again[name], mask) for name, mask in fewer.items())


@EACH
@settings(max_examples=60, deadline=None)
@given(share=st.floats(0.0, 1), seed=st.integers(0, 1000))
def test_only_units_that_nothing_reads_are_empty_and_only_they(kind, share, seed):
    population, names, symmetry, _ = start(kind, seed=seed)
    masks = masking.full(population.tensors, names)
    keep = torch.full((3,), round(share * masking.total(masks)))
    left = units.thin(population.tensors, masks, keep, symmetry)
    filled = {name: mask.flatten(2).any(2) for name, mask in left.items()}  # (g, units)
    for one, after in pairwise(names):
        readers = left[after].movedim(2, 1).flatten(2)
        read = readers.unflatten(1, (filled[one].shape[1], -1)).flatten(2).any(2)
        assert torch.equal(filled[one], read)
    assert bool(filled[names[-1]].all())
    held = sum(one.sum(1) for one in filled.values())
    room = masking.count(units.without_unread(symmetry, masks, left))
    assert torch.equal(masking.count(left), torch.minimum(room, torch.maximum(keep, held)))


@EACH
def test_the_largest_weights_of_the_units_that_remain_are_kept(kind):
    population, names, symmetry, _ = start(kind)
    masks = masking.full(population.tensors, names)
    keep = torch.full((3,), masking.total(masks) // 3)
    left = units.thin(population.tensors, masks, keep, symmetry)
    remain = units.without_unread(symmetry, masks, left)
    wanted = masking.thin(population.tensors, remain, keep, free=())
    assert all(torch.equal(left[name], mask) for name, mask in wanted.items())


def test_without_a_symmetry_no_unit_goes():
    population, names, _, _ = start("perceptron")
    masks = masking.full(population.tensors, names)
    left = units.thin(population.tensors, masks, torch.full((3,), 1), None)
    assert all(bool(mask.flatten(2).any(2).all()) for mask in left.values())
    assert masking.count(left).tolist() == [14] * 3


def test_the_foot_is_lower_where_units_may_go():
    module = LeNet5()
    symmetry = find_symmetry(module, torch.randn(2, 1, 28, 28))
    tensors = {name: p.unsqueeze(0) for name, p in module.named_parameters()}
    masks = masking.full(tensors, masking.prunable(tensors, tensors))
    weights = masking.total(masks)
    assert units.lasting(masks, symmetry) == 10
    assert units.lasting(masks, None) == 6 + 16 + 120 + 84 + 10
    assert foot(masks, None, symmetry) == (12.5 + 113) / weights
    assert foot(masks, None, None) == 1.25 * 236 / weights
    assert foot(masks, 1e-9, symmetry) == 10 / weights
    assert foot(masks, 0.5, symmetry) == 0.5
