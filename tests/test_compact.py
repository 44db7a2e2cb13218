"""Dead units are really removed, and what is left computes the same."""

import copy
import logging

import pytest
import torch
from hypothesis import given
from torch import nn

from chains import EVERY, FEW, IMAGES, NETS, SEEDS, VECTORS, made
from gradevo.models import LeNet5, mlp
from gradevo.shrink.compact import compact, flops
from thinned import ALL, KINDS, check_same, check_sizes_known, entries, example, kill, masked, sizes

pytestmark = pytest.mark.usefixtures("seeded")


# --- any mask ------------------------------------------------------------------------------


@KINDS
@FEW
@given(seed=SEEDS)
def test_any_mask_gives_a_network_that_computes_the_same_and_is_no_larger(kind, seed):
    net = masked(kind, seed)
    small = compact(net, example(kind))
    check_same(net, small, torch.cat([example(kind, 1), example(kind, 2)]))
    check_sizes_known(small)
    assert type(small) is type(net)
    assert entries(small) <= entries(net)
    assert flops(small, example(kind)) <= flops(net, example(kind))
    assert min(min(shape, default=1) for shape in sizes(small).values()) >= 1


@KINDS
def test_a_masked_net_gets_really_smaller(kind, caplog):
    net = masked(kind, 3, share=0.4)
    with caplog.at_level(logging.INFO, "gradevo.shrink.compact"):
        small = compact(net, example(kind))
    assert not caplog.text
    assert entries(small) < 0.9 * entries(net)
    assert flops(small, example(kind)) < 0.9 * flops(net, example(kind))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_get_smaller_as_well(dtype):
    net = mlp(6, 20, 20, 3)().to(dtype)
    kill(net[0].weight, 0, 1, 4)
    kill(net[4].weight, 1, 2)
    small = compact(net, torch.randn(VECTORS, dtype=dtype))
    assert [part.out_features for part in small[::2]] == [18, 19, 3]
    assert {tensor.dtype for tensor in small.state_dict().values()} == {dtype}


@KINDS
def test_compacting_twice_finds_nothing_more(kind):
    small = compact(masked(kind, 3, share=0.4), example(kind))
    assert sizes(compact(small, example(kind))) == sizes(small)


@KINDS
def test_a_net_with_nothing_dead_keeps_its_shapes_and_values(kind):
    net = made(kind, 0) if kind in NETS else ALL[kind][0]()
    small = compact(net, example(kind))
    assert small is not net
    assert all(torch.equal(small.state_dict()[n], t) for n, t in net.state_dict().items())


@KINDS
def test_a_net_of_zeros_keeps_a_unit_of_every_layer_and_its_constant_output(kind):
    net = made(kind, 0) if kind in NETS else ALL[kind][0]()
    for parameter in net.parameters():
        if parameter.dim() > 1:
            kill(parameter, 0, *range(len(parameter)))
    small = compact(net, example(kind))
    check_same(net, small, example(kind, 1))
    if kind not in ("normed mlp", "conv1d"):  # these have layer norms, which hold units
        weights = [p for p in small.parameters() if p.dim() > 1]
        assert all(len(weight) == 1 for weight in weights[:-1])


@KINDS
def test_the_module_is_not_altered(kind):
    net = masked(kind, 1, share=0.4).train()
    before, keys = copy.deepcopy(net.state_dict()), {*net.__dict__}
    random = torch.get_rng_state()
    small = compact(net, example(kind))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.fill_(7)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    assert {*net.__dict__} == keys
    assert all(part.training for part in [*net.modules(), *small.modules()])
    assert torch.equal(torch.get_rng_state(), random)


