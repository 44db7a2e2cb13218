"""Outputs with known bounds: where points lie, and what happens near an end."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradevo import Population
from gradevo.losses import OneHot, zero_one
from gradevo.randomness import generator_from
from gradevo.swarm import SwarmLoss
from gradevo.swarm.saturation import saturates, slope
from outputs import gradient, labels, rows

CRITERIA = [nn.BCELoss(), nn.MSELoss(), nn.L1Loss(), OneHot(F.l1_loss)]


@pytest.mark.parametrize("criterion", CRITERIA, ids=str)
def test_a_network_that_is_saturated_and_wrong_is_told_so_through_its_sigmoid(criterion):
    label = labels()
    target = label if isinstance(criterion, OneHot) else F.one_hot(label, 3).float()
    logits = 9 * (1 - 2 * F.one_hot(label, 3).float())  # sure of the opposite everywhere
    logits.requires_grad_()
    SwarmLoss(criterion, bounds=(0.0, 1.0))(logits.sigmoid(), target).backward()
    wanted = logits.grad * len(label) * 3
    assert (wanted.sign() == logits.sign()).all() and (wanted.abs() > 0.1).all()


def test_entries_of_probabilities_get_the_direction_of_cross_entropy_from_values_of_any_loss():
    output, target = rows(shape=(500, 2)).sigmoid(), labels((500, 2)).clamp(max=1).float()
    cross_entropy = gradient(nn.BCELoss(), output, target)
    for loss in CRITERIA[:3]:
        found = gradient(SwarmLoss(loss, bounds=(0.0, 1.0), saturating=True), output, target)
        assert F.cosine_similarity(found.flatten(), cross_entropy.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_slope_is_that_of_a_sigmoid_one_in_the_middle_and_outside(scale):
    z = torch.linspace(-8, 8, 101, dtype=torch.float64, requires_grad=True)
    w = scale * torch.sigmoid(z)
    (derivative,) = torch.autograd.grad(w.sum(), z)
    torch.testing.assert_close(slope(w.detach(), 0.0, scale), 4 * derivative / scale)
    assert (slope(torch.tensor([-0.5, scale / 2, 2 * scale]), 0.0, scale) == 1).all()
    assert (slope(torch.tensor([0.0, scale]), 0.0, scale) > 0).all()


def test_outputs_that_are_not_saturating_keep_the_clouds_size_near_a_bound():
    output, target = torch.full((20, 1), 0.001), torch.ones(20, 1)
    plain = SwarmLoss(nn.L1Loss(), bounds=(0.0, 1.0))  # the output is a leaf: of no sigmoid
    found = gradient(plain, output, target) * len(output)
    assert (found >= -1).all() and (found < 0).all()
    assert torch.equal(
        found / len(output),
        gradient(SwarmLoss(nn.L1Loss(), bounds=(0.0, 1.0), saturating=False), output, target),
    )


@pytest.mark.parametrize("estimator", ["regression", "covariance"])
def test_slopes_are_a_gradient_with_or_without_saturating_bounds(estimator):
    output, target = rows().sigmoid(), rows(1).sigmoid()
    settings = {"estimator": estimator, "bounds": (0.0, 1.0)}
    found = [
        gradient(SwarmLoss(nn.MSELoss(), saturating=s, **settings), output, target)
        for s in (True, False)
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("loss", "target", "scope"),
    [
        (nn.MSELoss(), rows(1), "entry"),
        (F.smooth_l1_loss, rows(1), "entry"),
        (OneHot(F.mse_loss), labels(), "entry"),
        (nn.CrossEntropyLoss(), labels(), "row"),
        (nn.MultiMarginLoss(), labels(), "row"),
        (zero_one, labels(), "row"),
        (lambda output, target: output - target, rows(1), "row"),
    ],
)
def test_auto_takes_an_entry_for_criteria_that_compare_entries_and_else_a_row(loss, target, scope):
    auto = gradient(SwarmLoss(loss), rows(), target)
    assert torch.equal(auto, gradient(SwarmLoss(loss, scope=scope), rows(), target))
    other = "row" if scope == "entry" else "entry"
    if scope == "entry":
        assert not torch.equal(auto, gradient(SwarmLoss(loss, scope=other), rows(), target))


def test_auto_looks_again_when_the_loss_is_exchanged():
    criterion = SwarmLoss(nn.MSELoss())
    gradient(criterion, rows(), rows(1))
    criterion.loss = nn.CrossEntropyLoss()  # an entry has no label of its own
    assert gradient(criterion, rows(), labels()).any(dim=1).all()


X = torch.zeros(4, 3, requires_grad=True)


@pytest.mark.parametrize(
    "output",
    [
        X.sigmoid(), 4 * X.sigmoid() - 1, X.tanh()[:, :2], X.softmax(-1).flatten().clone(),
        torch.stack([X.sigmoid(), X.sigmoid()]), 1 - X.sigmoid(), X.sigmoid().double(),
    ],
)  # fmt: skip
def test_outputs_of_a_sigmoid_are_recognised_whatever_moved_or_reshaped_them(output):
    assert saturates(output)


@pytest.mark.parametrize(
    "output",
    [X, X * 2, X.sigmoid().detach(), X.sigmoid() @ torch.ones(3, 3), X.clamp(0, 1),
     X.sigmoid() * X.sigmoid(), X.relu(), torch.zeros(3)],
)  # fmt: skip
def test_other_outputs_are_not_taken_for_those_of_a_sigmoid(output):
    assert not saturates(output)


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_a_populations_sigmoid_is_recognised_by_every_engine(engine):
    population = Population(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()),
        size=2, generator=generator_from(0), engine=engine,
    )  # fmt: skip
    assert saturates(population(torch.zeros(2, 5, 4)))


@pytest.mark.parametrize(
    "loss", [nn.BCELoss(), F.binary_cross_entropy, partial(F.binary_cross_entropy, reduction="sum")]
)
def test_binary_cross_entropy_is_of_probabilities_without_being_told(loss):
    assert SwarmLoss(loss).bounds == (0.0, 1.0)
    assert SwarmLoss(nn.MSELoss()).bounds is None
