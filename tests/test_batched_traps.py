"""Forwards that a traced graph gets wrong without a word, if nobody looks."""

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
from gradevo.randomness import generator_from

G = 3


def of(forward, **parts):
    """A function that builds a module of these parts with this forward."""

    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.calls = 0
            self.mask = torch.tensor([1.0, 2.0, 3.0, 4.0])
            for name, make in parts.items():
                setattr(self, name, make())

    Made.forward = forward
    return Made


def noisy(self, x):
    return self.layer(x) + (torch.randn(4) if self.training else 0)


def skipping(self, x):
    return self.layer(x) * (1.0 if torch.rand(1) < 0.5 else 2.0)


def looking(self, x):
    norm = next(self.parameters()).detach().norm()
    return self.layer(x) * (1.0 if norm < 10 else 0.1)


def counting(self, x):
    self.calls += 1
    return self.layer(x) * (1.0 if self.calls < 60 else 0.1)


def switching(self, x):
    with torch.no_grad():
        mean = self.layer(x).mean()
    return self.layer(x) * 1000 + mean * 1e-3


def hooked():
    module = of(lambda self, x: self.head(self.layer(x)), head=lambda: nn.Linear(4, 3))()
    module.head.register_full_backward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (of(noisy), "random numbers"),
        (of(skipping), "random numbers"),
        (of(looking), "."),
        (of(counting), "number of its own"),
        (of(switching), "switches gradients"),
        (hooked, "hooks"),
    ],
)
def test_what_a_graph_would_freeze_is_declined_and_auto_takes_another(build, reason):
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    with pytest.raises(ge.EngineError, match=reason):
        ge.Population(build, G, engine="batched").losses(F.cross_entropy, x, y)
    pop = ge.Population(build, G)
    pop.losses(F.cross_entropy, x, y)
    assert not pop.engine.startswith("batched")


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: x + torch.randn_like(x), lambda x: F.alpha_dropout(x, 0.5, True),
        lambda x: torch.bernoulli(x.sigmoid()), lambda x: F.dropout(x), lambda x: x.bernoulli(0.5),
    ],
)  # fmt: skip
def test_a_function_that_draws_does_it_for_every_member_of_a_shared_input(draw):
    same = nn.Linear(4, 4)
    pop = ge.Population(of(lambda self, x: self.one(draw(x)), one=lambda: copy.deepcopy(same)), G,
                        engine="batched")  # fmt: skip
    out = pop(torch.ones(50, 4))
    assert not torch.equal(out[0], out[1]) and not torch.equal(out[1], out[2])


def test_channels_that_drop_in_rows_without_channels_differ_between_members():
    pop = ge.Population(of(lambda self, x: self.drop(x) + 0 * self.layer(x),
                           drop=lambda: nn.Dropout1d(0.5)), G, engine="batched")  # fmt: skip
    out = pop(torch.ones(30, 4))
    assert not torch.equal(out[0], out[1])


def pairs(build, x):
    one, other = (
        ge.Population(build, G, generator=generator_from(0), engine=engine)
        for engine in ("loop", "batched")
    )
    return one(x, per_member=True), other(x, per_member=True)


