"""Runs on mappings and tuples of tensors: as right as on single tensors, and as resumable."""

import math
import shutil
from functools import partial
from unittest import mock

import pytest
from torch import nn
from torch.utils.data import DataLoader

import gradevo as ge
import problems
import runs
from gradevo.checks import try_once
from gradevo.folder import RunFolder
from gradevo.losses import OnLogits
from gradevo.population import Population
from gradevo.problem import Problem
from modules import close
from readers import (
    ON_LOGITS,
    Pair,
    Reader,
    Sentences,
    both,
    fit,
    forms,
    points,
    words,
)

# --- runs --------------------------------------------------------------------------------------


SHORT = {"steps": 40, "batch_size": 16, "lr": 0.05}
ALGORITHMS = {
    "gadam": ge.GADAM(population=3, generations=2, **SHORT),
    "gadam, paper": ge.GADAM.paper(population=3, generations=2, **SHORT | {"lr": 0.02}),
    "independent": ge.Independent(population=2, generations=2, **SHORT),
    "islands": ge.Islands(ge.GADAM(population=4, generations=2, **SHORT), islands=2, every=1),
    "ladder": ge.GEMONN(population=4, generations=4, **SHORT, objectives=("density", "error")),
    "crossover": ge.GEMONN(
        population=4, generations=3, search="crossover", batch_size=16, lr=0.05,
        objectives=("loss", "flops"), fine_tune=3,
    ),
    "adaswarm": ge.AdaSwarm(population=2, generations=2, **SHORT),
    "lbfgs": ge.Independent(
        population=2, generations=1, steps=20, batch_size=32, optimizer="LBFGS", lr=0.1, checks=5
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_learns_from_mappings(name):
    result = fit(ALGORITHMS[name])
    if isinstance(result, ge.Front):
        assert result.table(most=4)
        network = result.best()
    else:
        network = result.best
    x, y = words()
    right = float((network(**x)["logits"].argmax(1) == y).double().mean())
    assert right > 0.45  # the largest class has 0.39


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), OnLogits(nn.CrossEntropyLoss())])
@pytest.mark.parametrize("engine", ["loop", "vmap", "batched"])
def test_a_swarm_looks_around_the_prediction_the_same_by_every_engine(loss, engine):
    x, y = words(16)

    def losses(name):
        pop = Population(partial(Reader, 0.0), 2, engine=name)
        pop.gradient()
        values = pop.accumulate(ge.SwarmLoss(loss), x, y)
        return values, pop.gradient_buffer()

    for mine, theirs in zip(losses(engine), losses("loop"), strict=True):
        close(mine, theirs)
    assert losses(engine)[1].abs().max() > 0


def test_a_loss_of_ones_own_may_see_all_outputs_and_all_targets():
    x, y = points(48)
    result = fit(
        ge.GADAM(population=2, generations=2, **SHORT), build=Pair, loss=both, train=(x, y)
    )
    fresh = [both(Pair()(*x), y).item() for _ in range(3)]
    assert both(result.best(*x), y).item() < min(fresh)
    assert result.ensemble(*x)[1].shape == (48, 5)


def half(**changes):
    return ge.GADAM(**({"population": 3, "generations": 1, "steps": 4, "batch_size": 16,
                        "checks": 2} | changes))  # fmt: skip


def sources():
    return {
        "tensors": words(),
        "mapping": forms()["mapping"],
        "loader": DataLoader(Sentences(), batch_size=16, shuffle=True),
        "data set": Sentences(),
    }


@pytest.mark.parametrize("kind", sources())
def test_a_run_extended_to_twice_its_length_is_one_long_run(kind, tmp_path):
    fit(half(), tmp_path, train=sources()[kind])
    longer = fit(half(generations=2), tmp_path, train=sources()[kind])
    assert runs.bits(longer) == runs.bits(fit(half(generations=2), train=sources()[kind]))


@pytest.mark.parametrize("kind", ["mapping", "loader"])
def test_a_run_goes_on_from_every_checkpoint_bit_for_bit(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("gradevo.run.Problem", partial(Problem, slice_seconds=0.0))
    save, count = RunFolder.save, 0

    def keep(self, saved):
        nonlocal count
        save(self, saved)
        shutil.copytree(tmp_path / "run", tmp_path / f"at {count}")
        count += 1

    with mock.patch.object(RunFolder, "save", keep):
        whole = fit(half(), tmp_path / "run", train=sources()[kind])
    assert count > 4
    for i in range(0, count, 3):
        again = fit(half(), tmp_path / f"at {i}", train=sources()[kind])
        assert runs.bits(again) == runs.bits(whole), i


def test_engines_train_alike():
    losses = [
        fit(half(steps=6), build=partial(Reader, 0.0), engine=engine).losses
        for engine in ("loop", "vmap", "batched")
    ]
    close(losses[0], losses[1])
    close(losses[0], losses[2])


def test_a_single_network_is_tried_once_before_the_work():
    problem = problems.make_problem(Reader, ON_LOGITS, rows=words())
    try_once(problem, [])
    assert math.isfinite(float(problem.evaluate(problem.population.tensors)[0]))
