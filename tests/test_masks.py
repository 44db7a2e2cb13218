"""Masks: what is kept, what comes back, and that learning leaves alone what is gone."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradevo.health import counted
from gradevo.learning import clone, learn, outcome, same_for_all
from gradevo.operators import masks as masking
from gradevo.operators.masks import count, density, drawn, full, grow, masked, thin, total, zero
from gradevo.optimisers import resolve
from gradevo.phase import Phase, Recipe, Streams
from gradevo.randomness import generator_from
from gradevo.share import Share
from problems import Everything, make_problem

MANY = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
EACH = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])
SHAPES = {"dense": (5, 4), "conv": (3, 2, 2, 2), "lstm.weight_hh_l0": (4, 2), "empty": (2, 1)}
GATES = ("lstm.weight_hh_l0",)
KEEPS = st.lists(st.integers(0, 60), min_size=3, max_size=3).map(torch.tensor)


def members(seed, dtype=torch.float32, rounded=False):
    """Three members, of which some weights are there; a unit of "empty" has none."""
    generator = generator_from(seed)
    tensors = {n: torch.randn(3, *s, generator=generator).to(dtype) for n, s in SHAPES.items()}
    if rounded:  # many weights of one size
        tensors = {n: t.round() for n, t in tensors.items()}
    masks = drawn(tensors, SHAPES, torch.tensor([0.3, 0.7, 1.0]), generator)
    masks["empty"][:, 0] = False
    return tensors, masks


def flat(tensors):
    """All entries of each member in a row, `(g, entries)`."""
    return torch.cat([t.flatten(1) for t in tensors.values()], dim=1)


def units(mask):
    """Whether each unit has a weight, `(g, units)`."""
    return mask.flatten(2).any(2)


def row(tensors, i):
    return {name: t[i : i + 1] for name, t in tensors.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- losing weights ------------------------------------------------------------------------


def sizes_by_hand(tensors, masks, keep, free, i):
    """Sizes of the weights that stay: the largest of every unit, then the largest of all."""
    safe, rest = [], []
    for name, mask in masks.items():
        for unit, there in zip(tensors[name][i].flatten(1), mask[i].flatten(1), strict=True):
            sizes = sorted(unit[there].abs().tolist(), reverse=True)
            first = 0 if name in free else 1
            safe, rest = safe + sizes[:first], rest + sizes[first:]
    return sorted(safe + sorted(rest, reverse=True)[: max(0, keep - len(safe))])


@pytest.mark.parametrize("free", [(), GATES])
@MANY
@given(seed=SEEDS, keep=KEEPS, dtype=EACH, rounded=st.booleans())
def test_thinning_keeps_the_largest_of_every_unit_and_then_of_all(free, seed, keep, dtype, rounded):
    tensors, masks = members(seed, dtype, rounded)
    before = clone(tensors), clone(masks)
    new = thin(tensors, masks, keep, free)
    for i in range(3):
        sizes = flat(tensors)[i][flat(new)[i]].abs().tolist()
        assert sorted(sizes) == sizes_by_hand(tensors, masks, int(keep[i]), free, i)
        assert same(row(new, i), thin(row(tensors, i), row(masks, i), keep[i : i + 1], free))
    assert not (flat(new) & ~flat(masks)).any()
    for name in SHAPES.keys() - set(free):
        assert torch.equal(units(new[name]), units(masks[name]))
    assert same(tensors, before[0]) and same(masks, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_sizes_are_thinned_to_the_exact_number(dtype):
    tensors = {name: torch.ones(1, *shape, dtype=dtype) for name, shape in SHAPES.items()}
    masks = full(tensors, SHAPES)
    for keep in range(56):
        new = thin(tensors, masks, torch.tensor([keep]), GATES)
        assert int(count(new)) == min(max(keep, 10), 54)  # 10 units that are not free
        assert all(bool(units(new[name]).all()) for name in SHAPES.keys() - set(GATES))


def test_with_more_units_than_weights_to_keep_each_has_one():
    tensors, masks = members(0)
    new = thin(tensors, masks, torch.zeros(3, dtype=torch.int64), GATES)
    for name in SHAPES:
        wanted = torch.zeros_like(units(masks[name])) if name in GATES else units(masks[name])
        assert torch.equal(new[name].flatten(2).sum(2), wanted.long())


def test_weights_of_float64_are_told_apart_to_the_last_digit():
    weights = {"w": (1 + 1e-14 * torch.arange(6, dtype=torch.float64)).view(1, 1, 6)}
    there, two = full(weights, ["w"]), torch.tensor([2])
    last = [0, 0, 0, 0, 1, 1]
    assert thin(weights, there, two, ())["w"].flatten().tolist() == last
    assert grow({"w": ~there["w"]}, weights, two)["w"].flatten().tolist() == last


@MANY
@given(seed=SEEDS, keep=KEEPS, rate=st.floats(0, 1))
def test_weights_or_gradients_of_nan_spoil_no_other_member_and_bring_nothing_back(seed, keep, rate):
    tensors, masks = members(seed)
    spoilt = clone(tensors)
    for tensor in spoilt.values():
        lost = torch.rand(tensor[0].shape, generator=generator_from(seed)) < rate
        tensor[0].masked_fill_(lost, math.nan)
    thinner, denser = thin(spoilt, masks, keep, ()), grow(masks, spoilt, keep)
    assert not (flat(thinner) & ~flat(masks)).any()
    assert not (flat(masks) & ~flat(denser)).any()
    for i in (1, 2):
        assert same(row(thinner, i), row(thin(tensors, masks, keep, ()), i))
        assert same(row(denser, i), row(grow(masks, tensors, keep), i))


# --- getting weights back ------------------------------------------------------------------


@MANY
@given(seed=SEEDS, keep=KEEPS, dtype=EACH, rounded=st.booleans())
def test_what_comes_back_is_where_the_gradient_is_largest(seed, keep, dtype, rounded):
    gradients, masks = members(seed, dtype, rounded)
    new = grow(masks, gradients, keep)
    old, grown = flat(masks), flat(new)
    assert not (old & ~grown).any()
    for i in range(3):
        sizes = sorted(flat(gradients)[i][~old[i]].abs().tolist(), reverse=True)
        missing = max(0, int(keep[i]) - int(old[i].sum()))
        back = flat(gradients)[i][grown[i] & ~old[i]].abs().tolist()
        assert sorted(back, reverse=True) == sizes[:missing]
        assert same(row(new, i), grow(row(masks, i), row(gradients, i), keep[i : i + 1]))


def test_gradients_of_nan_come_last_and_infinite_ones_first():
    gradients = {"w": torch.tensor([[[math.nan, 1.0, -math.inf, 2.0]]])}
    none = {"w": torch.zeros(1, 1, 4, dtype=torch.bool)}
    found = [grow(none, gradients, torch.tensor([k]))["w"].flatten().int() for k in range(5)]
    assert torch.stack(found).sum(0).tolist() == [1, 2, 4, 3]


# --- by chance -----------------------------------------------------------------------------


def test_drawn_masks_have_the_densities_that_were_asked_for():
    tensors = {"w": torch.ones(5, 40, 50), "v": torch.ones(5, 10, 10, 5, 5)}
    shares = torch.tensor([0.0, 0.02, 0.3, 0.9, 1.0])
    masks = drawn(tensors, tensors, shares, generator_from(0))
    spread = (shares * (1 - shares) / 4500).sqrt()
    assert ((density(masks) - shares).abs() <= 4 * spread).all()
    assert total(masks) == 4500
    assert same(masks, drawn(tensors, tensors, shares, generator_from(0)))
    assert not same(masks, drawn(tensors, tensors, shares, generator_from(1)))


def test_zeroing_takes_the_share_that_was_asked_for():
    masks = full({"w": torch.ones(3, 100, 50)}, ["w"])
    for rate in (0.0, 0.01, 0.3, 1.0):
        left = density(zero(masks, rate, generator_from(0), free=None))
        assert ((1 - left - rate).abs() <= 4 * math.sqrt(rate * (1 - rate) / 5000)).all()


@pytest.mark.parametrize("free", [(), GATES, None])
@MANY
@given(seed=SEEDS, rate=st.floats(0, 1))
def test_zeroing_brings_nothing_back_and_empties_free_units_only(free, seed, rate):
    masks = members(seed)[1]
    before = clone(masks)
    new = zero(masks, rate, generator_from(seed), free)
    assert same(masks, before)
    assert not (flat(new) & ~flat(masks)).any()
    for name in SHAPES:
        if free is not None and name not in free:
            assert torch.equal(units(new[name]), units(masks[name]))
        elif rate == 1:
            assert not new[name].any()


# --- what masks say ------------------------------------------------------------------------


@MANY
@given(SEEDS, EACH)
def test_counts_and_densities_are_those_of_the_entries(seed, dtype):
    tensors, masks = members(seed, dtype)
    tensors["bias"] = torch.zeros(3, 5, dtype=dtype)
    zeroed = masked(tensors, masks)
    assert zeroed.keys() == tensors.keys()
    assert zeroed["bias"] is tensors["bias"]
    assert same(masking.of_values(zeroed, SHAPES), masks)
    for name, mask in masks.items():
        assert zeroed[name].dtype == dtype
        assert torch.equal(zeroed[name], torch.where(mask, tensors[name], 0))
    assert torch.equal(count(masks), flat(masks).sum(1))
    assert torch.equal(density(masks), flat(masks).double().mean(1))
    assert total(masks) == flat(masks).shape[1]


def test_weights_have_two_axes_and_learn_and_gates_are_recurrent():
    population = make_problem(Everything).population
    names = masking.prunable(population.tensors, population.structure.trainable)
    assert names == ("inner.weight", "outer.weight")
    lstm = dict(nn.LSTM(2, 3, num_layers=2).named_parameters())
    assert masking.gates(lstm) == ("weight_hh_l0", "weight_hh_l1")


# --- learning under a mask -----------------------------------------------------------------

OPTIMISERS = {
    "Adam": {}, "AdamW": {"weight_decay": 0.3}, "SGD": {"momentum": 0.9, "weight_decay": 0.01},
    "RMSprop": {"momentum": 0.5}, "Adagrad": {}, "NAdam": {}, "Rprop": {}, "ASGD": {},
    "Adamax": {}, "Adadelta": {}, "RAdam": {},
    "Muon": {}, "Adafactor": {}, "LBFGS": {"max_iter": 3},
}  # fmt: skip
if not hasattr(torch.optim, "Muon"):
    del OPTIMISERS["Muon"]
# Others carry rows, columns or histories (Adafactor, LBFGS), or a least number (Rprop, Adamax).
MOMENTS = [n for n in OPTIMISERS if n not in ("Adafactor", "LBFGS", "Rprop", "Adamax")]
EVERY = pytest.mark.parametrize("optimizer", OPTIMISERS)
CLIPPED = [(n, None) for n in OPTIMISERS] + [
    (n, 0.5) for n in ("Adam", "SGD", "Adafactor", "LBFGS")
]
AND_CLIP = pytest.mark.parametrize(("optimizer", "clip"), CLIPPED)
ALONE = [case for case in CLIPPED if case[0] != "Muon"]  # torch's takes matrices only


def sparse(problem, share=0.5, seed=0):
    """Masks of the problem's members."""
    population = problem.population
    names = masking.prunable(population.tensors, population.structure.trainable)
    shares = torch.full((population.size,), share)
    return drawn(population.tensors, names, shares, generator_from(seed))


