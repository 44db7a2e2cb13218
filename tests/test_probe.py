"""What would go wrong in silence is refused by name before a run; what looks like it runs."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
import holders
from gradevo.attributes import described
from gradevo.randomness import generator_from
from holders import CLASSES, WIDTH, Base
from modules import close

pytestmark = [
    pytest.mark.usefixtures("forgetful", "seeded"),
    pytest.mark.filterwarnings(
        "ignore:None of the inputs have requires_grad"
    ),  # reentrant, no_grad
]
SHORT = ge.GADAM(population=2, generations=1, steps=3, batch_size=4)
ENGINES = ("loop", "vmap", "batched", "loop@2", "auto")
X, Y = torch.randn(40, WIDTH), torch.randint(CLASSES, (40,))


def fit(build=Base, loss=F.cross_entropy, algorithm=SHORT, engine="auto"):
    return ge.fit(algorithm, build, loss, (X, Y), valid=(X, Y), engine=engine, quiet=True)


REFUSED = {
    holders.Recurrent: "'state' of Recurrent that a call changes",
    holders.FirstBatch: "'mean' of FirstBatch that a call changes",
    holders.Draws: "'generator' of Draws that a call changes",
    holders.OldWeights: "'norm' of OldWeights that a call changes",
    holders.Stray: r"shape \(5,\) in 'scale' that is none of the parameters of Stray",
    holders.Global: r"shape \(5, 4\) outside of the module",
    holders.Counter: "'step' of Counter that a call changes",
}


@pytest.mark.parametrize("build", REFUSED)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_that_keeps_what_no_tensor_saves_is_refused_by_name(build, engine):
    with pytest.raises(ValueError, match=f"build: must .*{REFUSED[build]}"):
        fit(build, engine=engine)


ALLOWED = (*holders.FOLLOWED, holders.Seen, holders.Cached, holders.Named)


@pytest.mark.parametrize("build", ALLOWED)
def test_the_best_network_gives_the_loss_that_was_reported(build):
    result = fit(build, engine="loop")
    close(F.cross_entropy(result.best(X), Y), result.losses[0].float())
    close(F.cross_entropy(copy.deepcopy(result.best)(X), Y), result.losses[0].float())


@pytest.mark.parametrize("build", [holders.Listed, holders.Reentrant, holders.Closure])
@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_reached_other_than_by_name_have_their_gradients(build, engine):
    """Or the engine declines with a word on it."""
    pop = ge.Population(build, 2, generator=generator_from(0), engine=engine)
    expected = [pop.member(i) for i in range(2)]
    for module in expected:
        F.cross_entropy(module(X), Y).backward()
    try:
        pop.losses(F.cross_entropy, X, Y).sum().backward()
    except ge.EngineError as error:
        assert engine in ("vmap", "batched")
        assert "declines" in str(error) or "differs from the loop" in str(error)
        return
    for name, leaf in pop.leaves.items():
        one = [dict(module.named_parameters())[name].grad for module in expected]
        close(leaf.grad, torch.stack(one))


# --- losses ------------------------------------------------------------------------------------


class Proxies(nn.Module):
    """Has parameters of its own, as ArcFace."""

    def __init__(self):
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(CLASSES, CLASSES))

    def forward(self, z, y):
        return F.cross_entropy(z @ self.proxies.T, y)


class Counting(nn.Module):
    """Weights what it is asked for by how often it was."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, z, y):
        self.calls += 1
        return F.cross_entropy(z, y) / self.calls


def warm():
    temperature = torch.ones((), requires_grad=True)
    return lambda z, y: F.cross_entropy(z * temperature, y)


LOSSES = {
    "parameters": (Proxies, "no parameters that learn, got 'proxies' of Proxies"),
    "a closure": (warm, r"no parameters but the network's, got one of shape \(\)"),
    "a count": (Counting, "depend on output and target alone, got one of which 'calls' changes"),
    "no gradient": (
        lambda: lambda z, y: (z.argmax(1) != y).float().mean(), "have a gradient"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LOSSES)
def test_a_loss_that_would_be_ignored_in_part_is_refused(what):
    loss, words = LOSSES[what]
    with pytest.raises(ValueError, match=f"loss: must .*{words}"):
        fit(loss=loss())


def test_a_loss_is_left_as_it_was_by_what_tries_it():
    criterion = Counting()
    with pytest.raises(ValueError, match="loss: must"):
        fit(loss=criterion)
    assert criterion.calls == 0


# --- the trial of engines ----------------------------------------------------------------------


def test_the_first_call_leaves_other_gradients_as_the_second_does():
    torch.manual_seed(0)
    encoder, count = nn.Linear(WIDTH, 5), []
    encoder.weight.register_hook(lambda gradient: count.append(1))
    encoder(X).sum().backward()  # something is there already
    pop = ge.Population(lambda: nn.Linear(5, CLASSES), 3)
    found = []
    for _ in range(2):
        before = [p.grad.clone() for p in encoder.parameters()]
        count.clear()
        pop.losses(F.cross_entropy, encoder(X).tanh(), Y).sum().backward()
        grown = zip(encoder.parameters(), before, strict=True)
        found.append([*(p.grad - old for p, old in grown), len(count)])
    assert found[0][-1] == found[1][-1] == 1
    for first, second in zip(found[0][:-1], found[1][:-1], strict=True):
        close(first, second)


@pytest.mark.parametrize("build", [holders.Seen, holders.Cached])
def test_a_run_leaves_nothing_in_a_members_attributes_that_cannot_be_copied(build):
    result = fit(build)
    for module in (copy.deepcopy(result.best), copy.deepcopy(result.ensemble)):
        assert module(X).isfinite().all()
    assert not any("Batched" in str(text) for text in described(result.best).values())
