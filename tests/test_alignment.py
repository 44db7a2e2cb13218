"""Matching of hidden units before crossover, and finding which units may be matched."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradevo.operators.alignment import Axis, Symmetry, Unaligned, align, match_units, permute
from gradevo.operators.symmetry import find_symmetry, verify

IMAGES, VECTORS, SERIES = (5, 1, 12, 12), (5, 6), (5, 2, 16)
FEW = settings(max_examples=15, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)


@pytest.fixture(autouse=True)
def seeded():
    """Fresh layers draw their weights from the global generator: always the same ones here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Functional(nn.Module):
    """A forward of functions and methods, with the size of the batch used in a view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Sequential(nn.Sequential(nn.Linear(5 * 25, 9), nn.PReLU(9)), nn.Linear(9, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))) * 2 - 0.1, 2)
        x = F.dropout(x, 0.3, training=self.training).tanh()
        return F.log_softmax(self.head(x.view(x.size(0), -1)), dim=1)


class Flattened(nn.Module):
    """Conv, a flatten given from outside, Linear."""

    def __init__(self, flatten) -> None:
        super().__init__()
        self.conv, self.out, self.flatten = nn.Conv2d(1, 4, 3), nn.Linear(400, 3), flatten

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.flatten(torch.sigmoid(self.conv(x))))


def two_names(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, channels * height * width)


def square(x: Tensor) -> Tensor:
    """A function that has the name of one of torch's, and mixes the units."""
    return x.flip(1)


torch.fx.wrap("square")

FLATTENS = {
    "size": lambda x: x.view(x.size(0), -1),
    "shape": lambda x: x.reshape(x.shape[0], -1),
    "tuple": lambda x: x.reshape((x.size()[0], -1)),
    "dim": lambda x: x.view(x.size(dim=0), 400),
    "len": lambda x: x.reshape(len(x), -1),
    "unpacked": two_names,
    "method": lambda x: x.flatten(1),
    "start": lambda x: x.flatten(start_dim=1),
    "function": lambda x: torch.flatten(x, 1),
    "reshape": lambda x: torch.reshape(x, (x.size(0), -1)),
    "module": nn.Flatten(),
}

NETS = {
    "mlp": (
        lambda: nn.Sequential(
            nn.Linear(6, 11), nn.ReLU(), nn.Linear(11, 9), nn.GELU(), nn.Linear(9, 3)
        ),
        VECTORS,
    ),
    "normed mlp": (
        lambda: nn.Sequential(
            *(nn.BatchNorm1d(6), nn.Linear(6, 11), nn.BatchNorm1d(11), nn.SiLU()),
            *(nn.Dropout(), nn.Linear(11, 9, bias=False), nn.LayerNorm(9), nn.PReLU()),
            *(nn.Linear(9, 3), nn.BatchNorm1d(3), nn.Softmax(1)),
        ),
        VECTORS,
    ),
    "lenet": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 8, 2), nn.PReLU(8), nn.AdaptiveAvgPool2d(2), nn.Dropout2d()),
            *(nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, 10), nn.ELU(), nn.Linear(10, 3)),
        ),
        IMAGES,
    ),
    "functional": (Functional, IMAGES),
    "conv1d": (
        lambda: nn.Sequential(
            *(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(5, 7, 2), nn.Softplus()),
            *(nn.AdaptiveMaxPool1d(3), nn.Flatten(), nn.LayerNorm(21), nn.Linear(21, 3)),
        ),
        SERIES,
    ),
}
EVERY = pytest.mark.parametrize("kind", NETS)


def made(kind: str, seed: int) -> nn.Module:
    """A net in eval mode whose every parameter and statistic is random."""
    generator = torch.Generator().manual_seed(seed)
    net = NETS[kind][0]().eval()
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator))
                signs = torch.rand(tensor.shape, generator=generator) < 0.5
                tensor.copy_(torch.where(signs & (tensor.dim() > 1), -tensor, tensor))
    return net


def tensors(*nets: nn.Module) -> dict[str, Tensor]:
    states = [net.state_dict() for net in nets]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def shuffles(symmetry: Symmetry, pairs: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.stack([torch.randperm(n, generator=generator) for _ in range(pairs)])
        for n in symmetry.units
    ]