@EVERY
def test_a_compact_net_can_be_trained(kind):
    small = compact(masked(kind, 2, share=0.4), example(kind)).train()
    small(example(kind)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


# --- what goes -----------------------------------------------------------------------------


def test_units_that_nobody_reads_go_and_take_with_them_those_that_only_they_read():
    net = mlp(6, 8, 7, 3)()
    kill(net[4].weight, 1, 0, 1, 2)  # three units of the second layer are not read
    kill(net[2].weight[3:], 1, 5)  # a unit of the first is read by those three alone
    small = compact(net, torch.ones(VECTORS))
    assert sizes(small)["0.weight"] == (7, 6)
    assert sizes(small)["2.weight"] == (4, 7)
    assert torch.equal(small[4].weight, net[4].weight[:, 3:])
    assert flops(small, torch.ones(1, 6)) == 7 * 6 + 4 * 7 + 3 * 4


def test_constants_go_forward_through_layers():
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    kill(net[0].weight, 0, 1)
    with torch.no_grad():  # a unit of the second layer reads that constant alone
        net[2].weight[2] = torch.tensor([0.0, 3.0, 0.0, 0.0])
    small = compact(net, torch.ones(1, 2))
    assert sizes(small)["2.weight"] == (3, 3)
    check_same(net, small, torch.randn(9, 2))


@pytest.mark.parametrize("act", [nn.Tanh(), nn.Sigmoid(), nn.ReLU(), nn.GELU(), nn.Softplus()])
@pytest.mark.parametrize("bias", [True, False])
def test_a_constant_goes_into_the_bias_of_its_reader_which_is_made_if_need_be(act, bias):
    net = nn.Sequential(nn.Linear(6, 5), act, nn.Linear(5, 3, bias=bias))
    kill(net[0].weight, 0, 1, 4)
    with torch.no_grad():
        net[0].bias.fill_(0.7)
    small = compact(net, torch.ones(VECTORS))
    value = act(torch.tensor(0.7))
    before = net[2].bias if bias else torch.zeros(3)
    after = before + value * net[2].weight[:, [1, 4]].sum(1)
    assert torch.allclose(small[2].bias, after)
    assert small[0].out_features == 3
    check_same(net, small, torch.randn(VECTORS))


def test_a_bias_is_not_made_for_constants_that_give_nothing():
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3, bias=False))
    kill(net[0].weight, 0, 1)
    kill(net[0].bias, 0, 1)
    small = compact(net, torch.ones(VECTORS))
    assert small[2].bias is None
    assert small[0].out_features == 4


def test_a_constant_goes_through_batch_norm_and_a_norm_that_scales_by_zero_makes_one():
    norm = nn.BatchNorm2d(5)
    net = nn.Sequential(
        *(nn.Conv2d(1, 5, 3), norm, nn.Tanh(), nn.Conv2d(5, 4, 3, bias=False)),
        *(nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 3)),
    )
    with torch.no_grad():
        for tensor in (norm.running_mean, norm.bias):
            tensor.copy_(torch.randn(5))
    kill(net[0].weight, 0, 1)
    kill(norm.weight, 0, 3)
    small = compact(net, torch.rand(IMAGES))
    assert sizes(small)["1.running_mean"] == (3,)
    assert small[1].num_features == 3
    check_same(net, small, torch.randn(IMAGES))


def test_filters_go_with_their_blocks_behind_a_flatten():
    net = LeNet5()
    kill(net.features[3].weight, 0, *range(0, 16, 2))
    kill(net.classifier[0].weight, 1, *range(25, 50))
    inputs = torch.rand(2, 1, 28, 28)
    small = compact(net, inputs)
    assert sizes(small)["features.3.weight"] == (7, 6, 5, 5)
    assert sizes(small)["classifier.0.weight"] == (120, 175)
    check_same(net, small, torch.randn(3, 1, 28, 28))


# --- flops ---------------------------------------------------------------------------------


def test_flops_are_multiply_adds_of_all_weights_in_eval_mode():
    net = LeNet5().train()
    inputs = torch.rand(3, 1, 28, 28)
    one = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    assert flops(net, inputs[:1]) == one
    assert flops(net, inputs) == 3 * one
    assert all(part.training for part in net.modules())
    assert flops(nn.Linear(5, 3, bias=False), torch.ones(2, 7, 5)) == 2 * 7 * 15
