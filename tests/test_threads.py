"""Members side by side: the bits of the engine underneath, in the caller's modes."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
from gradevo import engines
from gradevo.denormals import flushed, flushes
from gradevo.engines.threads import side_by_side
from gradevo.models import mlp
from gradevo.randomness import generator_from, isolated
from modules import DECLINES, ZOO, Reassigning
from test_engines import without_draws

pytestmark = pytest.mark.usefixtures("forgetful")
PAIRS = {"loop@2": "loop", "loop@9": "loop", "batched/2@2": "batched/2", "batched/1@3": "batched/1"}


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def steps(name, engine):
    case = ZOO[name]
    pop = without_draws(ge.Population(case.build, 5, generator=generator_from(3), engine=engine))
    gradient = pop.gradient()
    optimizer = torch.optim.SGD(pop.parameters(), 0.1)
    losses = []
    for seed in range(3):
        gradient.zero_()
        x, y = case.batch(6, 5, seed=seed)
        losses.append(pop.accumulate(case.loss, x, y, per_member=True))
        optimizer.step()
    return [*losses, gradient, *pop.tensors.values()]


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("engine", PAIRS)
def test_threads_change_no_bit(engine, name):
    if name == "reassigning" or name in DECLINES.get(engine[:7], ()):
        with pytest.raises(ge.EngineError, match="declines"):
            steps(name, engine)
        return
    for mine, theirs in zip(steps(name, engine), steps(name, PAIRS[engine]), strict=True):
        assert torch.equal(mine, theirs)


def test_a_module_that_draws_is_declined_as_threads_take_turns_in_no_order(two_threads):
    build = mlp(4, 8, 3, dropout=0.5)
    x, y = ZOO["mlp"].batch(6)
    pop = ge.Population(build, 4, engine="loop@2")
    with pytest.raises(ge.EngineError, match="it draws random numbers"):
        pop.losses(F.cross_entropy, x, y)
    auto = ge.Population(build, 4, engine="auto")
    auto.losses(F.cross_entropy, x, y)
    assert "it draws random numbers" in auto.choice.report["loop@2"]
    assert isinstance(auto.choice.report["batched@2"], float)


def test_dropout_of_the_batched_engine_is_the_same_with_and_without_threads():
    x, y = ZOO["mlp"].batch(6)
    found = []
    for engine in ("batched/1", "batched/1@2", "batched/1@4"):
        pop = ge.Population(
            mlp(4, 32, 3, dropout=0.5), 4, generator=generator_from(1), engine=engine
        )
        gradient = pop.gradient()
        with isolated(generator_from(2)):
            for _ in range(5):
                pop.accumulate(F.cross_entropy, x, y)
        found.append(gradient)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_auto_tries_threads_where_torch_has_some(two_threads):
    pop = ge.Population(mlp(4, 8, 3), 4, engine="auto")
    pop.losses(F.cross_entropy, *ZOO["mlp"].batch(6))
    assert {"loop@2", "batched@2"} <= set(pop.choice.report)
    assert engines.known(pop.engine)


def test_a_buffer_that_a_step_changes_is_a_reason_to_decline():
    """Members' buffers are parts of one tensor, whose changes autograd counts together."""
    pop, (x, y) = ge.Population(Reassigning, 4, engine="loop@2"), ZOO["reassigning"].batch(6)
    with pytest.raises(ge.EngineError, match="changes a buffer that backward may need"):
        pop.losses(F.cross_entropy, x, y)


def test_an_error_after_some_members_is_not_computed_again():
    pop, (x, y) = ge.Population(mlp(4, 3), 4, engine="loop@2"), ZOO["mlp"].batch(6)
    pop.gradient()
    pop.accumulate(F.cross_entropy, x, y)
    calls = []

    def fails_late(output, target):
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError
        return F.cross_entropy(output, target)

    with pytest.raises(ge.EngineError, match="after 3 of 4 parts had their gradients"):
        pop.accumulate(fails_late, x, y)


def test_jobs_run_side_by_side_in_the_callers_modes_and_one_thread_each(two_threads):
    meeting, seen = threading.Barrier(2, timeout=10), []

    def job():
        meeting.wait()  # passes only if both are under way
        modes = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), flushes()
        seen.append((*modes, torch.get_num_threads()))
        return torch.ones(1)

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), flushed():
        expected = False, True, flushes(), 1
        assert torch.cat(side_by_side([job, job], 2)).tolist() == [1, 1]
    assert seen == [expected] * 2
    assert torch.get_num_threads() == 2


def test_an_error_in_one_job_is_raised_once_all_are_done():
    done = []

    def fails():
        raise ValueError("a loss of one's own")

    def works():
        done.append(1)
        return torch.ones(1)

    with pytest.raises(ValueError, match="a loss of one's own"):
        side_by_side([fails, works], 2)
    assert done == [1]


def test_a_layer_without_a_batched_form_keeps_members_apart():
    """Its module is one that all members share, with a member's tensors in it for a call."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRU(4, 16, batch_first=True)
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.cell(x.unsqueeze(1).repeat(1, 20, 1))[0][:, -1])

    x, y = ZOO["mlp"].batch(32)
    found = []
    for engine in ("batched/1", "batched/1@4"):
        pop = ge.Population(Own, 8, generator=generator_from(1), engine=engine)
        gradient = pop.gradient()
        for _ in range(5):
            pop.accumulate(F.cross_entropy, x, y)
        found.append(gradient)
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["loop/2", "vmap@2", "simd@2", "batched@0", "batched/0", "@2"])
def test_names_that_are_no_engines_are_refused(name):
    with pytest.raises(ValueError, match="engine: must be one of auto, loop, vmap, batched, simd"):
        ge.Population(mlp(2, 1), 2, engine=name)
