"""Matching of hidden units before crossover."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from torch import nn

from chains import (
    EVERY,
    FEW,
    IMAGES,
    NETS,
    SEEDS,
    distance,
    inner,
    loaded,
    made,
    same,
    shuffles,
    tensors,
)
from gradevo.operators.alignment import align, match_units, permute
from gradevo.operators.symmetry import find_symmetry

pytestmark = pytest.mark.usefixtures("seeded")


@EVERY
@FEW
@given(seed=SEEDS)
def test_a_permuted_network_computes_the_same_function(kind, seed):
    net = made(kind, seed).double()
    symmetry = find_symmetry(net)
    before = tensors(net)
    after = permute(symmetry, before, shuffles(symmetry, 1, seed))
    x = torch.randn(NETS[kind][1], generator=torch.Generator().manual_seed(seed)).double()
    assert not same(before, after)
    torch.testing.assert_close(loaded(net, after)(x), net(x), rtol=1e-5, atol=1e-8)


@EVERY
def test_an_aligned_network_computes_the_same_function(kind):
    first, second = made(kind, 1).double(), made(kind, 2).double()
    aligned = align(find_symmetry(first), tensors(first), tensors(second))
    x = torch.randn(NETS[kind][1], generator=torch.Generator().manual_seed(3)).double()
    assert not same(aligned, tensors(second))
    torch.testing.assert_close(loaded(second, aligned)(x), second(x), rtol=1e-5, atol=1e-8)


@EVERY
def test_every_entry_of_every_hidden_layer_belongs_to_the_symmetry(kind):
    net = made(kind, 0)
    symmetry = find_symmetry(net)
    state = {name: tensor[None] for name, tensor in net.state_dict().items()}
    distinct = {n: torch.arange(1.0, t.numel() + 1).view(t.shape) for n, t in state.items()}
    turned = permute(symmetry, distinct, [torch.arange(n).flip(0)[None] for n in symmetry.units])
    moved = {name for name in state if not torch.equal(turned[name], distinct[name])}
    assert moved == {axis.name for group in symmetry.groups for axis in group}
    weights = [name for name, tensor in net.named_parameters() if tensor.dim() > 1]
    assert set(weights) <= moved


@EVERY
@FEW
@given(seed=SEEDS)
def test_aligning_a_permuted_copy_gives_the_original_back_exactly(kind, seed):
    net = made(kind, seed)
    symmetry, original = find_symmetry(net), tensors(net)
    shuffled = permute(symmetry, original, shuffles(symmetry, 1, seed))
    assert same(align(symmetry, original, shuffled), original)


def chain(*sizes: int) -> nn.Module:
    return nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise(sizes)])


def test_a_permuted_copy_is_recovered_where_plain_coordinate_descent_gets_stuck():
    originals = tensors(*[chain(3, 8, 100, 8, 3) for _ in range(5)])
    symmetry = find_symmetry(chain(3, 8, 100, 8, 3))
    shuffled = permute(symmetry, originals, shuffles(symmetry, 5, 0))
    assert same(align(symmetry, originals, shuffled), originals)


def test_each_pair_starts_from_the_better_of_its_order_and_what_feeds_the_units():
    net, stranger = chain(3, 20, 100, 20, 3), chain(3, 20, 100, 20, 3)
    symmetry, reference = find_symmetry(net), tensors(net, net)
    orders = shuffles(symmetry, 2, 0)
    for order in orders:
        order[1] = torch.arange(order.shape[1])  # pair 0 is a shuffled copy, pair 1 stands well
    other = permute(symmetry, reference, orders)
    for name in ("0.weight", "0.bias"):  # in pair 1 what feeds the units leads astray
        other[name][1] = stranger.state_dict()[name]
    aligned = align(symmetry, reference, other)
    gain = inner(reference, aligned, net) - inner(reference, other, net)
    assert all(torch.equal(aligned[name][0], reference[name][0]) for name in reference)
    assert gain[1].item() >= 0


def test_units_that_are_all_alike_stay_where_they_are():
    net = made("mlp", 0)
    alike = {name: torch.ones_like(tensor) for name, tensor in tensors(net).items()}
    other = tensors(net)
    assert same(align(find_symmetry(net), alike, other), other)


@EVERY
@FEW
@given(seed=SEEDS)
def test_aligning_never_lowers_the_similarity_nor_increases_the_distance(kind, seed):
    first, second = made(kind, seed), made(kind, seed + 1)
    reference, other = tensors(first), tensors(second)
    aligned = align(find_symmetry(first), reference, other)
    gain = inner(reference, aligned, first) - inner(reference, other, first)
    closer = distance(reference, other, first) - distance(reference, aligned, first)
    assert gain.item() > 0  # unrelated parents: there is always something to gain
    assert closer.item() == pytest.approx(2 * gain.item(), rel=1e-4)


def test_a_pair_that_is_matched_best_already_stays_as_it_is():
    net = made("mlp", 0)
    near = {n: t + 0.01 * torch.randn_like(t) for n, t in tensors(made("mlp", 0)).items()}
    assert same(align(find_symmetry(net), tensors(net), near), near)


def test_the_result_cannot_be_improved_by_swapping_two_units():
    first, second = made("mlp", 3), made("mlp", 4)
    symmetry, reference = find_symmetry(first), tensors(first)
    aligned = align(symmetry, reference, tensors(second))
    best = inner(reference, aligned, first).item()
    for group, units in enumerate(symmetry.units):
        for i in range(units):
            for j in range(i):
                order = [torch.arange(n)[None] for n in symmetry.units]
                order[group][0, [i, j]] = order[group][0, [j, i]]
                swapped = permute(symmetry, aligned, order)
                assert inner(reference, swapped, first).item() <= best + 1e-6


@EVERY
@FEW
@given(seed=SEEDS)
def test_aligning_twice_is_aligning_once(kind, seed):
    first, second = made(kind, seed), made(kind, seed + 1)
    symmetry, reference = find_symmetry(first), tensors(first)
    once = align(symmetry, reference, tensors(second))
    assert same(align(symmetry, reference, once), once)


@EVERY
def test_pairs_of_a_batch_are_aligned_as_one_at_a_time(kind):
    first, second = ([made(kind, 10 * s + i) for i in range(4)] for s in (1, 2))
    symmetry = find_symmetry(first[0])
    together = align(symmetry, tensors(*first), tensors(*second))
    alone = [align(symmetry, tensors(a), tensors(b)) for a, b in zip(first, second, strict=True)]
    assert same(together, {name: torch.cat([row[name] for row in alone]) for name in together})


def test_running_statistics_move_with_their_unit_but_do_not_weigh():
    net = made("normed mlp", 0)
    symmetry, reference, other = find_symmetry(net), tensors(net), tensors(made("normed mlp", 1))
    plain = match_units(symmetry, reference, other)
    for name in ("2.running_mean", "2.running_var"):
        other[name] = other[name].flip(1) * 1e6
    loud = match_units(symmetry, reference, other)
    assert all(torch.equal(a, b) for a, b in zip(plain, loud, strict=True))
    aligned = align(symmetry, reference, other)
    assert torch.equal(aligned["2.running_mean"], other["2.running_mean"][:, plain[0][0]])
    assert not torch.equal(aligned["2.running_mean"], other["2.running_mean"])


def test_inputs_are_unchanged_and_other_entries_are_passed_through():
    first, second = made("lenet", 0), made("lenet", 1)
    reference, other = tensors(first), tensors(second)
    kept = {name: tensor.clone() for name, tensor in (reference | other).items()}
    other["extra"] = kept["extra"] = torch.ones(1)
    result = align(find_symmetry(first), reference, other)
    assert same(other, kept)
    assert same(reference, tensors(first))
    assert result["extra"] is other["extra"]
    assert result["1.num_batches_tracked"] is other["1.num_batches_tracked"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_follows_the_input(dtype):
    net = made("mlp", 0)
    reference, other = (
        {n: t.to(dtype) for n, t in tensors(made("mlp", s)).items()} for s in (0, 1)
    )
    result = align(find_symmetry(net), reference, other)
    assert all(tensor.dtype == dtype for tensor in result.values())
    assert not same(result, other)


def test_no_pairs_give_no_pairs():
    net = made("lenet", 0)
    empty = {name: tensor[:0] for name, tensor in tensors(net).items()}
    assert same(align(find_symmetry(net), empty, empty), empty)


@pytest.mark.parametrize("call", ["find", "verify", "align"])
def test_the_global_random_state_is_untouched(call):
    net = made("functional", 0)
    other, before = tensors(made("functional", 1)), torch.get_rng_state()
    symmetry = find_symmetry(net, torch.ones(IMAGES) if call == "verify" else None)
    if call == "align":
        align(symmetry, tensors(net), other)
    assert torch.equal(torch.get_rng_state(), before)
