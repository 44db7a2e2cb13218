"""Where the simd engine could go wrong in silence: the loop's numbers, or the loop itself."""

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
from gradevo.engines.simd import entry
from gradevo.models import mlp
from gradevo.optimisers import MemberOptimiser
from gradevo.phase import Recipe
from gradevo.randomness import generator_from
from layers import row
from problems import make_problem
from test_compiled import alike, learnt, numbers, problem

G, ROWS, CLASSES = 3, 8, 4
NORMED = row(lambda: nn.Linear(5, 7), lambda: nn.BatchNorm1d(7), lambda: nn.Linear(7, 4))


def population(engine, build=None, size=G):
    """Settled: what comes later is not compared any more."""
    build = build or mlp(5, 7, CLASSES)
    pop = ge.Population(build, size, generator=generator_from(1), engine=engine)
    pop.gradient()
    pop.accumulate(F.cross_entropy, *batch()[:2])
    pop.gradient()
    return pop


def batch():
    generator = generator_from(0)
    x = torch.randn(ROWS, 5, generator=generator)
    y = torch.arange(ROWS) % CLASSES
    return x, y, torch.rand(ROWS, CLASSES, generator=generator)


X, Y, WIDE = batch()
LATER = {
    "an ignored class": (nn.CrossEntropyLoss(ignore_index=1), X, Y),
    "broadcast targets": (lambda o, t: F.mse_loss(o, t.expand_as(o)), X[:4], WIDE[:1]),
    "doubles": (F.mse_loss, X, WIDE.double()),
    "whole numbers": (F.mse_loss, X, WIDE.round()),
    "several axes": (lambda o, t: F.mse_loss(o.flatten(0, -2), t), X.view(2, 4, 5), WIDE),
    "no rows": (F.cross_entropy, X[:0], Y[:0]),
    "a transposed batch": (F.cross_entropy, X.t().contiguous().t(), Y),
    "every other row": (F.cross_entropy, X[::2], Y[::2]),
    "a loss that cannot be looked up": (type("Odd", (), {
        "__hash__": None, "__call__": lambda self, o, t: F.mse_loss(o, t)})(), X, WIDE),
}  # fmt: skip


@pytest.mark.parametrize("engine", ["simd", "auto"])
@pytest.mark.parametrize("kind", LATER)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_later_batch_or_loss_of_another_kind_has_the_loops_numbers(kind, engine):
    loss, x, y = LATER[kind]
    found = []
    for name in ("loop", engine):
        pop = population(name)
        pop.choice.resume("simd")
        gradient = pop.gradient()
        try:
            losses = pop.accumulate(loss, x, y)
        except ge.EngineError:
            assert (name, kind) in {("simd", "several axes"), ("simd", "no rows")}
            return
        found.append([losses, gradient])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, check_dtype=False, equal_nan=True)


MISTAKES = {
    "more labels than rows": (F.cross_entropy, X[:4], Y, ValueError),
    "fewer targets than rows": (F.mse_loss, X[:4], WIDE[:2], RuntimeError),
    "labels of 32 bits": (F.cross_entropy, X, Y.int(), RuntimeError),
    "one row for a norm": (F.cross_entropy, X[:1], Y[:1], ValueError),
    "no probabilities": (nn.BCELoss(), X, WIDE, RuntimeError),
}


@pytest.mark.parametrize("kind", MISTAKES)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_later_mistake_is_told_as_torch_tells_it(kind):
    loss, x, y, error = MISTAKES[kind]
    for engine in ("loop", "simd"):
        pop = population(engine, NORMED)
        with pytest.raises(error):
            pop.accumulate(loss, x, y)


