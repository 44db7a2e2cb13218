"""What compact leaves alone, since it is alive, tied to what is, or not understood."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from chains import IMAGES, VECTORS, Flattened
from gradevo.models import mlp
from gradevo.shrink.compact import compact
from thinned import Tied, check_same, kill, sizes

pytestmark = pytest.mark.usefixtures("seeded")


# --- what stays ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, left",
    [
        ({"padding": 1}, 3),
        ({"padding": "same"}, 3),
        ({"padding": "valid"}, 2),
        ({"padding": 1, "padding_mode": "circular"}, 2),
        ({}, 2),
    ],
)
@pytest.mark.parametrize("act", [nn.Sigmoid(), nn.ReLU()])
def test_a_constant_before_zero_padding_stays_unless_it_is_zero(settings, left, act):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), act, nn.Conv2d(3, 2, 3, **settings))
    kill(net[0].weight, 0, 1)
    with torch.no_grad():
        net[0].bias.fill_(-0.5)
    small = compact(net, torch.rand(IMAGES))
    assert small[0].out_channels == (2 if isinstance(act, nn.ReLU) else left)
    check_same(net, small, torch.randn(IMAGES))


def test_a_relu_that_is_silent_on_the_example_alone_stays():
    net = mlp(6, 5, 3)()
    with torch.no_grad():
        net[0].bias.fill_(-100)
    assert sizes(compact(net, torch.ones(VECTORS))) == sizes(net)


def test_inputs_and_outputs_stay():
    net = mlp(6, 5, 3)()
    kill(net[0].weight, 1, 0, 1, 2)
    kill(net[2].weight, 0, 1)
    assert sizes(compact(net, torch.ones(VECTORS))) == sizes(net)


def test_units_under_a_layer_norm_stay_since_it_counts_them():
    net = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4), nn.ReLU())
    net.append(nn.Linear(4, 3))
    kill(net[2].weight, 1, 0)
    kill(net[4].weight, 1, 0)
    small = compact(net, torch.ones(VECTORS))
    assert (small[0].out_features, small[2].out_features) == (5, 3)


def test_a_flatten_of_a_written_length_keeps_its_filters_but_not_what_comes_later():
    net = Flattened(lambda x: x.view(-1, 400))
    net.out = nn.Sequential(nn.Linear(400, 6), nn.ReLU(), nn.Linear(6, 3))
    kill(net.conv.weight, 0, 1)
    kill(net.out[2].weight, 1, 1)
    small = compact(net, torch.rand(IMAGES))
    assert sizes(small)["conv.weight"] == (4, 1, 3, 3)
    assert sizes(small)["out.0.weight"] == (5, 400)
    check_same(net, small, torch.randn(3, 1, 12, 12))


def test_frozen_parameters_stay_frozen():
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3, bias=False))
    net[2].requires_grad_(False)
    kill(net[0].weight, 0, 1)
    small = compact(net, torch.ones(VECTORS))
    wanted = {"0.weight": True, "0.bias": True, "2.weight": False, "2.bias": False}
    assert {name: p.requires_grad for name, p in small.named_parameters()} == wanted


# --- ties ----------------------------------------------------------------------------------


def test_both_uses_of_a_tied_weight_shrink_together():
    net = Tied(6, 9)
    kill(net.weights[0], 0, 2, 5)
    small = compact(net, torch.ones(VECTORS))
    assert sizes(small) == {"weights.0": (7, 6), "coding.0": (7,), "decoding.0": (6,)}
    check_same(net, small, torch.randn(VECTORS))


def test_a_unit_goes_only_if_it_is_dead_in_both_halves_of_a_tied_network():
    net = Tied(6, 9, 7)
    kill(net.weights[1], 1, 4)  # nobody reads unit 4 of the coder, and its twin is a constant
    kill(net.weights[0], 0, 3)  # unit 3 of the coder is a constant, nobody reads its twin
    small = compact(net, torch.ones(VECTORS))
    assert [tuple(weight.shape) for weight in small.weights] == [(7, 6), (7, 7)]
    check_same(net, small, torch.randn(VECTORS))

    net = OuterTied()
    kill(net.second, 1, 4)  # as above, but its twin now has weights of its own
    assert sizes(compact(net, torch.ones(VECTORS))) == sizes(net)
    kill(net.third, 0, 4)
    small = compact(net, torch.ones(VECTORS))
    assert small.first.shape == (8, 6)
    check_same(net, small, torch.randn(VECTORS))


class OuterTied(nn.Module):
    """Four layers of which the first and the last are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(9, 6)), nn.Parameter(torch.randn(7, 9))
        self.third, self.bias = nn.Parameter(torch.randn(9, 7)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        code = F.linear(F.linear(x, self.first).tanh(), self.second)
        return F.linear(F.linear(code, self.third).cos(), self.first.t(), self.bias)


def test_layers_that_share_a_weight_still_share_it():
    net = nn.Sequential(*[nn.Linear(5, 5) for _ in range(4)], nn.Linear(5, 2))
    net[2].weight = net[1].weight  # input and output of the tie are tied to each other
    net[2].bias = net[1].bias
    kill(net[1].weight, 0, 2)
    kill(net[1].weight, 1, 2)
    small = compact(net, torch.ones(3, 5))
    assert [tuple(part.weight.shape) for part in small] == [(4, 5), *[(4, 4)] * 2, (5, 4), (2, 5)]
    assert small[2].weight is small[1].weight
    assert small[2].bias is small[1].bias
    check_same(net, small, torch.randn(3, 5))


def test_units_tied_to_the_inputs_or_outputs_stay_while_others_go():
    net = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 4))
    net.append(nn.Linear(4, 3))
    net[2].weight = net[0].weight
    for dim in (0, 1):
        kill(net[0].weight, dim, 2)
    kill(net[4].weight, 1, 1)
    small = compact(net, torch.ones(3, 5))
    assert small[2].weight is small[0].weight
    assert small[2].weight.shape == (5, 5)
    assert small[3].out_features == 3
    check_same(net, small, torch.randn(3, 5))