IMAGES = torch.randn(G, 5, 4, 4, 4, generator=generator_from(1))
ROWS = torch.randn(G, 5, 4, generator=generator_from(1))
BLOCK = torch.randn(G, 5, 6, 4, generator=generator_from(1))
FORWARDS = {
    "a view of images": (
        of(lambda self, x: self.conv(x).view(x.size(0), -1), conv=lambda: nn.Conv2d(4, 2, 3)),
        IMAGES,
    ),
    "an argument with a default": (
        of(lambda self, x, mask=None: self.layer(x) if mask is None else mask), ROWS,
    ),
    "a tensor beside the parameters": (of(lambda self, x: self.layer(x) * self.mask), ROWS),
    "a gate of one channel": (
        of(lambda self, x: self.conv(x) * torch.sigmoid(self.gate(x)),
           conv=lambda: nn.Conv2d(4, 3, 3), gate=lambda: nn.Conv2d(4, 1, 3)), IMAGES,
    ),
    "arguments by name": (
        of(lambda self, x: torch.softmax(input=torch.cat(tensors=[self.layer(x)], dim=1), dim=1)),
        ROWS,
    ),
    "a cat along an axis": (of(lambda self, x: torch.cat([self.conv(x)] * 2, axis=1),
                               conv=lambda: nn.Conv2d(4, 3, 3)), IMAGES),
    "pooling without a batch of channels": (
        of(lambda self, x: self.pool(self.layer(x)), pool=lambda: nn.MaxPool2d(3, 1, 1)), BLOCK,
    ),
    "images pooled as signals": (
        of(lambda self, x: F.max_pool2d(self.conv(x), 2), conv=lambda: nn.Conv1d(6, 4, 1)), BLOCK,
    ),
    "several inputs": (of(lambda self, *xs: self.layer(xs[0])), ROWS),
    "words with a rule": (
        of(lambda self, x: F.embedding((x.abs() * 3).long() % 4, self.layer.weight, padding_idx=0)),
        ROWS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARDS)
def test_forwards_of_many_manners_give_the_loops_outputs(name):
    torch.testing.assert_close(*pairs(*FORWARDS[name]))


@pytest.mark.parametrize("changes", [{"scale_grad_by_freq": True}, {"padding_idx": 0}])
def test_words_keep_their_rules_for_gradients(changes):
    build = of(lambda self, x: self.words(x).mean(1), words=lambda: nn.Embedding(5, 4, **changes))
    gradients = []
    for engine in ("loop", "batched"):
        pop = ge.Population(build, G, generator=generator_from(0), engine=engine)
        gradients.append(pop.gradient())
        for x in (torch.tensor([[1, 2, 3]]), torch.tensor([[0, 2, 2]])):
            pop.accumulate(F.mse_loss, x, torch.zeros(1, 4))
    torch.testing.assert_close(*gradients)
    pop = ge.Population(build, G, engine="vmap")
    with pytest.raises(ge.EngineError, match="Embedding with padding_idx or another rule"):
        pop.losses(F.mse_loss, torch.tensor([[1, 2, 3]]), torch.zeros(1, 4))


def test_a_word_out_of_range_is_no_other_members():
    build = of(lambda self, x: self.words(x).mean(1), words=lambda: nn.Embedding(5, 4))
    pop, x = ge.Population(build, G, engine="batched"), torch.tensor([[1, 5]])
    with pytest.raises(IndexError, match="out of range"):
        pop(x)


def test_members_that_differ_in_a_plain_number_are_not_taken_for_one():
    def scaled(self, x):
        h = self.layer(x)
        return h * (1 - 0.9 * (h.abs().max() > 5).item())

    pop = ge.Population(of(scaled), G, generator=generator_from(0), engine="batched")
    pop.stacked.layer.weight.data[0] *= 100
    with pytest.raises(ge.EngineError, match="batched"):
        pop(torch.randn(6, 4))


def test_the_kind_of_targets_may_change_from_step_to_step():
    pops = [ge.Population(of(lambda self, x: self.layer(x)), G, generator=generator_from(0),
                          engine=engine) for engine in ("loop", "batched")]  # fmt: skip
    x = torch.randn(6, 4)
    for y in (torch.randint(4, (6,)), torch.randn(6, 4).softmax(1)):
        torch.testing.assert_close(*(pop.losses(F.cross_entropy, x, y) for pop in pops))
    one = x[0], torch.tensor(2)
    torch.testing.assert_close(*(pop.losses(F.cross_entropy, *one) for pop in pops))


@dataclass
class Scaled:
    factor: float

    def __call__(self, output, target):
        return self.factor * F.mse_loss(output.view(-1), target.view(-1))


def test_a_loss_that_cannot_be_hashed_and_looks_at_memory_is_served():
    build = of(lambda self, x: self.conv(x), conv=lambda: nn.Conv1d(6, 4, 1))
    pops = [ge.Population(build, G, generator=generator_from(0), engine=engine)
            for engine in ("loop", "batched")]  # fmt: skip
    y = torch.zeros(5, 4, 4)
    torch.testing.assert_close(*(pop.losses(Scaled(2.0), BLOCK[0], y) for pop in pops))


def test_statistics_that_do_not_lie_in_a_row_are_moved_too():
    build = of(lambda self, x: self.norm(self.layer(x)), norm=lambda: nn.BatchNorm1d(4))
    pops = [ge.Population(build, G, generator=generator_from(0), engine=engine)
            for engine in ("loop", "batched")]  # fmt: skip
    for pop in pops:
        state = {n: t.clone() for n, t in pop.state_dict().items()}
        name = next(n for n in state if n.endswith("running_mean"))
        state[name] = state[name].t().contiguous().t()
        pop.load_state_dict(state, assign=True)
        pop.losses(F.mse_loss, ROWS, ROWS, per_member=True)
    one, other = (pop.tensors["norm.running_mean"] for pop in pops)
    assert other.abs().max() > 0
    torch.testing.assert_close(one, other)


def test_when_a_later_chunk_fails_no_gradient_is_counted_twice():
    calls = []

    def failing(output, target):
        calls.append(1)
        if len(calls) == 3 * G + 30:
            raise MemoryError
        return (output - target).square().mean()

    pop = ge.Population(of(lambda self, x: self.layer(x)), G, engine="batched/2")
    x = torch.randn(6, 4)
    pop.choice.settled = True
    calls[:] = [1] * (3 * G + 27)
    pop.gradient()
    with pytest.raises(MemoryError) as caught:
        pop.accumulate(failing, x, x)
    assert "gradients had been added to" in caught.value.__notes__[0]


def test_half_precision_is_judged_by_its_own_rounding():
    pop = ge.Population(lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)), G,
                        engine="batched").to(torch.bfloat16)  # fmt: skip
    x = torch.randn(64, 4, dtype=torch.bfloat16)
    assert pop.losses(F.cross_entropy, x, torch.randint(3, (64,))).isfinite().all()


def test_a_graph_traced_in_inference_serves_training_too():
    pop = ge.Population(of(lambda self, x: self.layer(x) * torch.tensor([0.5, 1, 2, 3])), G,
                        engine="batched")  # fmt: skip
    with torch.inference_mode():
        pop(torch.ones(2, 4))
    pop.losses(F.mse_loss, torch.ones(2, 4), torch.ones(2, 4)).sum().backward()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in pop.parameters())
