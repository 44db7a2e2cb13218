"""The batched engine gives the loop's numbers, layer by layer, or says why it declines."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
from gradevo.engines.batched import losses
from gradevo.models import mlp
from gradevo.randomness import generator_from
from gradevo.structure import evaluating
from layers import LAYERS

G, ROWS = 5, 7
EACH = pytest.mark.parametrize("kind", LAYERS)
BATCHED = pytest.mark.parametrize("engine", ["batched", "batched/2"])


def pair(kind, engine):
    """The same members twice: by the loop and by the engine."""
    build, _ = LAYERS[kind]
    return [ge.Population(build, G, generator=generator_from(1), engine=e).double()
            for e in ("loop", engine)]  # fmt: skip


def batch(kind, per_member, seed=0):
    generator = generator_from(seed)
    lead = (G, ROWS) if per_member else (ROWS,)
    x = torch.randn(*lead, *LAYERS[kind][1], generator=generator, dtype=torch.float64)
    return x, torch.randint(3, lead, generator=generator)


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@EACH
@BATCHED
@pytest.mark.parametrize("per_member", [False, True])
def test_losses_gradients_and_buffers_are_the_loops_over_twenty_steps(kind, engine, per_member):
    pops = pair(kind, engine)
    optimizers = [torch.optim.Adam(pop.parameters(), 1e-3) for pop in pops]
    gradients = [pop.gradient() for pop in pops]
    for step in range(20):
        x, y = batch(kind, per_member, step)
        found = []
        for pop, optimizer, gradient in zip(pops, optimizers, gradients, strict=True):
            gradient.zero_()
            found.append(pop.accumulate(F.cross_entropy, x.clone(), y, per_member=per_member))
            optimizer.step()
        same(found[1], found[0])
        same(gradients[1], gradients[0])
    for name, tensor in pops[0].tensors.items():
        same(pops[1].tensors[name], tensor)


@EACH
@pytest.mark.parametrize("per_member", [False, True])
@pytest.mark.parametrize("grad", [True, False])
def test_outputs_are_the_loops_in_eval_mode_too(kind, per_member, grad):
    x, _ = batch(kind, per_member)
    one, other = pair(kind, "batched")
    with evaluating(one), evaluating(other), torch.set_grad_enabled(grad):
        same(other(x.clone(), per_member=per_member), one(x.clone(), per_member=per_member))


@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_gradients_through_losses_are_those_of_accumulate(kind):
    x, y = batch(kind, True)
    one, other = pair(kind, "batched")
    one.losses(F.cross_entropy, x.clone(), y, per_member=True).sum().backward()
    gradient = other.gradient()
    other.accumulate(F.cross_entropy, x.clone(), y, per_member=True)
    same(gradient, torch.cat([leaf.grad.flatten() for leaf in one.parameters()]))


def classes(shape):
    return torch.randint(4, shape, generator=generator_from(0))


REALS = torch.randn(G, ROWS, 4, generator=generator_from(2))
PIXELS = torch.randn(G, ROWS, 4, 3, generator=generator_from(2))
SOME = torch.where(classes((G, ROWS)) == 0, -100, classes((G, ROWS)))
CASES = {
    "cross-entropy": (nn.CrossEntropyLoss(), REALS, classes((G, ROWS))),
    "cross-entropy of pixels": (F.cross_entropy, PIXELS, classes((G, ROWS, 3))),
    "some ignored": (nn.CrossEntropyLoss(), REALS, SOME),
    "smoothed, another ignored": (
        nn.CrossEntropyLoss(ignore_index=2, label_smoothing=0.1), REALS, classes((G, ROWS)),
    ),
    "weighted": (nn.CrossEntropyLoss(torch.rand(4)), REALS, classes((G, ROWS))),
    "summed": (nn.CrossEntropyLoss(reduction="sum"), REALS, classes((G, ROWS))),
    "shares": (nn.CrossEntropyLoss(), REALS, PIXELS[..., 0].softmax(-1)),
    "squared": (nn.MSELoss(), REALS, PIXELS[..., 0]),
    "absolute": (F.l1_loss, REALS, PIXELS[..., 0]),
    "probabilities": (nn.BCELoss(), REALS.sigmoid(), (REALS > 0.3).float()),
    "logits": (nn.BCEWithLogitsLoss(), REALS, (REALS > 0.3).float()),
    "weighted logits": (
        nn.BCEWithLogitsLoss(pos_weight=torch.rand(4)), REALS, (REALS > 0.3).float(),
    ),
    "one's own": (lambda output, target: (output - target).abs().max(), REALS, PIXELS[..., 0]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("per_member", [False, True])
def test_a_loss_of_all_members_is_each_ones(name, per_member):
    loss, output, y = CASES[name]
    target = y if per_member else y[0]
    found = losses.of_members(loss, output, target, G, per_member)
    expected = [loss(output[i], y[i] if per_member else target) for i in range(G)]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("layer", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout, F.dropout])
def test_every_member_drops_others_of_a_shared_input(layer):
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.ones(1))
            self.drop = layer(0.5) if isinstance(layer, type) else layer

        def forward(self, x):
            return self.drop(x) * self.unused

    pop = ge.Population(Dropping, 3, engine="batched")
    out = pop(torch.ones(4, 8, 6, 6))
    dropped = out != out.max()
    assert 0.3 < float(dropped.double().mean()) < 0.7
    assert not torch.equal(dropped[0], dropped[1]) and not torch.equal(dropped[1], dropped[2])
    if layer is nn.Dropout2d:
        channels = dropped.flatten(3)
        assert torch.equal(channels.all(3), channels.any(3))


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.layer.register_forward_hook(lambda module, inputs, output: 2 * output)

    def forward(self, x):
        return self.layer(x)


class Writing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        y = self.layer(x)
        y[:, 0] = 0
        return y


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        y = self.layer(x)
        z = y
        y += 1
        return y * z


@pytest.mark.parametrize(
    ("build", "reason"),
    [(Hooked, "it has hooks"), (Writing, "item assignment"), (Twice, "differs from the loop")],
)
def test_what_cannot_be_a_graph_declines_with_a_reason_and_auto_goes_on(build, reason):
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    pop = ge.Population(build, 2, engine="batched")
    with pytest.raises(ge.EngineError, match=reason):
        pop.losses(F.cross_entropy, x, y)
    pop = ge.Population(build, 2)
    pop.losses(F.cross_entropy, x, y)
    assert reason in pop.choice.report["batched"]


@pytest.mark.parametrize("kind", ["attention", "attention across", "heads", "encoder"])
def test_attention_is_computed_for_all_members_at_once(kind, monkeypatch):
    def fail(*arguments, **named):
        raise AssertionError("member by member")

    monkeypatch.setattr("gradevo.engines.batched.attention.each", fail)
    x, y = batch(kind, True)
    pop = pair(kind, "batched")[1]
    pop.choice.engine(pop, "batched").losses(F.cross_entropy, x, y, True)


@pytest.mark.parametrize("engine", ["batched", "batched/1@2"])
def test_attention_leaves_out_other_weights_in_every_member_and_the_same_by_seed(engine):
    def build():
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.5, batch_first=True)
        return nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3))

    found = []
    for _ in range(2):
        pop = ge.Population(build, 4, generator=generator_from(1), engine=engine)
        for tensor in pop.tensors.values():
            tensor.copy_(tensor[:1].expand_as(tensor))  # copies of one member
        torch.manual_seed(5)
        pop.gradient()
        found.append(pop.accumulate(F.cross_entropy, torch.ones(3, 4, 6), torch.arange(3)))
    assert torch.equal(found[0], found[1])
    assert len(set(found[0].tolist())) == 4


def test_a_change_of_mode_of_any_part_is_followed():
    def build():
        return nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))

    pop, x = ge.Population(build, 2, engine="batched"), torch.ones(9, 4)
    assert not torch.equal(pop(x), pop(x))
    with evaluating(pop):
        assert torch.equal(pop(x), pop(x))
    assert not torch.equal(pop(x), pop(x))


def test_a_chunk_can_be_of_any_size_and_none_is_refused():
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    found = []
    for engine in ("batched", "batched/1", "batched/3", "batched/100"):
        pop = ge.Population(mlp(4, 5, 3), 4, engine=engine)
        gradient = pop.gradient()
        pop.accumulate(F.cross_entropy, x, y)
        found.append(gradient)
    for gradient in found:
        torch.testing.assert_close(gradient, found[0])
    with pytest.raises(ValueError, match="engine: must be one of"):
        ge.Population(mlp(4, 5, 3), 4, engine="batched/0")


def test_members_that_moved_are_computed_where_they_are():
    pop, x = ge.Population(mlp(4, 5, 3), 3, engine="batched"), torch.randn(6, 4)
    y = torch.randint(3, (6,))
    pop.gradient()
    pop.accumulate(F.cross_entropy, x, y)
    pop.double()
    gradient = pop.gradient()
    pop.accumulate(F.cross_entropy, x.double(), y)
    assert gradient.dtype == torch.float64 and gradient.abs().sum() > 0