def test_a_second_derivative_is_refused_and_not_left_out():
    pop = population("simd")
    loss = pop.losses(F.mse_loss, X, WIDE).sum()
    first = torch.autograd.grad(loss, list(pop.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        sum(slope.square().sum() for slope in first).backward()


def half_frozen():
    network = mlp(5, 7, CLASSES)()
    network[0].requires_grad_(False)
    return network


def test_frozen_weights_that_change_before_backward_are_told_and_inputs_do_not_matter():
    found = []
    for change in (False, True):
        pop, x = ge.Population(half_frozen, G, engine="simd"), X.clone()
        output, gradient = pop(x), pop.gradient()
        x.mul_(2 if change else 1)
        output.sum().backward()
        found.append(gradient)
    assert torch.equal(*found)
    output = pop(x)
    pop.tensors["0.weight"].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_backward_uses_the_statistics_of_its_own_forward():
    found = []
    for engine in ("loop", "simd"):
        pop = population(engine, NORMED)
        pop.eval()
        output = pop(X)
        pop.train()
        with torch.no_grad():
            pop(3 * X + 1)
        gradient = pop.gradient()
        output.square().sum().backward()
        found.append(gradient)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_hooks_and_widths_that_do_not_fit_are_declined_without_a_trial():
    def hooked():
        layer = nn.Linear(5, CLASSES)
        layer.register_forward_hook(lambda part, inputs, output: 2 * output)
        return layer

    unfit = row(lambda: nn.Linear(5, 8), nn.ReLU, lambda: nn.Linear(6, 3))
    for build, reason in ((hooked, "it has hooks"), (unfit, "shapes cannot be multiplied")):
        pop = ge.Population(build, 2, engine="simd")
        with torch.no_grad(), pytest.raises((ge.EngineError, RuntimeError), match=reason):
            pop(X)


def test_inference_mode_leaves_nothing_behind():
    pop = population("simd")
    with torch.inference_mode():
        first = pop(X)
    with torch.no_grad():
        assert torch.equal(pop(X), first)
    pop.accumulate(F.cross_entropy, X, Y)


def test_default_types_do_not_change_what_the_kernel_reads():
    code = (
        "import torch, torch.nn.functional as F, gradevo as ge\n"
        "from gradevo.models import mlp\n"
        "torch.set_default_dtype(torch.bfloat16)\n"
        "build = lambda: mlp(50, 70, 4)().float()\n"
        "found = []\n"
        "for engine in ('loop', 'simd'):\n"
        "    pop = ge.Population(build, 20, engine=engine)\n"
        "    x = torch.linspace(-1, 1, 3200, dtype=torch.float32).view(64, 50)\n"
        "    gradient = pop.gradient()\n"
        "    pop.accumulate(F.cross_entropy, x, torch.arange(64) % 4)\n"
        "    found.append(gradient)\n"
        "torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_not_a_number_goes_back_through_relu():
    x = X.clone()
    x[0, 0] = torch.nan
    found = []
    for engine in ("loop", "simd"):
        pop = population(engine)
        gradient = pop.gradient()
        pop.accumulate(F.cross_entropy, x, Y)
        found.append(gradient.isnan())
    assert torch.equal(*found)


def test_a_row_source_that_is_another_tensor_is_read_anew():
    for first, second in ((X, X * 2), (X[:5], X[:5].t().contiguous().t())):
        pop = population("simd")
        engine = pop.choice.engine(pop, "simd")
        program = engine.program(4, 1)
        engine.table(program, first, Y[: len(first)])
        table = engine.table(program, second, Y[: len(second)])
        assert torch.equal(table[:, :5], second)


def test_momentum_that_only_some_members_have_is_taken_over():
    momenta = torch.tensor([0.0, 0.9, 0.5] * 7, dtype=torch.float64)[:19]
    hyper = numbers(momentum=momenta)
    recipe = Recipe("SGD", 12, backoff=False)
    first = learnt(problem(engine="loop"), Recipe("SGD", 6, backoff=False), hyper)
    assert first.optimizer is not None
    halves = []
    for engine in ("loop", "simd"):
        task = problem(engine=engine)
        task.population.gradient()
        optimiser = MemberOptimiser(task.population, torch.optim.SGD, hyper, {})
        optimiser.load(copy.deepcopy(first.optimizer))
        stacked = optimiser.stacked("momentum_buffer")
        assert all(not bool(rows[0].any()) and bool(rows[1].any()) for rows in stacked.values())
        carried = copy.deepcopy(first.optimizer)
        halves.append(learnt(task, recipe, hyper, optimizer=carried))
    alike(*halves)


def test_without_a_place_to_keep_the_compiled_kernel_it_is_compiled_for_the_process(monkeypatch):
    made = []

    def of_version(version, kept):
        made.append(kept)
        if kept:
            raise RuntimeError("cannot cache function: no locator available")
        return original(version, kept)

    original = entry._of_version
    monkeypatch.setattr(entry, "_of_version", of_version)
    entry._lazy.cache_clear()
    try:
        assert not entry.on_disk()
        assert made == [True, False]
        pop = ge.Population(mlp(5, 7, CLASSES), 2, engine="auto")
        pop.losses(F.cross_entropy, X, Y)
        assert "to start" in str(pop.choice.report["simd"])
    finally:
        entry._lazy.cache_clear()


def test_an_earlier_runs_simd_goes_on_by_torch_where_there_is_no_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    task = make_problem(engine="auto")
    task.population.choice.resume("simd")
    recipe, hyper = Recipe("Adam", 5), {"lr": torch.full((4,), 0.01, dtype=torch.float64)}
    alike(learnt(task, recipe, hyper), learnt(make_problem(), recipe, hyper))
    assert task.population.engine == "loop"


def test_a_cold_start_is_not_worth_it_for_a_short_run(monkeypatch, tmp_path):
    code = (
        "import torch, torch.nn.functional as F, gradevo as ge\n"
        "from gradevo.models import mlp\n"
        "x = torch.randn(64, 4); y = torch.randint(3, (64,))\n"
        "settings = ge.GADAM(population=4, generations=1, steps=20, batch_size=16)\n"
        "result = ge.fit(settings, mlp(4, 8, 3), F.cross_entropy, (x, y), valid=(x, y))\n"
        "assert result.engine != 'simd', result.engine\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.nbi"))
