"""A step whose loss or gradient is NaN is not taken, costs nobody else anything, and is said."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
from gradevo.engines.simd import missing
from gradevo.health import counted, sound_members
from gradevo.learning import begin, clone, learn
from gradevo.optimisers import MemberOptimiser
from gradevo.phase import Recipe, Streams
from gradevo.progress import charts
from gradevo.randomness import generator_from
from gradevo.stepping import Eager
from problems import data, make_problem

SIMD = pytest.param("simd", marks=pytest.mark.skipif(missing() is not None, reason="needs Numba"))
FEW = {"population": 3, "batch_size": 8}
METHODS = {
    "GADAM": ge.GADAM(**FEW, generations=2, steps=8),
    "the paper's GADAM": ge.GADAM.paper(**FEW, generations=2, steps=8),
    "Independent": ge.Independent(**FEW, steps=16),
    "AdaSwarm": ge.AdaSwarm(**FEW, steps=16, scope="batch"),
    "the ladder": ge.GEMONN(**FEW, generations=4, steps=8),
    "the paper's GEMONN": ge.GEMONN.paper(**FEW, generations=16),
    "Islands": ge.Islands(ge.GADAM(**FEW, generations=2, steps=8), islands=2),
}
X, Y = data(120)
SPOILT = X.clone()
SPOILT[3] = math.nan


FEWER = torch.where(torch.arange(120) % 6 == 0, Y, -1)  # a sixth of the labels


def labelled(output, y):
    """The mean over rows with a label, of which a batch may have none: 0 / 0."""
    there = (y >= 0).float()
    each = F.cross_entropy(output, y.clamp(min=0), reduction="none")
    return (each * there).sum() / there.sum()


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def fit(method, loss=None, x=SPOILT, y=Y, engine="loop", **more):
    given = {"valid": (X, Y), "engine": engine, "quiet": True, **more}
    return ge.fit(method, net, loss or nn.CrossEntropyLoss(), (x, y), **given)


def tensors(result):
    return {**result.members.tensors}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("engine", ["loop", "batched", "loop@2", SIMD])
def test_rows_of_nan_are_counted_and_said_once_and_spoil_no_member(name, engine, caplog, tmp_path):
    found = fit(METHODS[name], engine=engine, checkpoint=tmp_path)
    last, record = found.history[-1], json.loads((tmp_path / "run.json").read_text())
    assert 0 < last["skipped"] < last["member_steps"]
    assert last["skipped"] == sum(map(sum, last["skips"].values()))
    assert record["finished"]["skipped"] == last["skipped"]
    assert all(tensor.isfinite().all() for tensor in tensors(found).values())
    assert caplog.text.count("skips a step") == 1
    assert "has NaN or infinity in the training rows" in caplog.text


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_that_is_undefined_on_some_batches_is_an_ordinary_case(name, caplog):
    found = fit(METHODS[name], labelled, X, FEWER)
    assert found.history[-1]["skipped"] > 0
    assert all(tensor.isfinite().all() for tensor in tensors(found).values())
    assert "skips a step whose" in caplog.text
    assert f"{found.history[-1]['skipped']} of" in caplog.text  # at the end, too


def test_a_metric_that_is_undefined_on_a_batch_gives_no_direction():
    def auc(output, y):
        s, p = output[:, 0], y == 0
        pairs = p[:, None] & ~p[None, :]
        return ((s[:, None] < s[None, :]) & pairs).sum() / pairs.sum()

    rare = torch.where(torch.arange(len(Y)) % 12 == 0, 0, 1 + Y % 2)
    more = {"valid": (X, rare), "quiet": True}
    method = ge.AdaSwarm(population=1, steps=30, batch_size=8, scope="batch")
    found = ge.fit(method, net, auc, (X, rare), **more)
    assert found.losses.isfinite().all()
    assert 0 < found.history[-1]["skipped"] < 30


# --- what a step that is left out does -----------------------------------------------------


class Gated(nn.Module):
    """Has no finite output while its gate, which does not learn, is below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.gate = nn.Buffer(torch.ones(()))

    def forward(self, x):
        return self.layer(x) * self.gate.sqrt()


def learnt(gates, optimizer, engine, **options):
    problem = make_problem(Gated, size=3, engine=engine)
    tensors = {**clone(problem.population.tensors), "gate": torch.tensor(gates)}
    recipe = Recipe(optimizer, 6, options, shared_batch=True)
    rates = {"lr": torch.full((3,), 0.02, dtype=torch.float64)}
    phase = begin(problem, recipe, tensors, rates)
    learn(problem, recipe, phase, Streams.start(problem, generator_from(5)))
    return tensors, clone(phase.tensors), phase.lost


@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "Adafactor", "LBFGS"])
@pytest.mark.parametrize("engine", ["loop", "batched", "vmap"])
def test_who_has_no_gradient_stays_and_the_others_have_the_bits_of_any_other_run(optimizer, engine):
    before, after, lost = learnt([1.0, -1.0, 1.0], optimizer, engine)
    _, well, none = learnt([1.0, 1.0, 1.0], optimizer, engine)
    assert torch.equal(after["layer.weight"][1], before["layer.weight"][1])
    assert torch.equal(after["layer.weight"][::2], well["layer.weight"][::2])
    assert not torch.equal(well["layer.weight"][1], before["layer.weight"][1])
    assert lost.sum(dim=1).tolist() == [0, 6, 0]
    assert torch.equal(none, counted(3))


