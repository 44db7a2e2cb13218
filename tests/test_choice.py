"""The choice of an engine: measured without a trace, remembered, explained."""

import logging
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
from gradevo import engines
from gradevo.engines import choose
from gradevo.engines.simd.entry import entry
from gradevo.randomness import generator_from
from modules import DECLINES, SEVERAL, ZOO, close, population, same

pytestmark = pytest.mark.usefixtures("forgetful", "compiled")


@pytest.fixture(scope="module")
def compiled():
    """An engine that has yet to be compiled is not tried where a run may be short."""
    entry()


@pytest.mark.parametrize("name", list(ZOO))
def test_auto_says_what_it_measured_and_why_others_declined(name, caplog):
    pop, (x, y) = population(name, "auto"), ZOO[name].batch()
    assert pop.engine == "auto"
    with caplog.at_level(logging.INFO, logger="gradevo"):
        pop.losses(ZOO[name].loss, x, y)
    assert engines.known(pop.engine)
    report = pop.choice.report
    chunks = {"batched/2"} if name == "convolution" else set()
    assert set(report) == set(engines.ENGINES) | chunks
    assert isinstance(report["loop"], float)
    assert f"engine: {pop.engine}" in caplog.text
    for engine in engines.ENGINES:
        if reason := DECLINES.get(engine, {}).get(name):
            assert pop.engine != engine
            assert re.search(reason, report[engine])
            assert report[engine] in caplog.text
        else:
            assert isinstance(report[engine], float)


@pytest.mark.parametrize("name", list(ZOO))
def test_choosing_leaves_everything_as_it_was(name):
    pop, (x, y) = population(name, "auto"), ZOO[name].batch()
    pop.losses(ZOO[name].loss, x, y)  # leaves loop engine and buffers in use
    pop.choice = engines.Choice.of("auto")
    pop.gradient().fill_(0.5)
    before = {name: tensor.clone() for name, tensor in pop.tensors.items()}
    grads = [leaf.grad for leaf in pop.parameters()]
    modes = [part.training for part in pop.modules()]
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    choose._remembered.clear()
    pop.choice.settle(pop, ZOO[name].loss, x, y, False)
    assert pop.choice.settled
    assert same(before, pop.tensors)
    for leaf, grad in zip(pop.parameters(), grads, strict=True):
        assert leaf.grad is grad
        assert grad is None or bool((grad == 0.5).all())
    assert [part.training for part in pop.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), repr(np.random.get_state())) == states[1:]


def test_the_choice_is_remembered(monkeypatch):
    first, (x, y) = population("mlp", "auto"), ZOO["mlp"].batch()
    first.losses(F.cross_entropy, x, y)
    monkeypatch.setattr(choose.Trial, "_measured", lambda self: pytest.fail("measured again"))
    again = population("mlp", "auto")
    again.losses(F.cross_entropy, x, y)
    assert again.engine == first.engine
    assert again.choice.report == first.choice.report
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        population("mlp", "auto").losses(F.cross_entropy, x[:4], y[:4])


def test_the_fastest_that_agrees_is_kept_but_a_tie_goes_to_the_loop(monkeypatch):
    x, y = ZOO["mlp"].batch()
    for seconds, expected in [(0.5, "vmap"), (0.95, "loop"), (2.0, "loop")]:
        choose._remembered.clear()
        times = {"loop": 1.0, "vmap": seconds, "batched": 3.0}
        monkeypatch.setattr(choose.Trial, "_seconds", lambda self, names, began, t=times: dict(t))
        pop = population("mlp", "auto")
        pop.losses(F.cross_entropy, x, y)
        assert pop.engine == expected


def test_an_engine_that_computes_something_else_is_declined(monkeypatch):
    class Wrong(engines.VMap):
        def accumulate(self, loss, x, y, per_member):
            losses = 1.01 * self.losses(loss, x, y, per_member)
            losses.sum().backward()
            return losses.detach()

    monkeypatch.setitem(engines.ENGINES, "vmap", Wrong)
    pop, (x, y) = population("mlp", "auto"), ZOO["mlp"].batch()
    pop.losses(F.cross_entropy, x, y)
    assert pop.engine != "vmap"
    assert "differs from the loop by 1.0e-02" in pop.choice.report["vmap"]
    with pytest.raises(ge.EngineError, match=r"got 'vmap', which declines \(differs from the loop"):
        population("mlp", "vmap").losses(F.cross_entropy, x, y)


def test_an_engine_that_leaves_buffers_behind_is_declined(monkeypatch):
    class Forgetful(engines.VMap):
        def accumulate(self, loss, x, y, per_member):
            before = [buffer.clone() for buffer in self.population.stacked.buffers()]
            losses = super().accumulate(loss, x, y, per_member)
            for buffer, old in zip(self.population.stacked.buffers(), before, strict=True):
                buffer.copy_(old)
            return losses

    monkeypatch.setitem(engines.ENGINES, "vmap", Forgetful)
    pop, (x, y) = population("reassigning", "auto"), ZOO["reassigning"].batch()
    pop.losses(F.cross_entropy, x, y)
    assert "differs from the loop" in pop.choice.report["vmap"]


def test_a_mask_of_infinities_is_no_difference():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

        def forward(self, x):
            return self.layer(x) @ (self.layer.weight + self.mask).softmax(-1)

    pop = ge.Population(Masked, 2, engine="vmap")
    x = torch.randn(3, 4, generator=generator_from(0))
    assert pop.losses(F.mse_loss, x, x).isfinite().all()


def test_auto_goes_on_with_the_loop_when_a_later_loss_is_too_much(monkeypatch, caplog):
    def peeping(output, target):
        return F.cross_entropy(output, target) * (2 if output.sum() > 0 else 1)

    pop, (x, y) = population("mlp", "auto"), ZOO["mlp"].batch()
    pop.choice.resume("vmap")
    assert pop.engine == "vmap"
    losses = pop.losses(peeping, x, y)
    assert pop.engine == "loop"
    assert "control flow" in caplog.text
    members = [pop.member(i) for i in range(SEVERAL)]
    close(losses, torch.stack([peeping(member(x), y) for member in members]))


def test_an_unknown_engine_of_an_earlier_run_is_chosen_anew():
    pop = population("mlp", "auto")
    pop.choice.resume("warp")
    assert pop.engine == "auto"
