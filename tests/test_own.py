"""Members are what `build` returned, with all that is theirs, whoever computes them."""

import copy
import pickle
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
import holders
from gradevo.models import mlp
from holders import CLASSES, WIDTH
from modules import close

pytestmark = pytest.mark.usefixtures("forgetful", "seeded")
NAMED = ("loop", "vmap", "batched", "batched/2", "loop@2")
X, Y = torch.randn(8, WIDTH), torch.randint(CLASSES, (8,))


class Activated(nn.Module):
    def __init__(self, act, seed=0, rate=0.0):
        super().__init__()
        self.act, self.rate = act, rate
        self.basis = torch.randn(WIDTH, 8, generator=torch.Generator().manual_seed(seed))
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.out(self.act(x @ self.basis)) * (1 - self.rate)


DIFFERENT = {
    "a function": lambda: [Activated(torch.relu), Activated(torch.tanh)],
    "a plain tensor": lambda: [Activated(torch.relu, 0), Activated(torch.relu, 1)],
    "a number": lambda: [Activated(torch.relu, rate=0.1), Activated(torch.relu, rate=0.5)],
    "a closure": lambda: [Activated(lambda x, k=k: x * k) for k in (1.0, 2.0)],
}


@pytest.mark.parametrize("what", DIFFERENT)
@pytest.mark.parametrize("engine", [*NAMED, "auto"])
def test_members_keep_attributes_of_their_own_or_the_engine_declines(what, engine):
    modules = DIFFERENT[what]()
    pop = ge.Population.from_modules(modules, engine=engine)
    for i, module in enumerate(modules):
        close(pop.member(i)(X), module(X))
        close(pop.select([1, 0]).member(1 - i)(X), module(X))
        close(copy.deepcopy(pop).member(i)(X), module(X))
    expected = torch.stack([F.cross_entropy(module(X), Y) for module in modules])
    try:
        close(pop.losses(F.cross_entropy, X, Y), expected)
    except ge.EngineError as error:
        assert engine in ("vmap", "batched", "batched/2")
        assert "differs from the loop" in str(error)


@pytest.mark.parametrize("what", DIFFERENT)
def test_they_are_not_evolved_as_their_tensors_would_change_places(what):
    modules = DIFFERENT[what]()
    given = iter(modules)
    with pytest.raises(ValueError, match=r"build: .* differs between members 0 and 1.*buffer"):
        ge.fit(
            ge.GADAM(population=2, generations=1, steps=1, batch_size=4),
            lambda: next(given), F.cross_entropy, (X, Y), valid=(X, Y),
        )  # fmt: skip
    with pytest.raises(ValueError, match="differs between members"):
        pop = ge.Population.from_modules(modules)
        ge.evolve(pop, torch.tensor([0.1, 0.2]), generator=torch.Generator())


def test_a_number_that_says_nothing_may_differ():
    ge.fit(
        ge.GADAM(population=2, generations=1, steps=1, batch_size=4), holders.Named,
        F.cross_entropy, (X, Y), valid=(X, Y), quiet=True,
    )  # fmt: skip


def test_what_a_forward_counts_is_the_members_own_and_goes_with_it():
    pop = ge.Population(holders.Counter, 2, engine="loop")
    for _ in range(3):
        pop.losses(F.cross_entropy, X, Y).sum().backward()
    pop.eval()(X)
    moved = pop.to(torch.float64)
    for found in (
        pop.member(1),
        moved.member(0),
        copy.deepcopy(pop).view(1),
        pop.select([0, 1]).member(1),
    ):
        assert found.step == 3
    assert pop.stacked.step == 0


@pytest.mark.parametrize("engine", NAMED)
def test_what_a_forward_leaves_in_an_attribute_does_not_stay_there(engine):
    pop = ge.Population(holders.Seen, 2, engine=engine)
    with suppress(ge.EngineError):  # which says that it declines
        pop.losses(F.cross_entropy, X, Y).sum().backward()
        pop(X)
    for copied in (
        copy.deepcopy(pop),
        pickle.loads(pickle.dumps(pop)),
        copy.deepcopy(pop.member(0)),
    ):
        assert sum(p.numel() for p in copied.parameters()) > 0


