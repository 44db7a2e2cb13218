"""Finding which hidden units may be permuted, and declining where they may not."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chains import EVERY, FLATTENS, IMAGES, NETS, VECTORS, Flattened, made, same, tensors
from gradevo.operators.alignment import Axis, Symmetry, Unaligned, align, match_units
from gradevo.operators.symmetry import find_symmetry, verify

pytestmark = pytest.mark.usefixtures("seeded")


def square(x: Tensor) -> Tensor:
    """A function that has the name of one of torch's, and mixes the units."""
    return x.flip(1)


torch.fx.wrap("square")


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
