"""SwarmLoss: a criterion whose gradient comes from evaluations."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import gradevo as ge
from gradevo.losses import OneHot, f1, with_sigmoid, zero_one
from gradevo.models import mlp
from gradevo.swarm import REMPSO, SwarmLoss
from outputs import CLASSES, ROWS, fine, gradient, labels, rows

SLOPES = ["regression", "covariance"]
DIRECTIONS = ["rank", "tie"]


# --- against autograd, where there is one ---------------------------------------------------

LABELLED = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0])),
    "ignored labels": nn.CrossEntropyLoss(ignore_index=1),
    "weights, ignored": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0]), ignore_index=-5),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "a function": F.cross_entropy,
}


@pytest.mark.parametrize("loss", LABELLED.values(), ids=LABELLED.keys())
def test_regression_gives_autograds_gradient_for_criteria_of_labels(loss):
    output, target = rows(dtype=torch.float64), labels()
    if getattr(loss, "ignore_index", 0) == -5:
        target[2] = -5
    loss = copy.deepcopy(loss).double() if isinstance(loss, nn.Module) else loss
    expected = gradient(loss, output, target)
    found = gradient(fine(loss), output, target)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.01 * float(expected.abs().max()))


ENTRYWISE = {
    "mse": nn.MSELoss(),
    "mse, sum": nn.MSELoss(reduction="sum"),
    "huber": nn.SmoothL1Loss(),
    "divergence": nn.KLDivLoss(reduction="batchmean"),
    "logits": nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)),
    "a function": F.mse_loss,
    "not reduced": lambda output, target: (output - target) ** 2,
    "a value a row": lambda output, target: (output - target).square().sum(dim=1),
}


@pytest.mark.parametrize("scope", ["row", "entry"])
@pytest.mark.parametrize("shape", [(5, 3), (5,), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("name", ENTRYWISE)
def test_regression_gives_autograds_gradient_for_criteria_of_entries(name, shape, scope):
    loss = ENTRYWISE[name]
    one_number_a_row = name == "a value a row"
    if (name in ("logits", "a value a row") and shape != (5, 3)) or (
        scope == "entry" and one_number_a_row
    ):
        pytest.skip("this loss is for two axes, or has no value an entry")
    output, target = rows(shape=shape, dtype=torch.float64), rows(1, shape, torch.float64).sigmoid()

    def mean(output, target):
        return loss(output, target).mean()

    expected = gradient(mean, output, target)
    found = gradient(fine(loss, scope=scope), output, target)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))


def test_every_pixel_of_a_label_map_is_a_row():
    output, target = rows(shape=(2, CLASSES, 4, 5), dtype=torch.float64), labels((2, 4, 5))
    target[0, 0] = -100
    loss = nn.CrossEntropyLoss()
    found = gradient(fine(loss), output, target)
    torch.testing.assert_close(found, gradient(loss, output, target), rtol=0.05, atol=2e-4)
    assert not found[0, :, 0].any()


def test_a_loss_of_the_batch_has_autograds_gradient():
    def correlation(output, target):
        return 1 - torch.corrcoef(torch.stack([output, target]))[0, 1]

    output, target = rows(shape=(20,), dtype=torch.float64), rows(1, (20,), torch.float64)
    found = gradient(fine(correlation, scope="batch"), output, target)
    torch.testing.assert_close(found, gradient(correlation, output, target), rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("estimator", DIRECTIONS)
def test_class_weights_and_ignored_labels_count_for_directions_too(estimator):
    output, target = rows(), torch.tensor([0, 1, 2, 0, 1, 2])
    weight = torch.tensor([0.0, 1.0, 3.0])
    plain = gradient(SwarmLoss(nn.CrossEntropyLoss(), estimator=estimator), output, target)
    weighted = nn.CrossEntropyLoss(weight=weight, ignore_index=1)
    found = gradient(SwarmLoss(weighted, estimator=estimator), output, target)
    assert not found[target != 2].any()
    torch.testing.assert_close(found[target == 2], plain[target == 2] * len(target) / 2)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss()])
def test_on_a_quadratic_and_on_absolute_error_the_sign_of_every_entry_is_right(loss):
    output, target = rows(shape=(500, 10)), rows(1, (500, 10))
    far = (output - target).abs() > 0.05
    for criterion in (fine(loss), SwarmLoss(loss, scope="entry")):
        found = gradient(criterion, output, target)
        right = (found.sign() == (output - target).sign())[far]
        assert right.float().mean() > 0.99


# --- what must never happen -----------------------------------------------------------------


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
@pytest.mark.parametrize("iterations", [0, 3])
@pytest.mark.parametrize("scope", ["row", "entry", "batch"])
@pytest.mark.parametrize("estimator", [*SLOPES, *DIRECTIONS])
def test_a_constant_loss_has_no_gradient(estimator, scope, iterations, bounds):
    def constant(output, target):
        return torch.ones(()) if scope == "batch" else torch.ones_like(output)

    criterion = SwarmLoss(
        constant, scope=scope, estimator=estimator, iterations=iterations, bounds=bounds
    )
    assert not gradient(criterion, rows().sigmoid(), rows()).any()


@pytest.mark.parametrize("estimator", ["near", "starred"])
def test_the_papers_forms_do_not_learn_the_target_from_a_constant_loss(estimator):
    """They wander, since gbest is any point; on average they must not."""
    target = F.one_hot(labels((2000,)), CLASSES).float()
    criterion = SwarmLoss(
        lambda output, target: torch.ones(len(output)), estimator=estimator, iterations=5
    )
    output = torch.full_like(target, 0.5)
    found = -gradient(criterion, output, target)
    towards = (found * (target - output)).sum() / (found.norm() * (target - output).norm())
    assert abs(float(towards)) < 0.05


def test_points_start_around_the_output_and_never_at_the_target():
    seen = []

    def spy(output, target):
        seen.append((output - target).abs().amin(dim=1))
        return (output - target).square().sum(dim=1)

    gradient(SwarmLoss(spy, spread=0.5), torch.zeros(4, 3), torch.full((4, 3), 5.0))
    assert torch.cat(seen).min() >= 4.5


def test_points_are_clipped_to_the_bounds_and_those_of_bce_are_known():
    seen = []

    def spy(output, target):
        seen.append(output)
        return (output - target).square()

    for start, iterations in (("output", 0), ("output", 4), ("range", 2)):
        criterion = SwarmLoss(spy, bounds=(0.0, 1.0), start=start, iterations=iterations)
        gradient(criterion, torch.rand(4, 3), torch.ones(4, 3))
    points = torch.cat(seen)
    assert points.min() >= 0 and points.max() <= 1
    assert SwarmLoss(nn.BCELoss()).bounds == (0.0, 1.0)


# --- the upstream gradient, scopes, members ---------------------------------------------------


@given(factor=st.floats(-1000, 1000, allow_subnormal=False), seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_scaling_the_loss_scales_the_gradient(factor, seed):
    output, target = rows(seed), labels()
    one = gradient(SwarmLoss(zero_one), output, target)
    torch.testing.assert_close(gradient(SwarmLoss(zero_one), output, target, factor), factor * one)


def test_permuting_rows_permutes_gradients():
    output, target = rows(), labels()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    loss = nn.CrossEntropyLoss()

    def mean(output, target):
        criterion = SwarmLoss(loss)
        return sum(gradient(criterion, output, target) for _ in range(600)) / 600

    torch.testing.assert_close(
        mean(output[order], target[order]), mean(output, target)[order], rtol=0, atol=2e-3
    )


@pytest.mark.parametrize(
    ("loss", "more"),
    [
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])), {}),
        (zero_one, {"estimator": "tie"}),
        (zero_one, {"iterations": 3, "dynamics": REMPSO()}),
        (OneHot(F.l1_loss), {"scope": "entry"}),
        (f1, {"scope": "batch"}),
    ],
)
def test_stacked_members_get_what_each_would_get_alone(loss, more):
    outputs, targets = rows(shape=(4, ROWS, CLASSES)), labels((4, ROWS))
    stacked, alone = (SwarmLoss(loss, seed=3, **more) for _ in range(2))
    together = outputs.clone().requires_grad_()
    values = stacked.of_members(together, targets)
    values.sum().backward()
    for i in range(4):
        one = outputs[i].clone().requires_grad_()
        value = alone(one, targets[i])
        value.backward()
        torch.testing.assert_close(values[i].detach(), value.detach())
        torch.testing.assert_close(together.grad[i], one.grad)


@pytest.mark.parametrize("per_member", [False, True])
@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_it_trains_a_population_on_every_engine(engine, per_member):
    population = ge.Population(mlp(4, 8, CLASSES), 3, engine=engine)
    x = rows(shape=(3, 40, 4) if per_member else (40, 4))
    y = x[..., :CLASSES].argmax(-1)
    optimizer = torch.optim.Adam(population.parameters(), lr=0.02)
    criterion = SwarmLoss(zero_one)
    before = population.losses(criterion, x, y, per_member=per_member).detach()
    for _ in range(60):
        optimizer.zero_grad()
        population.losses(criterion, x, y, per_member=per_member).sum().backward()
        optimizer.step()
    after = population.losses(criterion, x, y, per_member=per_member)
    assert population.engine == engine
    assert (after < 0.6 * before).all()


def test_a_loss_written_with_numpy_serves_a_batch():
    def area(output, target):
        return float((output.numpy()[:, 0] > 0).mean())

    criterion = SwarmLoss(area, scope="batch", particles=200, spread=0.5)
    found = gradient(criterion, rows(), labels())
    near = rows()[:, 0].abs() < 0.4  # only there a point can change sides
    assert found[near, 0].mean() > 3 * found[:, 1:].abs().mean()


def test_targets_may_be_a_tree_of_tensors():
    def loss(output, target):
        return (output - target["place"]).square().sum(dim=1) * target["weight"]

    target = {"place": rows(1), "weight": torch.tensor([1.0, 0, 1, 1, 1, 1])}
    found = gradient(SwarmLoss(loss, estimator="regression"), rows(), target)
    assert not found[1].any() and found[0].any()


def test_the_value_of_an_unreduced_loss_is_its_mean_over_rows_and_entries():
    output, target = rows(), rows(1)
    assert SwarmLoss(lambda o, t: (o - t) ** 2)(output, target) == F.mse_loss(output, target)
    summed = SwarmLoss(lambda o, t: (o - t).square().sum(dim=1))(output, target)
    torch.testing.assert_close(summed, (output - target).square().sum() / ROWS)


@pytest.mark.parametrize("low_high", [(0.0, 1.0), (-3.0, 7.0)])
@pytest.mark.parametrize("start", ["output", "range"])
def test_spread_counts_in_the_width_of_the_bounds_and_range_is_all_of_it(start, low_high):
    low, high = low_high
    seen = []

    def spy(output, target):
        seen.append(output)
        return output.square()

    middle = torch.full((50, 2), (low + high) / 2)
    spread = {"spread": 0.1} if start == "output" else {}
    criterion = SwarmLoss(spy, bounds=low_high, start=start, particles=40, **spread)
    gradient(criterion, middle, middle)
    reach = (seen[-1] - middle[0, 0]).abs().max() / (high - low)
    assert 0.95 * (0.1 if start == "output" else 0.5) < reach <= (0.1 if start == "output" else 0.5)


def test_a_sigmoid_is_put_behind_networks_as_they_are():
    activation = torch.nn.ReLU()

    def twice():
        layers = torch.nn.Linear(2, 3), activation, torch.nn.Linear(3, 3), activation
        return torch.nn.Sequential(*layers)

    class Other(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(x) + 1

    for build in (twice, lambda: Other(torch.nn.Linear(2, 3))):
        network = build()
        x = torch.randn(4, 2)
        torch.testing.assert_close(with_sigmoid(lambda n=network: n)()(x), network(x).sigmoid())