def inner(first: dict[str, Tensor], second: dict[str, Tensor], net: nn.Module) -> Tensor:
    names = [name for name, _ in net.named_parameters()]
    return sum((first[n] * second[n]).double().flatten(1).sum(1) for n in names)


def distance(first: dict[str, Tensor], second: dict[str, Tensor], net: nn.Module) -> Tensor:
    names = [name for name, _ in net.named_parameters()]
    return sum((first[n] - second[n]).double().square().flatten(1).sum(1) for n in names)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[n], second[n]) for n in first) and first.keys() == second.keys()


def loaded(net: nn.Module, state: dict[str, Tensor], pair: int = 0) -> nn.Module:
    twin = copy.deepcopy(net)
    twin.load_state_dict({name: tensor[pair] for name, tensor in state.items()})
    return twin


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


def test_a_forward_that_draws_numbers_is_declined_and_leaves_the_random_state_alone():
    noisy = Net(lambda n, x: n.second(F.dropout(n.first(x))))
    drawing, before = DECLINED["own tensor"][0](), torch.get_rng_state()
    with pytest.raises(Unaligned, match="changes the output"):
        find_symmetry(noisy, torch.ones(VECTORS))
    with pytest.raises(Unaligned, match="its forward makes a tensor"):
        find_symmetry(drawing)
    assert torch.equal(torch.get_rng_state(), before)


def test_finding_a_symmetry_does_not_alter_the_module():
    net = made("functional", 0).train()
    keys, before = set(net.__dict__), tensors(net)
    find_symmetry(net, torch.randn(IMAGES, generator=torch.Generator().manual_seed(0)))
    assert set(net.__dict__) == keys
    assert all(part.training for part in net.modules())
    assert same(tensors(net), before)


@EVERY
def test_a_right_symmetry_passes_the_example_check(kind):
    net = made(kind, 0)
    example = torch.randn(NETS[kind][1], generator=torch.Generator().manual_seed(0))
    assert find_symmetry(net, example) == find_symmetry(net)


@pytest.mark.parametrize("kind", FLATTENS)
def test_each_way_to_flatten_gives_a_unit_a_block_of_entries(kind):
    net = Flattened(FLATTENS[kind])
    symmetry = find_symmetry(net, torch.rand(IMAGES))
    assert symmetry.groups == (
        (Axis("conv.weight", 0), Axis("conv.bias", 0), Axis("out.weight", 1, block=100)),
    )


def test_a_view_that_guesses_the_batch_needs_an_example():
    net = Flattened(lambda x: x.view(-1, 400))
    with pytest.raises(Unaligned, match="view does not keep the batch axis"):
        find_symmetry(net)
    assert find_symmetry(net, torch.rand(IMAGES)).units == (4,)


def test_a_view_that_cuts_samples_is_caught_by_the_example():
    net = Flattened(lambda x: x.view(-1, 200))
    net.out = nn.Linear(200, 3)
    with pytest.raises(Unaligned, match="permuting hidden units changes the output"):
        find_symmetry(net, torch.rand(IMAGES))


def test_a_network_without_a_hidden_layer_has_no_groups_and_stays_as_it_is():
    for net in (nn.Linear(6, 3), nn.Sequential(nn.Linear(6, 3), nn.Softmax(1))):
        symmetry = find_symmetry(net, torch.ones(VECTORS))
        assert symmetry == Symmetry((), ())
        other = tensors(net)
        assert same(align(symmetry, tensors(net), other), other)


def test_a_parameterless_layer_may_be_used_again():
    relu = nn.ReLU()
    net = nn.Sequential(nn.Linear(6, 5), relu, nn.Linear(5, 4), relu, nn.Linear(4, 3))
    assert find_symmetry(net, torch.ones(VECTORS)).units == (5, 4)


def test_a_layer_on_top_of_a_sequence_keeps_its_units_last():
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 3))
    assert find_symmetry(net, torch.rand(2, 7, 6)).units == (5,)