@pytest.mark.parametrize("engine", [*NAMED, "simd"])
def test_layers_are_frozen_and_thawed_at_any_time(engine):
    pop = ge.Population(mlp(WIDTH, 8, CLASSES), 3, engine=engine)
    first, last = pop.stacked[0], pop.stacked[-1]
    optimizer = torch.optim.SGD(pop.parameters(), lr=1.0)
    for learning in (first, last, first):
        pop.requires_grad_(False)
        learning.requires_grad_(True)
        before = {name: t.clone() for name, t in pop.tensors.items()}
        optimizer.zero_grad()
        gradient = pop.gradient()
        pop.accumulate(F.cross_entropy, X, Y)
        assert gradient.numel() == sum(p.numel() for p in learning.parameters())
        optimizer.step()
        moved = {name for name, t in pop.tensors.items() if not torch.equal(t, before[name])}
        assert moved == set(pop.leaves) == set(pop.structure.trainable)
        assert all(
            p.requires_grad == (n in pop.leaves) for n, p in pop.member(0).named_parameters()
        )
    pop.requires_grad_(False)
    assert pop(X).isfinite().all()
    with pytest.raises(ValueError, match="population: must have parameters that learn"):
        pop.gradient()


def test_evolution_leaves_frozen_layers_and_padding_as_they_are():
    def build():
        words = nn.Embedding(9, 4, padding_idx=2)
        return nn.Sequential(words, nn.Flatten(), nn.Linear(12, CLASSES))

    ids = torch.randint(9, (30, 3))
    pop = ge.Population(build, 6)
    pop.stacked[2].requires_grad_(False)
    frozen = {row.numpy().tobytes() for row in pop.tensors["2.weight"]}
    for k in range(5):
        losses = torch.rand(6, generator=torch.Generator().manual_seed(k))
        ge.evolve(pop, losses, generator=torch.Generator(), replace=0.5)
    assert not pop.tensors["0.weight"][:, 2].any()
    assert {row.numpy().tobytes() for row in pop.tensors["2.weight"]} <= frozen
    rows = ids, torch.randint(CLASSES, (30,))
    for algorithm in (
        ge.GADAM(population=4, generations=3, steps=2, batch_size=8),
        ge.GEMONN.paper(population=4, generations=3, batch_size=8, fine_tune=2),
    ):
        start = ge.Start(build(), noise=0.5)
        result = ge.fit(algorithm, build, F.cross_entropy, rows, start=start, quiet=True)
        assert not result.members.tensors["0.weight"][:, 2].any()


REFUSED = {
    "in one mode": lambda: [nn.Dropout(0.5), nn.Dropout(0.5).eval()],
    "without hooks": lambda: [_hooked(), _hooked()],
    "torch.jit.script": lambda: [torch.jit.script(nn.Linear(2, 2)) for _ in range(2)],
    "torch.compile": lambda: [torch.compile(nn.Linear(2, 2)) for _ in range(2)],
    "it is wrapped": lambda: [nn.DataParallel(nn.Linear(2, 2)) for _ in range(2)],
}


def _hooked():
    layer = nn.Linear(2, 2)
    layer.weight.register_hook(lambda gradient: 0 * gradient)
    return layer


@pytest.mark.parametrize("words", REFUSED)
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_modules_that_cannot_be_members_are_refused_by_name(words):
    modules = [m if any(True for _ in m.parameters()) else nn.Sequential(nn.Linear(2, 2), m)
               for m in REFUSED[words]()]  # fmt: skip
    if words == "in one mode":
        modules[1][1].eval()
    with pytest.raises((TypeError, ValueError), match=words):
        ge.Population.from_modules(modules)


def test_a_module_in_place_of_a_function_is_refused():
    with pytest.raises(TypeError, match="build: must be a function that returns a new module"):
        ge.Population(nn.Linear(2, 2), 3)
