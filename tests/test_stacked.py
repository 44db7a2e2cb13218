"""Auto-encoders on top of each other: greedy layers, then one deep network from them."""

import pytest
import torch
from torch import nn

import gradevo as ge
from gradevo.randomness import generator_from
from gradevo.stacked import Stack, stacked

ALGORITHM = ge.GEMONN(population=4, generations=8, steps=20, batch_size=16, lr=0.02)
SIZES = (7, 3)


@pytest.fixture(scope="module")
def rows():
    """Twelve numbers that three decide."""
    causes = torch.rand(160, 3, generator=generator_from(0))
    return (causes @ torch.randn(3, 12, generator=generator_from(1)).mul(3)).sigmoid()


@pytest.fixture(scope="module")
def stack(rows) -> Stack:
    return stacked(ALGORITHM, SIZES, rows, seed=3)


@torch.no_grad()
def test_a_layer_learns_to_give_back_the_codes_of_the_layers_below(rows, stack):
    for i, layer in enumerate(stack.layers):
        below = nn.Sequential(*stack.encoder[: 2 * i])(rows)
        loss = float(nn.functional.mse_loss(layer(below), below))
        assert loss < 0.9 * float(below.var(0, unbiased=False).mean())  # better than a constant
        assert loss == pytest.approx(stack.fronts[i].rows[-1]["loss"], rel=0.5)


@torch.no_grad()
def test_encoder_and_autoencoder_are_the_layers_one_after_another(rows, stack):
    first, second = stack.layers
    codes = torch.sigmoid(rows @ first.weight + first.code)
    deep = torch.sigmoid(codes @ second.weight + second.code)
    torch.testing.assert_close(stack.encoder(rows), deep)
    back = torch.sigmoid(deep @ second.weight.t() + second.bias)
    back = torch.sigmoid(back @ first.weight.t() + first.bias)
    torch.testing.assert_close(stack.autoencoder(rows), back)
    assert float(nn.functional.mse_loss(back, rows)) < float(rows.var(0).mean())


def test_the_same_seed_gives_the_same_stack_and_global_randomness_is_left_alone(rows, stack):
    before = torch.get_rng_state()
    again = stacked(ALGORITHM, SIZES, rows, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(again.encoder(rows), stack.encoder(rows))


def test_a_sparse_pick_keeps_its_zeros_and_the_next_layer_reads_it(rows):
    stack = stacked(ALGORITHM, SIZES, rows, pick=lambda front: front.best(min_sparsity=0.5))
    linear = [layer for layer in stack.autoencoder if isinstance(layer, nn.Linear)]
    assert all(float((layer.weight == 0).double().mean()) >= 0.5 for layer in linear)


def test_fine_tuning_starts_from_the_stack_and_gives_a_front_of_the_deep_network(rows, stack):
    labels = (rows[:, 0] > rows[:, 0].median()).long()
    nothing = ge.GEMONN(population=2, generations=1, steps=1, lr=0.0, batch_size=16, average=0.0)
    front = ge.fit(nothing, lambda: stack.classifier(2), nn.CrossEntropyLoss(), (rows, labels))
    start, left = stack.encoder[0].weight, front.best()[0].weight
    assert torch.equal(start[left != 0], left[left != 0])
    tuned = ge.fit(
        ge.GEMONN(population=6, generations=20, steps=20, batch_size=16, lr=0.02),
        lambda: stack.classifier(2), nn.CrossEntropyLoss(), (rows, labels),
    )  # fmt: skip
    assert tuned.points.rows()[-1]["accuracy"] > 0.8
    assert len(tuned) > 1


def test_what_is_taken_from_a_stack_is_a_copy(rows, stack):
    before = stack.encoder(rows)
    for taken in (stack.encoder, stack.autoencoder, stack.classifier(2)):
        nn.init.zeros_(taken[0].weight)
    assert torch.equal(before, stack.encoder(rows))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": ()}, "hidden: must be a whole number of at least 1, got 0"),
        ({"hidden": (0,)}, "hidden: must be a whole number of at least 1, got 0"),
        ({"x": torch.full((20, 4), 1.5)}, r"x: must lie in \[0, 1\], got 1.5 to 1.5"),
        ({"x": torch.full((20, 4), torch.nan)}, r"x: must lie in \[0, 1\], got nan to nan"),
        ({"x": torch.rand(20)}, r"x: must be \(rows, inputs\), got shape \(20,\)"),
        ({"valid": torch.full((4, 4), -1.0)}, r"valid: must lie in \[0, 1\], got -1 to -1"),
    ],
)
def test_bad_arguments_are_named_before_work_starts(changes, message):
    arguments = {"hidden": (2,), "x": torch.rand(20, 4, generator=generator_from(0)), **changes}
    with pytest.raises(ValueError, match=message):
        stacked(ALGORITHM, **arguments)