def rate_of(optimizer):
    """LBFGS diverges with more, on some processors to NaN."""
    return 1e-3 if optimizer == "LBFGS" else 0.02


def phase_of(problem, masks, lr=0.02, **more):
    tensors = masked(problem.population.tensors, masks)
    losses = torch.full((problem.population.size,), math.inf, dtype=torch.float64)
    hyper = same_for_all({"lr": lr}, problem.population.size)
    whole, nothing = (
        Share.whole(len(losses)),
        (counted(len(losses)), torch.full_like(losses, math.nan)),
    )
    return Phase(tensors, hyper, losses, whole, *nothing, mean=clone(tensors), masks=masks, **more)


def recipe_of(optimizer, steps, clip=None):
    return Recipe(
        optimizer, steps, OPTIMISERS[optimizer], clip=clip, backoff=False, average=0.3,
        shared_batch=True,
    )  # fmt: skip


def leftovers(tensors, masks):
    """Entries that are gone and are not zero."""
    return sum(int((tensors[name][~mask] != 0).sum()) for name, mask in masks.items())


def carried(state, masks, size=2):
    """Numbers that optimisers carry for what is gone, where they are laid out as the weights."""
    found = []
    for k, own in enumerate(state):
        for n, numbers in own.items():
            shared = len(state) == 1  # one instance for all, with a tensor a member
            i = n * size // len(own) if shared else k * size // len(state)
            gone = {tuple(mask[i].shape): ~mask[i] for mask in masks.values()}
            tensors = [t for t in numbers.values() if getattr(t, "shape", None) in gone]
            found += [t[gone[t.shape]] for t in tensors]
    assert found
    return int((torch.cat(found) != 0).sum())


