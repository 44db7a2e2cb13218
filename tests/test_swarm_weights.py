"""Weights of torch's criteria have their effect on a swarm's gradient, whatever the estimator."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from gradevo.losses import OneHot
from gradevo.randomness import generator_from
from gradevo.swarm import ESTIMATORS, SwarmLoss
from outputs import CLASSES, ROWS, fine, gradient, labels, rows

SHAPE = (ROWS, CLASSES)
FITTING = [(CLASSES,), (1, CLASSES), (ROWS, 1), SHAPE, (1,), ()]
REDUCTIONS = ["mean", "sum", "none"]
IMAGE = (2, CLASSES, 2, 3)


def positive(shape, seed=5):
    return torch.rand(shape, generator=generator_from(seed), dtype=torch.float64) * 3 + 0.2


def soft(shape=SHAPE, seed=3):
    return torch.rand(shape, generator=generator_from(seed), dtype=torch.float64)


def likely(shape=SHAPE):
    return soft(shape).softmax(1)


def hard(shape=SHAPE):
    return (soft(shape) > 0.5).double()


CLASS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
IGNORED = torch.tensor([0, 1, 2, -100, 1, 0])
ENTRY = {
    **{f"bce {s}": (partial(nn.BCELoss, weight=positive(s)), soft()) for s in FITTING},
    **{
        f"logits {s} {kind.__name__}": (
            partial(nn.BCEWithLogitsLoss, weight=positive(s), pos_weight=positive(t, 6)), kind(),
        )
        for s, t in zip(FITTING, FITTING[::-1], strict=True) for kind in (soft, hard)
    },
    "bce of a function": (
        partial(partial, F.binary_cross_entropy, weight=positive(SHAPE)), hard(),
    ),
    "logits of a function": (
        partial(partial, F.binary_cross_entropy_with_logits, pos_weight=positive((ROWS, 1))),
        soft(),
    ),
    "mse": (partial(partial, F.mse_loss, weight=positive(SHAPE)), soft()),
    "mae": (partial(partial, F.l1_loss, weight=positive(SHAPE)), 5 * soft()),
    "huber": (partial(partial, F.huber_loss, weight=positive(SHAPE), delta=0.1), soft()),
    **{f"variance {v if isinstance(v, float) else tuple(v.shape)}": (
        partial(partial, F.gaussian_nll_loss, var=v), soft(),
    ) for v in (2.0, *map(positive, (SHAPE, (ROWS, 1), (ROWS,), (1, CLASSES))))},
    "several labels": (partial(nn.MultiLabelSoftMarginLoss, CLASS), hard()),
}  # fmt: skip
LABELLED = {
    "cross-entropy": (partial(nn.CrossEntropyLoss, CLASS), labels()),
    "ignored labels": (partial(nn.CrossEntropyLoss, CLASS), IGNORED),
    "smoothed": (partial(nn.CrossEntropyLoss, CLASS, label_smoothing=0.3), IGNORED),
    "a class without weight, smoothed": (
        partial(nn.CrossEntropyLoss, CLASS * torch.tensor([0, 1, 1]), label_smoothing=0.3),
        labels(),
    ),
    "probabilities": (partial(nn.CrossEntropyLoss, CLASS, label_smoothing=0.2), likely()),
    "a function": (partial(partial, F.cross_entropy, weight=CLASS), IGNORED),
    "log-likelihood": (partial(nn.NLLLoss, CLASS), IGNORED),
    "margins": (partial(nn.MultiMarginLoss, weight=CLASS, p=2), labels()),
}
ELSEWHERE = {
    "one axis": (partial(nn.BCELoss, weight=positive((ROWS,))), soft((ROWS,)), (ROWS,)),
    "pixels": (partial(nn.CrossEntropyLoss, CLASS), labels((2, 2, 3)), IMAGE),
    "likely pixels": (partial(nn.CrossEntropyLoss, CLASS), likely(IMAGE), IMAGE),
    "maps": (
        partial(nn.BCEWithLogitsLoss, pos_weight=positive((CLASSES, 1, 1))), soft(IMAGE), IMAGE,
    ),
}  # fmt: skip
CASES = {name: (*case, SHAPE) for name, case in (ENTRY | LABELLED).items()} | ELSEWHERE


def output_of(name, shape):
    output = rows(shape=shape, dtype=torch.float64)
    return output.sigmoid() if name.startswith(("bce", "one axis")) else output


def scopes_of(name):
    return (
        ("row", "entry", "batch")
        if name in ENTRY and name != "several labels"
        else ("row", "batch")
    )


def plain(loss):
    """The loss as one number, whatever its reduction."""
    return lambda output, target: loss(output, target).mean()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_regression_gives_autograds_gradient_of_a_weighted_criterion(name, reduction):
    build, target, shape = CASES[name]
    loss, output = build(reduction=reduction), output_of(name, shape)
    expected = gradient(plain(loss), output, target)
    if reduction == "none" and name in ("pixels", "likely pixels"):
        expected = gradient(plain(build(reduction="sum")), output, target) / 12
    for scope in scopes_of(name):
        found = gradient(fine(loss, scope=scope, bounds=None), output, target)
        largest = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0.08, atol=0.03 * largest)


W, P = positive(SHAPE), positive((CLASSES,), 6)
PULLED = {  # a criterion with weights, the one without, a target, and what every entry counts
    "bce": (nn.BCELoss(W), nn.BCELoss(), hard(), W),
    "logits": (
        nn.BCEWithLogitsLoss(W, pos_weight=P), nn.BCEWithLogitsLoss(), hard(),
        W * torch.where(hard() > 0, P, 1),
    ),
    "sum": (nn.BCELoss(W, reduction="sum"), nn.BCELoss(reduction="sum"), hard(), W),
    "mse": (partial(F.mse_loss, weight=W), F.mse_loss, soft(), W / W.mean()),
    "huber": (partial(F.huber_loss, weight=W), F.huber_loss, soft(), W),
    "variance": (
        partial(F.gaussian_nll_loss, var=W), partial(F.gaussian_nll_loss, var=1.0), soft(), 1 / W,
    ),
    "several labels": (
        nn.MultiLabelSoftMarginLoss(CLASS), nn.MultiLabelSoftMarginLoss(), hard(),
        CLASS.expand(SHAPE),
    ),
    "one-hot": (
        OneHot(partial(F.binary_cross_entropy, weight=W)), OneHot(F.binary_cross_entropy), labels(),
        W,
    ),
    "cross-entropy": (
        nn.CrossEntropyLoss(CLASS), nn.CrossEntropyLoss(), labels(),
        (CLASS[labels()] / CLASS[labels()].mean())[:, None],
    ),
    "margins": (nn.MultiMarginLoss(weight=CLASS), nn.MultiMarginLoss(), labels(),
                CLASS[labels()][:, None]),
}  # fmt: skip


@pytest.mark.parametrize("scope", ["auto", "row", "batch"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", PULLED)
def test_every_estimators_direction_is_multiplied_by_the_weights(name, estimator, scope):
    weighted, without, target, counts = PULLED[name]
    output = rows(dtype=torch.float64).sigmoid()
    more = {"scope": scope, "estimator": estimator, "bounds": (0.0, 1.0), "iterations": 1}
    expected = gradient(SwarmLoss(without, **more), output, target) * counts
    found = gradient(SwarmLoss(weighted, **more), output, target)
    assert found.any()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("scope", ["row", "entry", "batch"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_has_no_weight_has_no_gradient(estimator, scope):
    weight = W * torch.tensor([[0.0, 1, 1]] + [[1.0, 1, 0]] * (ROWS - 1))
    loss = nn.BCEWithLogitsLoss(weight)
    found = gradient(SwarmLoss(loss, scope=scope, estimator=estimator), rows().double(), hard())
    assert torch.equal(found != 0, weight != 0)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(CASES)), scope=st.sampled_from(["auto", "batch"]),
    estimator=st.sampled_from(["rank", "tie", "regression"]), iterations=st.integers(0, 1),
)  # fmt: skip
def test_stacked_members_have_the_weights_of_each(name, scope, estimator, iterations):
    build, target, shape = CASES[name]
    outputs = torch.stack([output_of(name, shape), output_of(name, shape).flip(0)])
    targets = torch.stack([target, target.flip(0)])
    more = {"scope": scope, "estimator": estimator, "iterations": iterations}
    stacked, alone = (SwarmLoss(build(), **more) for _ in range(2))
    together = outputs.clone().requires_grad_()
    stacked.of_members(together, targets).sum().backward()
    for i in range(2):
        expected = gradient(alone, outputs[i], targets[i])
        torch.testing.assert_close(together.grad[i], expected, rtol=1e-6, atol=1e-9)


class Labels(nn.CrossEntropyLoss):
    def forward(self, output, target):
        loss = F.cross_entropy(output, target, self.weight[:CLASSES], reduction="none")
        return loss.sum() / self.weight[target].sum() if self.reduction == "mean" else loss


class Logits(nn.BCEWithLogitsLoss):
    def forward(self, output, target):
        more = {"reduction": self.reduction, "pos_weight": self.pos_weight}
        return F.binary_cross_entropy_with_logits(output, target, self.weight, **more)


@pytest.mark.parametrize("scope", ["auto", "row"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_criterion_with_a_forward_of_its_own_keeps_its_weights(estimator, scope):
    more = {"scope": scope, "estimator": estimator, "spread": 0.01}
    for kind, weights, target in (
        (Labels, {"weight": CLASS}, labels()),
        (Logits, {"weight": W[0], "pos_weight": P}, hard()),
    ):
        if scope == "row" and kind is Logits and estimator != "regression":
            continue  # entries of a row are judged together there, with their weights
        found, expected = (
            gradient(SwarmLoss(k(**weights), **more), rows(dtype=torch.float64), target)
            for k in (kind, kind.__mro__[1])
        )
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("kind", [nn.BCELoss, nn.BCEWithLogitsLoss])
@pytest.mark.parametrize("shape", [(ROWS - 1, 1), (2,), (2, *SHAPE)], ids=str)
def test_weights_that_do_not_fit_the_outputs_are_named(kind, shape):
    with pytest.raises(ValueError, match=r"^loss: its weight must fit outputs of shape \(6, 3\)"):
        gradient(SwarmLoss(kind(positive(shape))), hard(), hard())


def test_weights_of_rows_in_a_loss_of_ones_own_are_named_with_the_way_out():
    weight = positive((ROWS,))
    criterion = SwarmLoss(lambda output, target: weight * output.sum(1))
    with pytest.raises(ValueError, match=r"^loss: must take any number of rows, .* in the target"):
        gradient(criterion, rows(), rows())