class Net(nn.Module):
    """Two linear layers, one more of anything, and a forward given from outside."""

    def __init__(self, forward, **parts) -> None:
        super().__init__()
        self.first, self.second, self.way = nn.Linear(6, 6), nn.Linear(6, 6), forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def through(part: nn.Module) -> nn.Module:
    return Net(lambda n, x: n.second(n.part(n.first(x))), part=part)


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    net[1].weight = net[0].weight
    return net


def residual(n, x):
    hidden = n.first(x).relu()
    return n.last(hidden + n.second(hidden))


def concatenated(n, x):
    hidden = n.first(x)
    return n.last(torch.cat([hidden, n.second(hidden)], 1))


def forked(n, x):
    hidden = n.first(x)
    n.second(hidden)
    return n.last(hidden)


def branched(n, x):
    hidden = n.first(x)
    return n.second(hidden), hidden


DECLINED = {
    "residual": (lambda: Net(residual, last=nn.Linear(6, 3)), "add joins two paths"),
    "concatenation": (lambda: Net(concatenated, last=nn.Linear(12, 3)), "cat joins two paths"),
    "branch": (lambda: Net(forked, last=nn.Linear(6, 3)), "first is read a second time, by last"),
    "two outputs": (lambda: Net(branched), "the output is not the one tensor"),
    "recurrent": (lambda: through(nn.LSTM(6, 6)), r"part \(LSTM\)"),
    "lone recurrent": (lambda: nn.GRU(6, 6), r"\(GRU\)"),
    "attention": (lambda: nn.TransformerEncoderLayer(6, 2), r"\(TransformerEncoderLayer\)"),
    "grouped convolution": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, groups=2)),
        "1 is a grouped convolution",
    ),
    "tied": (tied, "0.weight and 1.weight are one tied tensor"),
    "called twice": (
        lambda: Net(lambda n, x: n.second(n.first(n.first(x)))),
        r"first \(Linear\) is called twice",
    ),
    "registered twice": (
        lambda: nn.Sequential(*[nn.Linear(6, 6)] * 2),
        "0.weight and 1.weight are one tied tensor",
    ),
    "softmax module": (lambda: through(nn.Softmax(1)), r"part \(Softmax\) is not known"),
    "softmax function": (
        lambda: Net(lambda n, x: n.second(F.softmax(n.first(x), 1))),
        "softmax is not known",
    ),
    "control flow": (
        lambda: Net(lambda n, x: n.second(n.first(x)) if x.sum() > 0 else n.first(x)),
        "torch.fx cannot trace it",
    ),
    "loose parameter": (
        lambda: Net(lambda n, x: n.second(n.first(x) * n.scale), scale=nn.Parameter(torch.ones(6))),
        "mul reads a tensor beside the chain",
    ),
    "loose parameter at the end": (
        lambda: Net(lambda n, x: n.second(n.first(x)) * n.scale, scale=nn.Parameter(torch.ones(6))),
        "parameter scale is outside the chain",
    ),
    "unused layer": (
        lambda: Net(lambda n, x: n.second(n.first(x)), spare=nn.Linear(6, 6)),
        "parameter spare.weight is outside the chain",
    ),
    "own tensor": (
        lambda: Net(lambda n, x: n.second(n.first(x) * torch.rand(6))),
        "its forward makes a tensor of its own",
    ),
    "range": (
        lambda: Net(lambda n, x: n.second(n.first(x) * torch.arange(x.size(1)))),
        "mul reads a tensor beside the chain",
    ),
    "flip": (lambda: Net(lambda n, x: n.second(n.first(x).flip(1))), "flip is not known"),
    "namesake of a function": (
        lambda: Net(lambda n, x: n.second(square(n.first(x)))),
        "square is not known",
    ),
    "view of another axis": (
        lambda: Flattened(lambda x: x.view(x.size(1), -1)),
        "view does not keep the batch axis",
    ),
    "pool over units": (
        lambda: nn.Sequential(nn.Linear(6, 6), nn.MaxPool1d(1), nn.Linear(6, 6)),
        r"1 \(MaxPool1d\) pools across hidden units",
    ),
    "norm of another axis": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(6), nn.Linear(5, 3)),
        r"1 \(BatchNorm1d\) is not over the 5 hidden units",
    ),
    "norm of a map": (
        lambda: nn.Sequential(nn.Conv1d(2, 6, 1), nn.LayerNorm(6), nn.Conv1d(6, 2, 1)),
        r"1 \(LayerNorm\) is not over",
    ),
    "group norm": (lambda: through(nn.GroupNorm(2, 6)), r"part \(GroupNorm\)"),
    "linear over a map": (
        lambda: nn.Sequential(nn.Conv1d(2, 6, 1), nn.Linear(6, 3)),
        "1 reads 6 entries",
    ),
    "flatten of a sequence": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Flatten(), nn.Linear(35, 3)),
        "2 reads 35 entries",
    ),
    "flatten of the batch": (
        lambda: nn.Sequential(nn.Conv1d(2, 6, 1), nn.Flatten(0), nn.Linear(6, 3)),
        "1 does not keep the batch axis",
    ),
    "parametrised": (
        lambda: through(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))),
        r"part \(ParametrizedLinear\)",
    ),
    "spectral norm": (lambda: through(nn.utils.spectral_norm(nn.Linear(6, 6))), "reparametrised"),
}