class Biasless(nn.Module):
    """Two calls of F.linear, the second without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.randn(3, 5))
        self.offset = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.first, self.offset).tanh(), self.second)


def test_a_constant_stays_where_a_function_has_no_bias_to_hold_it():
    net = Biasless()
    kill(net.first, 0, 1)
    assert compact(net, torch.ones(VECTORS)).first.shape == (5, 6)
    with torch.no_grad():
        net.offset[1] = 0
    assert compact(net, torch.ones(VECTORS)).first.shape == (4, 6)


def test_a_bias_that_two_layers_share_takes_no_constants():
    net = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 4))
    net.extend([nn.Linear(4, 5), nn.Linear(5, 2)])
    net[4].bias = net[2].bias
    kill(net[0].weight, 0, 1)
    kill(net[4].weight, 1, 1)  # a unit that nobody reads
    small = compact(net, torch.ones(3, 5))
    assert [part.out_features for part in (small[0], small[2], small[3])] == [5, 5, 3]
    assert small[4].bias is small[2].bias
    check_same(net, small, torch.randn(3, 5))


# --- what is not understood ----------------------------------------------------------------


class Forward(nn.Module):
    """Two layers and a forward given from outside."""

    def __init__(self, way) -> None:
        super().__init__()
        self.first, self.second, self.way = nn.Linear(6, 5), nn.Linear(5, 3), way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


LEFT = {
    "recurrent": (lambda: nn.LSTM(6, 5), "LSTM"),
    "softmax": (lambda: Forward(lambda n, x: n.second(n.first(x).softmax(1))), "softmax"),
    "a bias added": (
        lambda: Forward(lambda n, x: n.second(n.first(x) + n.first.bias)),
        "first.bias is read outside of a layer",
    ),
    "a weight read at the end": (
        lambda: Forward(lambda n, x: n.second(n.first(x).relu()) * n.first.weight.mean()),
        "first.weight is read outside of a layer",
    ),
    "two outputs": (lambda: Forward(lambda n, x: (n.second(n.first(x)), x)), "the output is"),
    "units counted": (
        lambda: Forward(lambda n, x: n.second(_over_width(n.first(x)))),
        "without dead units its output changes",
    ),
    "samples counted": (
        lambda: Forward(lambda n, x: n.second((n.first(x) * x.size(0)).tanh())),
        "without dead units its output changes",
    ),
}


def _over_width(hidden: Tensor) -> Tensor:
    return hidden / hidden.size(1)


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_not_understood_comes_back_as_an_equal_copy_with_a_reason(kind, caplog):
    make, reason = LEFT[kind]
    net, inputs = make(), torch.rand(VECTORS)
    first = next(net.parameters())
    kill(first, 0, 1)
    with caplog.at_level(logging.INFO, "gradevo.shrink.compact"):
        small = compact(net, inputs)
    assert reason in caplog.text
    assert small is not net
    assert all(torch.equal(small.state_dict()[n], t) for n, t in net.state_dict().items())
    expected, found = net(inputs), small(inputs)
    pairs = (
        [(expected, found)] if isinstance(expected, Tensor) else zip(expected, found, strict=True)
    )
    assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


def test_nothing_is_logged_when_a_module_is_understood(caplog):
    with caplog.at_level(logging.INFO, "gradevo.shrink.compact"):
        compact(mlp(6, 5, 3)(), torch.ones(VECTORS))
        compact(nn.Linear(6, 3), torch.ones(VECTORS))
    assert not caplog.text


def test_a_module_that_cannot_be_copied_is_named():
    net = mlp(6, 5, 3)()
    prune.l1_unstructured(net[0], "weight", 0.5)  # its weight is computed, until prune.remove
    with pytest.raises(
        ValueError, match=r"module: must be one that can be copied, got Seq.*\(Only"
    ):
        compact(net, torch.ones(VECTORS))
    prune.remove(net[0], "weight")
    check_same(net, compact(net, torch.ones(VECTORS)), torch.randn(VECTORS))


def test_an_example_that_does_not_fit_is_named():
    net = mlp(6, 5, 3)()
    with pytest.raises(
        ValueError, match=r"example: must be a batch that Sequential can compute, got"
    ):
        compact(net, torch.ones(2, 7))
    with pytest.raises(ValueError, match=r"example: must hold at least one sample, got .*\(0, 6\)"):
        compact(net, torch.ones(0, 6))
    with pytest.raises(TypeError, match="example: must be a tensor, got list"):
        compact(net, [1.0])
