"""What counts as right, for labels, one-hot rows, entries, pixels: against counting."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gradevo as ge
import runs
from gradevo.accuracy import Accuracy
from gradevo.losses import OneHot
from gradevo.models import mlp
from gradevo.randomness import generator_from

CROSS = {
    "module": nn.CrossEntropyLoss(),
    "function": F.cross_entropy,
    "partial": partial(F.cross_entropy, label_smoothing=0.1),
    "NLL": nn.NLLLoss(),
    "margin": nn.MultiMarginLoss(),
    "swarm": ge.SwarmLoss(nn.CrossEntropyLoss()),
    "own": lambda output, label: (output.argmax(dim=1) != label).double().mean(),
    "one-hot": OneHot(F.mse_loss),
}
BINARY = {
    "logits": (nn.BCEWithLogitsLoss(), 0.0),
    "weighted": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), 0.0),
    "function": (F.binary_cross_entropy_with_logits, 0.0),
    "labels": (nn.MultiLabelSoftMarginLoss(), 0.0),
    "probabilities": (nn.BCELoss(), 0.5),
    "swarm": (ge.SwarmLoss(nn.BCELoss()), 0.5),
    "partial": (partial(F.binary_cross_entropy), 0.5),
}
SHAPES = st.sampled_from([(), (5,), (3, 2)])


@given(st.sampled_from(sorted(CROSS)), st.integers(2, 5), SHAPES, st.integers(0, 99))
def test_the_largest_output_answers_for_every_row_or_pixel(kind, classes, pixels, seed):
    output = torch.randn(6, classes, *pixels, generator=generator_from(seed))
    label = torch.randint(classes, (6, *pixels), generator=generator_from(seed + 1))
    output[0].fill_(torch.nan)  # and what has no answer is wrong
    right = [
        int(label[place] == max(range(classes), key=lambda c: float(row[c])))
        for place, row in ((i, output[i[0], :, *i[1:]]) for i in map(tuple, (label + 1).nonzero()))
        if place[0] > 0
    ]
    share = sum(right) / label.numel()
    assert float(Accuracy(CROSS[kind])(output, label)) == pytest.approx(share)
    hot = F.one_hot(label, classes).movedim(-1, 1).float()
    for loss in (nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss(), nn.KLDivLoss()):
        assert float(Accuracy(loss)(output, hot)) == pytest.approx(share)
    assert float(Accuracy(ge.OnLogits(CROSS[kind]))({"logits": output}, label)) == pytest.approx(
        share
    )


@given(st.sampled_from(sorted(BINARY)), st.sampled_from([(), (1,), (3,), (1, 4)]), st.booleans())
def test_every_entry_answers_under_binary_cross_entropy(kind, entries, whole):
    loss, border = BINARY[kind]
    output = torch.randn(9, *entries, generator=generator_from(1)) * 0.2 + border
    target = torch.randint(2, (9, *entries), generator=generator_from(2))
    target[0] = 1  # of several entries: labels, and no classes
    output[1] = torch.nan
    right = ((output > border).long() == target) & ~output.isnan()
    given_target = target if whole else target.float()
    assert float(Accuracy(loss)(output, given_target)) == float(right.double().mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_that_are_ignored_do_not_count(smoothing):
    output = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    ignoring = nn.CrossEntropyLoss(ignore_index=0, label_smoothing=smoothing)
    assert float(Accuracy(ignoring)(output, torch.tensor([0, 1, 1]))) == 0.5
    usual = Accuracy(F.cross_entropy)
    assert float(usual(output, torch.tensor([0, -100, 1]))) == 0.5
    assert math.isnan(usual(output, torch.tensor([-100, -100, -100])))
    entries = Accuracy(nn.BCELoss())
    assert float(entries(torch.tensor([0.9, 0.9]), torch.tensor([1.0, torch.nan]))) == 1.0
    signs = Accuracy(nn.SoftMarginLoss())
    assert float(signs(torch.tensor([0.1, -3.0]), torch.tensor([1, -1]))) == 1.0


NO_LABELS = {
    "numbers": (nn.MSELoss(), 1, torch.randn(40, 1)),
    "numbers in columns": (nn.L1Loss(), 3, torch.randn(40, 3)),
    "zeros and ones as numbers": (nn.MSELoss(), 1, torch.randint(2, (40, 1)).float()),
    "counts": (nn.PoissonNLLLoss(), 1, torch.randint(9, (40, 1)).float()),
    "labels of one's own": (
        lambda output, y: F.binary_cross_entropy_with_logits(output[:, 0], y.float()), 1,
        torch.randint(2, (40,)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_LABELS)
def test_an_error_of_what_has_no_labels_is_refused_before_work_and_no_accuracy_is_claimed(kind):
    loss, outputs, y = NO_LABELS[kind]
    data = torch.randn(40, 4), y
    objectives = "density", "error"
    algorithm = ge.GEMONN(population=2, generations=1, batch_size=8, objectives=objectives)
    with pytest.raises(ValueError, match=r"objectives: 'error' needs class labels, .*got targets"):
        ge.fit(algorithm, mlp(4, outputs), loss, data, engine="loop", quiet=True)
    assert math.isnan(Accuracy(loss)(torch.randn(40, outputs), y))


def test_the_error_of_one_logit_is_what_the_network_gets_wrong():
    x, y = runs.rows()
    y = (y > 0)[:, None].float()
    algorithm = ge.GEMONN(
        population=4, generations=6, steps=10, batch_size=16, objectives=("density", "error")
    )
    front = ge.fit(
        algorithm, mlp(6, 6, 1), nn.BCEWithLogitsLoss(), (x, y), valid=(x, y), quiet=True
    )
    for i, row in enumerate(front.rows):
        wrong = float(((front.members.member(i)(x) > 0).float() != y).double().mean())
        assert (row["error"], row["accuracy"]) == (pytest.approx(wrong), pytest.approx(1 - wrong))
    assert min(row["error"] for row in front.rows) < 0.5