@pytest.mark.parametrize("options", [{"lr": [0.1] * 3}, {"lr": [0.1, 0.2, 0.3]}], ids=str)
def test_a_step_that_is_left_out_is_none_for_moments_and_counts_either(options):
    numbers = {k: torch.tensor(v, dtype=torch.float64) for k, v in options.items()}

    def stepped(skips):
        population = ge.Population(net, 3, generator=generator_from(0))
        gradient = population.gradient()
        optimiser = MemberOptimiser(population, torch.optim.Adam, numbers, {})
        for left_out in skips:
            gradient.fill_(0.5)
            optimiser.step(left_out)
        return population.tensors["0.weight"].detach().clone()

    some, twice = stepped([[], [1], []]), stepped([[], []])
    thrice = stepped([[], [], []])
    assert torch.equal(some[1], twice[1])
    assert torch.equal(some[::2], thrice[::2])


def test_on_an_accelerator_that_is_not_asked_others_than_the_sound_keep_their_weights():
    problem = make_problem(net, size=3)
    population = problem.population
    recipe = Recipe("Adam", 6)
    rates = {"lr": torch.full((3,), 0.02, dtype=torch.float64)}
    phase = begin(problem, recipe, clone(population.tensors), rates)
    streams = Streams.start(problem, generator_from(5))
    population.gradient()
    optimiser = MemberOptimiser(population, torch.optim.Adam, phase.hyper, {})
    eager = Eager(problem, recipe, phase, streams, optimiser)
    before = clone(population.tensors)
    for leaf in population.leaves.values():
        leaf.grad[:] = 1.0
        leaf.grad[1] = math.nan
    eager._step_where(torch.tensor([True, False, True]))
    for name, tensor in population.tensors.items():
        assert torch.equal(tensor[1], before[name][1])
        assert ((tensor - before[name])[::2] < 0).all()


@pytest.mark.skipif(missing() is not None, reason="needs Numba")
def test_compiled_steps_are_the_same_in_slices_around_the_one_that_is_not_taken():
    def run(slice_seconds):
        rows = SPOILT[:96], Y[:96]
        loss = nn.CrossEntropyLoss()
        problem = make_problem(net, loss, engine="simd", slice_seconds=slice_seconds, rows=rows)
        recipe = Recipe("Adam", 30)
        rates = {"lr": torch.full((4,), 0.02, dtype=torch.float64)}
        phase = begin(problem, recipe, clone(problem.population.tensors), rates)
        streams = Streams.start(problem, generator_from(5))
        while phase.step < recipe.steps:
            learn(problem, recipe, phase, streams)
        return clone(phase.tensors), phase.lost

    (one, lost), (other, again) = run(600.0), run(0.0)
    assert int(lost.sum()) > 0
    assert torch.equal(lost, again)
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- who has learnt nothing ----------------------------------------------------------------


def test_a_member_whose_weights_are_nan_has_no_fitness_whatever_its_loss_says():
    problem = make_problem(net, lambda o, y: F.cross_entropy(o.nan_to_num(), y), size=3)
    tensors = clone(problem.population.tensors)
    tensors["0.weight"][1, 0, 0] = math.nan
    problem.population.load(tensors)
    assert sound_members(problem.population).tolist() == [True, False, True]
    assert problem.evaluate(tensors).isfinite().tolist() == [True, False, True]


def never(output, y):
    return F.cross_entropy(output, y) * math.nan


def seldom(output, y):
    return F.cross_entropy(output, y) + (0.0 if (y == 0).sum() >= 7 else math.nan) * output.sum()


CAUSES = {
    "data": (nn.CrossEntropyLoss(), torch.full_like(X, math.nan), 1e-3, "NaN or infinity in train"),
    "loss": (seldom, X, 1e-3, "a loss that is undefined on some batches"),
    "rate": (lambda o, y: o.square().mean() ** 2, X, 1e30, "a learning rate that is too high"),
}


@pytest.mark.parametrize("what", CAUSES)
@pytest.mark.parametrize("name", ["GADAM", "Independent", "the ladder", "the paper's GEMONN"])
def test_a_run_in_which_nobody_learns_stops_and_names_the_likely_cause(what, name):
    loss, x, rate, words = CAUSES[what]
    method, paper = METHODS[name], name == "the paper's GEMONN"
    if paper and what == "rate":
        pytest.skip("it has steps by a rate at its end only")
    longer = {"generations": 8} if paper else {"steps": 40}
    method = type(method)(**{**vars(method), **longer, "lr": rate})
    with pytest.raises(ge.DivergedError, match=f"the likely cause is {words}"):
        fit(method, loss, x)


def test_an_objective_that_is_nan_for_every_member_is_an_error():
    def broken(network):
        return math.nan

    method = ge.GEMONN(**FEW, generations=3, steps=4, objectives=("density", "loss", broken))
    with pytest.raises((ValueError, ge.DivergedError), match=r"objectives.*broken"):
        fit(method, x=X)


def test_a_run_in_which_nobody_became_better_says_so(caplog):
    found = fit(ge.GADAM(**FEW, generations=2, steps=8, lr=1000.0), x=X)
    assert [info["improved"] for info in found.history] == [0, 0]
    assert "no member became better by learning in generation 1" in caplog.text
    assert "no member became better by learning in the whole run" in caplog.text


def test_the_progress_line_has_the_skipped_steps():
    found = fit(METHODS["GADAM"])
    assert f"skipped {found.history[-1]['skipped']} steps" in charts(found.history, 80)