@AND_CLIP
def test_what_is_gone_stays_exactly_zero_for_a_hundred_steps(optimizer, clip):
    problem = make_problem(Everything, size=2)
    masks = sparse(problem)
    phase = phase_of(problem, masks, rate_of(optimizer))
    streams, start = Streams.start(problem, generator_from(5)), clone(phase.tensors)
    learn(problem, recipe_of(optimizer, 100, clip), phase, streams)
    assert phase.step == 100
    assert leftovers(phase.tensors, masks) == leftovers(outcome(phase), masks) == 0
    for name, mask in masks.items():
        assert (phase.tensors[name] != start[name])[mask].double().mean() > 0.5


@EVERY
def test_what_goes_between_two_phases_stays_gone_with_the_optimisers_state_carried_on(optimizer):
    problem = make_problem(Everything, size=2)
    masks = sparse(problem, 0.8)
    lr = rate_of(optimizer)
    phase, streams = phase_of(problem, masks, lr), Streams.start(problem, generator_from(5))
    learn(problem, recipe_of(optimizer, 20), phase, streams)
    fewer = thin(phase.tensors, masks, count(masks) // 2, free=())
    assert (count(fewer) < count(masks)).all()
    phase = phase_of(problem, fewer, lr, optimizer=phase.optimizer)
    for step in range(1, 11):
        learn(problem, recipe_of(optimizer, step), phase, streams)
        assert leftovers(phase.tensors, fewer) == leftovers(phase.mean, fewer) == 0


@pytest.mark.parametrize("optimizer", MOMENTS)
def test_optimisers_carry_nothing_for_what_is_gone(optimizer):
    problem = make_problem(size=2)
    masks = sparse(problem, 0.8)
    phase, streams = phase_of(problem, masks), Streams.start(problem, generator_from(5))
    learn(problem, recipe_of(optimizer, 5), phase, streams)
    fewer = thin(phase.tensors, masks, count(masks) // 2, free=())
    assert carried(phase.optimizer, fewer) > 0
    phase = phase_of(problem, fewer, optimizer=phase.optimizer)
    learn(problem, recipe_of(optimizer, 1), phase, streams)
    assert carried(phase.optimizer, fewer) == 0


def by_hand(problem, i, masks, recipe, lr):
    """Member `i` trained by torch alone: gradients and weights that are gone set to zero."""
    module = problem.population.member(i)
    there = {name: mask[i] for name, mask in masks.items()}

    @torch.no_grad()
    def prune():
        for name, mask in there.items():
            module.get_parameter(name).mul_(mask)

    prune()
    for name, mask in there.items():
        module.get_parameter(name).register_hook(lambda gradient, mask=mask: gradient * mask)
    optimizer = resolve(recipe.optimizer)(module.parameters(), lr=lr, **recipe.options)
    streams = Streams.start(problem, generator_from(5))
    for _ in range(recipe.steps):
        x, y = problem.source.draw(streams.data, 4, True)

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(module(x), y)
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
            return loss

        optimizer.step(closure)
        prune()
    return module


@pytest.mark.parametrize(("optimizer", "clip"), ALONE)
def test_what_is_there_learns_as_torch_trains_it_with_a_hook_on_the_gradient(optimizer, clip):
    problem = make_problem(dtype=torch.float64)
    steps = 10 if optimizer == "LBFGS" else 30  # LBFGS makes much of the last digit
    masks, recipe = sparse(problem), recipe_of(optimizer, steps, clip)
    modules = [by_hand(problem, i, masks, recipe, 0.02) for i in range(4)]
    phase = phase_of(problem, masks)
    learn(problem, recipe, phase, Streams.start(problem, generator_from(5)))
    for i, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(phase.tensors[name][i], parameter.detach())
