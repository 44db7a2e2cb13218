"""SwarmLoss: losses that are undefined, that write into what they get, or that would learn."""

import logging
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradevo.randomness import generator_from, isolated
from gradevo.swarm import ESTIMATORS, SwarmLoss
from outputs import CLASSES, ROWS, gradient, labels, rows

# --- losses that are undefined on a batch ---------------------------------------------------


def auc(output, y):
    """1 - AUC; 0/0 where a class is missing. Comparisons never say NaN of NaN."""
    s, p = output[:, 0], y == 1
    pairs = p[:, None] & ~p[None, :]
    return ((s[:, None] < s[None, :]) & pairs).sum() / pairs.sum()


def constant(value):
    return lambda output, target: output.sum() * 0 + value


ONE, BOTH = torch.zeros(ROWS).long(), torch.tensor([0, 1] * (ROWS // 2))
UNDEFINED = {"nan": constant(torch.nan), "inf": constant(torch.inf), "-inf": constant(-torch.inf),
             "auc": auc, "plain": lambda output, target: float("nan"),
             "numpy": lambda output, target: np.float64("nan")}  # fmt: skip


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("iterations", [0, 2])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", UNDEFINED)
def test_a_batch_on_which_the_loss_is_undefined_has_no_gradient_and_is_told_once(
    name, estimator, iterations, inside, caplog
):
    more = {"scope": "batch", "estimator": estimator, "iterations": iterations, "particles": 10}
    criterion = SwarmLoss(UNDEFINED[name], **more)
    for _ in range(2):
        output = rows().requires_grad_()
        if inside:
            with isolated(generator_from(0)):
                value = criterion(output, ONE)
        else:
            value = criterion(output, ONE)
        value.backward()
        assert not value.isfinite() and not output.grad.any()
    said = [r for r in caplog.records if (r.name, r.levelname) == ("gradevo.swarm", "WARNING")]
    assert len(said) == 1 and "gives no gradient" in said[0].message
    assert criterion.undefined == 2


def test_only_the_members_own_batch_is_undefined_and_vmap_is_not_judged_by_it(caplog):
    criterion = SwarmLoss(auc, scope="batch")
    outputs = rows(shape=(3, ROWS, 1)).requires_grad_()
    with caplog.at_level(logging.INFO):
        values = criterion.of_members(outputs, torch.stack([ONE, BOTH, ONE]))
        values.sum().backward()
    assert values.isnan().tolist() == [True, False, True]
    assert outputs.grad.flatten(1).any(dim=1).tolist() == [False, True, False]
    assert outputs.grad.isfinite().all() and criterion.undefined == 2


def test_whether_vmap_serves_is_seen_on_a_batch_that_tells_something():
    criterion = SwarmLoss(auc, scope="batch")
    gradient(criterion, rows(), ONE)
    assert criterion._criterion().mapped is None
    assert gradient(criterion, rows(), BOTH).any()
    assert criterion._criterion().mapped


# --- outputs that are no numbers -------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "more", [{}, {"bounds": (0.0, 1.0), "start": "range"}, {"iterations": 2}], ids=str
)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_around_an_output_that_is_no_number_the_direction_is_nan_though_the_loss_is_finite(
    estimator, more, bad
):
    def compared(output, y):
        return (output[..., 0] < output[..., 1]).float()

    whole = SwarmLoss(
        lambda o, y: compared(o, y).mean(), scope="batch", estimator=estimator, **more
    )
    alone = SwarmLoss(compared, estimator=estimator, **more)
    output = rows().sigmoid()
    output[1, 2] = bad
    assert gradient(whole, output, labels()).isnan().all()
    found = gradient(alone, output, labels())
    assert found.isnan().all(dim=1).tolist() == [False, True, *[False] * (ROWS - 2)]
    assert found[0].isfinite().all()


# --- losses that write into what they are given ----------------------------------------------


def squared(output, target):
    return (output - target).square()


def scaled(output, target):
    target /= 100
    return squared(output, target)


def scaled_aside(output, target):
    target.data.mul_(2)
    return squared(output, target)


def by_numpy(output, target):
    array = target.numpy()
    array *= 2
    return squared(output, target)


def clipped(output, target):
    return squared(output.clamp_(max=0), target)


def clipped_aside(output, target):
    output.detach().numpy()[:] = 0
    return squared(output, target)


def resized(output, target):
    return squared(output, target.unsqueeze_(0)[0])


WRITING = {"target": [scaled, scaled_aside, by_numpy, resized], "output": [clipped, clipped_aside]}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("scope", ["row", "entry", "batch"])
@pytest.mark.parametrize("name, loss", [(n, f) for n, fs in WRITING.items() for f in fs])
def test_a_loss_that_writes_into_what_it_is_given_is_refused_before_it_does(
    name, loss, scope, grad
):
    output, target = rows(), rows(1)
    kept = output.clone(), target.clone()
    with (
        torch.set_grad_enabled(grad),
        pytest.raises(
            ValueError,
            match=f"^loss: must leave its output and target .* changes its {name} in place",
        ),
    ):
        SwarmLoss(loss, scope=scope)(output.requires_grad_(grad), target)
    assert torch.equal(output, kept[0]) and torch.equal(target, kept[1])


def emptied(output, target):
    return squared(output, target.pop("y")).sum(1)


def filled(output, target):
    target["z"] = output
    return squared(output, target["y"]).sum(1)


def swapped(output, target):
    target["y"] = target["y"] * 2
    return squared(output, target["y"]).sum(1)


def scaled_array(output, target):
    target["names"] *= 2
    return squared(output, target["y"]).sum(1)


@pytest.mark.parametrize("scope", ["row", "batch"])
@pytest.mark.parametrize("loss", [emptied, filled, swapped, scaled_array])
def test_the_batchs_own_container_is_left_as_it_is(loss, scope):
    target = {"y": rows(1), "names": np.arange(3.0)}
    kept = dict(target)
    with pytest.raises(ValueError, match=r"^loss: must leave .* changes its target in place"):
        gradient(SwarmLoss(loss, scope=scope), rows(), target)
    assert list(target) == list(kept) and all(target[name] is kept[name] for name in kept)
    assert target["names"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("scope", ["row", "batch"])
def test_a_loss_that_begins_to_write_later_is_noticed(scope):
    calls = []

    def loss(output, target):
        calls.append(0)
        return squared(output, target.mul_(2) if len(calls) > 150 else target).mean(1)

    criterion = SwarmLoss(loss, scope=scope)
    with pytest.raises(ValueError, match="changes its target in place"):
        for _ in range(200):
            gradient(criterion, rows(), rows(1))


def test_nan_in_a_target_and_leaves_that_are_no_tensors_are_no_change():
    target = {"y": torch.full((ROWS, CLASSES), torch.nan), "weight": 2.0, "names": np.array(["a"])}
    loss = lambda o, t: t["weight"] * squared(o, t["y"].nan_to_num()).sum(1)  # noqa: E731
    assert gradient(SwarmLoss(loss), rows(), target).any()


# --- losses that would learn -----------------------------------------------------------------


class Proxies(nn.Module):
    def __init__(self):
        super().__init__()
        self.near, self.scale = nn.Parameter(torch.randn(CLASSES, CLASSES)), nn.Linear(1, 1)

    def forward(self, output, target):
        return F.cross_entropy(output @ self.near, target, reduction="none")


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.ones = [nn.Parameter(torch.ones(CLASSES))]

    def forward(self, output, target):
        return (output * self.ones[0]).sum(1)


def test_a_loss_with_parameters_that_learn_is_refused_with_their_names():
    with pytest.raises(ValueError, match=r"^loss: must have no parameters .* near, scale.bias, sc"):
        SwarmLoss(Proxies())
    with pytest.raises(ValueError, match=r"got ones;"):
        SwarmLoss(Listed())
    with pytest.raises(ValueError, match=r"got weight;"):
        SwarmLoss(partial(F.mse_loss, weight=nn.Parameter(rows())))
    criterion = SwarmLoss(squared)
    criterion.loss = Proxies()
    with pytest.raises(ValueError, match="near, scale"):
        gradient(criterion, rows(), labels())
    frozen = Proxies().requires_grad_(False)
    assert gradient(SwarmLoss(frozen), rows(), labels()).any()


TEMPERATURE = nn.Parameter(torch.ones(()))
REACHED = {
    "a closure": lambda output, target: (output * TEMPERATURE).sum(1),
    "a bound method": Proxies().forward,
    "a list": Listed().forward,
}


@pytest.mark.parametrize("scope", ["row", "batch"])
@pytest.mark.parametrize("name", REACHED)
def test_parameters_that_a_loss_reaches_otherwise_are_noticed_at_its_first_call(name, scope):
    criterion = SwarmLoss(REACHED[name], scope=scope)
    with pytest.raises(ValueError, match=r"^loss: must not depend on parameters .* of shape \("):
        gradient(criterion, rows(), labels())


def test_a_loss_that_leaves_torch_may_read_what_learns():
    weight = nn.Parameter(torch.ones(CLASSES))

    def loss(output, target):
        return float((output.numpy() * weight.numpy()).sum())

    assert gradient(SwarmLoss(loss, scope="batch"), rows(), labels()).any()