@pytest.mark.parametrize("kind", DECLINED)
def test_what_is_not_a_chain_is_declined_with_a_reason_that_names_it(kind):
    make, reason = DECLINED[kind]
    with pytest.raises(Unaligned, match=reason) as caught:
        find_symmetry(make())
    assert "\n" not in str(caught.value)


def test_a_declined_module_is_not_altered():
    net = DECLINED["own tensor"][0]()
    keys = set(net.__dict__)
    with pytest.raises(Unaligned):
        find_symmetry(net)
    assert set(net.__dict__) == keys


class Moody(nn.Module):
    """A chain when traced in training mode, and something else in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).tanh()
        return self.second(hidden if self.training else hidden.flip(1))


def test_a_wrong_symmetry_is_caught_by_the_example_check():
    assert find_symmetry(Moody()).units == (5,)
    with pytest.raises(Unaligned, match="Moody: permuting hidden units changes the output"):
        find_symmetry(Moody(), torch.ones(VECTORS))


@EVERY
def test_the_check_notices_any_axis_left_out_even_on_a_fresh_network(kind):
    net, example = NETS[kind][0](), torch.randn(NETS[kind][1])
    symmetry = find_symmetry(net, example)
    for g, group in enumerate(symmetry.groups):
        for axis in group:
            rest = tuple(other for other in group if other is not axis)
            wrong = Symmetry(
                (*symmetry.groups[:g], rest, *symmetry.groups[g + 1 :]), symmetry.units
            )
            with pytest.raises(Unaligned, match="changes the output"):
                verify(net, wrong, example)


def test_a_forward_that_insists_on_single_precision_can_be_checked():
    net = Net(lambda n, x: n.second(n.first(x.float()).relu()))
    assert find_symmetry(net, torch.ones(VECTORS)).units == (6,)


def test_an_example_that_does_not_fit_is_a_reason():
    with pytest.raises(Unaligned, match="the example cannot be run"):
        find_symmetry(made("mlp", 0), torch.ones(2, 7))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38])
@pytest.mark.parametrize("whole", [True, False])
def test_a_broken_parent_still_gives_a_permutation_and_harms_no_other_pair(value, whole):
    net = made("lenet", 0)
    symmetry, reference = find_symmetry(net), tensors(net, net)
    other = tensors(made("lenet", 1), made("lenet", 2))
    healthy = match_units(symmetry, reference, other)
    for name in ("0.weight", "10.weight"):
        other[name][0].view(-1)[: None if whole else 5] = value
    for order, good in zip(match_units(symmetry, reference, other), healthy, strict=True):
        assert torch.equal(order.sort(1).values, torch.arange(order.shape[1]).repeat(2, 1))
        assert torch.equal(order[1], good[1])


def test_a_symmetry_that_makes_no_sense_is_rejected():
    with pytest.raises(ValueError, match="twice in one group"):
        Symmetry(((Axis("weight", 0), Axis("weight", 1)),), (3,))
    with pytest.raises(ValueError, match="no axis that is counted"):
        Symmetry(((Axis("running_mean", 0, counted=False),),), (3,))
    with pytest.raises(ValueError, match="1 groups but 2"):
        Symmetry(((Axis("weight", 0),),), (3, 3))
