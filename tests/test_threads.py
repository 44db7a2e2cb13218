"""Members side by side: the bits of the engine underneath, in the caller's modes."""

import logging
import os
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

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
from layers import row
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
    if name in DECLINES.get(engine[:7], ()):
        with pytest.raises(ge.EngineError, match="declines"):
            steps(name, engine)
        return
    for mine, theirs in zip(steps(name, engine), steps(name, PAIRS[engine]), strict=True):
        assert torch.equal(mine, theirs)


ORDERED = {
    "torch's numbers": (lambda: mlp(4, 8, 3, dropout=0.5)(), F.cross_entropy, "random numbers"),
    "Python's numbers": (lambda: Fickle(), F.cross_entropy, "random numbers"),
    "a buffer that is written": (Reassigning, F.cross_entropy, "a buffer changes"),
    "a loss with a swarm": (lambda: mlp(4, 3)(), ge.SwarmLoss(nn.CrossEntropyLoss()),
                            "random numbers"),
    "hooks": (lambda: hooked(), F.cross_entropy, "hooks"),
}  # fmt: skip


class Fickle(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

    def forward(self, x):
        return super().forward(x) * random.random()


def hooked():
    module = nn.Sequential(nn.Linear(4, 3))
    module[0].register_forward_hook(lambda part, inputs, output: output * 2)
    return module


@pytest.mark.parametrize("kind", ORDERED)
def test_what_members_share_and_change_is_computed_in_order_and_the_log_says_why(kind, caplog):
    build, loss, reason = ORDERED[kind]
    x, y = ZOO["mlp"].batch(6)
    found = []
    for engine in ("loop", "loop@3", "loop@3"):
        pop = ge.Population(build, 8, generator=generator_from(1), engine=engine)
        gradient = pop.gradient()
        pop.choice.settled = True  # a trial would draw
        with isolated(generator_from(2)), caplog.at_level(logging.INFO, "gradevo"):
            for _ in range(4):
                pop.accumulate(loss, x, y)
        found.append(gradient)
    assert reason in caplog.text
    assert torch.equal(found[1], found[2])
    assert torch.equal(found[1], found[0])


def test_every_mode_is_looked_at_for_itself():
    x, y = ZOO["mlp"].batch(6)
    found = []
    for _ in range(6):
        pop = ge.Population(mlp(4, 64, 3, dropout=0.5), 8, generator=generator_from(1),
                            engine="loop@4")  # fmt: skip
        gradient = pop.gradient()
        pop.eval()
        with isolated(generator_from(2)):
            pop.accumulate(F.cross_entropy, x, y)
            pop.accumulate(F.cross_entropy, x, y)
            pop.train()
            for _ in range(5):
                pop.accumulate(F.cross_entropy, x, y)
        found.append(gradient)
    assert all(torch.equal(found[0], other) for other in found)


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
    assert isinstance(pop.choice.report["loop@2"], float)
    assert engines.known(pop.engine)


@pytest.mark.parametrize("engine", ["loop@2", "batched/1", "batched/1@2", "vmap", "auto"])
@pytest.mark.parametrize("late", [False, True])
def test_an_error_of_the_users_own_comes_as_it_is_and_nothing_is_added_twice(engine, late):
    class Own(Exception):
        pass

    calls = []

    def fails(output, target):
        calls.append(1)
        if late:
            output.register_hook(lambda gradient: (_ for _ in ()).throw(Own("backward")))
        elif len(calls) > (0 if engine in ("vmap", "auto") else 3):
            raise Own("forward")
        return F.cross_entropy(output, target)

    pop, (x, y) = ge.Population(mlp(4, 3), 4, engine=engine), ZOO["mlp"].batch(6)
    gradient = pop.gradient()
    pop.accumulate(F.cross_entropy, x, y)
    pop.accumulate(F.cross_entropy, x, y)
    before = gradient.clone() / 2
    pop.choice.resume(engine)
    gradient.zero_()
    calls.clear()
    with pytest.raises((Own, ge.EngineError, RuntimeError)):
        pop.accumulate(fails, x, y)
    assert bool((gradient.abs() <= before.abs() * (1 + 1e-4) + 1e-7).all())


def test_a_loss_that_takes_a_gradient_itself_does_not_add_to_the_weights():
    build = row(lambda: nn.Linear(4, 8), nn.Tanh, lambda: nn.Linear(8, 4))
    x = torch.randn(6, 4, generator=generator_from(0), requires_grad=True)

    def loss(output, target):
        (slope,) = torch.autograd.grad(output.sum(), x, retain_graph=True)
        return (slope.abs() * (output - 1).square()).mean()

    found = []
    for engine in ("loop", "batched", "batched/2", "batched@2"):
        pop = ge.Population(build, 4, generator=generator_from(1), engine=engine)
        gradient = pop.gradient()
        pop.choice.settled = True
        for _ in range(2):
            pop.accumulate(loss, x, x.detach())
        found.append(gradient)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_weights_read_beside_a_layer_that_another_thread_is_calling_are_ones_own():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.b = nn.Linear(4, 4), nn.RMSNorm(4), nn.Linear(4, 3)

        def forward(self, x):
            for _ in range(10):
                x = self.n(self.a(x)) + self.n.weight.exp()
            return self.b(x)

    x, y = ZOO["mlp"].batch(16)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        found = []
        for engine in ("batched/2", *["batched/2@4"] * 4):
            pop = ge.Population(Beside, 8, generator=generator_from(1), engine=engine)
            gradient = pop.gradient()
            for _ in range(4):
                pop.accumulate(F.cross_entropy, x, y)
            found.append(gradient)
    finally:
        sys.setswitchinterval(before)
    for other in found[1:]:
        assert torch.equal(other, found[0])


def test_jobs_of_a_job_run_in_order_and_do_not_wait_for_ever():
    def outer():
        return torch.cat(side_by_side([lambda: torch.ones(1)] * 4, 2))

    assert torch.cat(side_by_side([outer] * 4, 2)).sum() == 16


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    side_by_side([lambda: torch.ones(1)] * 2, 2)
    child = os.fork()
    if child == 0:
        side_by_side([lambda: torch.ones(1)] * 2, 2)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_new_threads_of_the_user_have_as_many_torch_threads_as_before(two_threads):
    side_by_side([lambda: torch.ones(1)] * 2, 2)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [2]


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


# --- whole runs in threads of the caller -------------------------------------------------------


def test_runs_in_threads_have_the_bits_of_each_alone_and_leave_global_states():
    case = ZOO["mlp"]
    x, y = case.batch(24, seed=1)

    def run(seed):
        algorithm = ge.GADAM(population=3, generations=2, steps=12, batch_size=8)
        net = mlp(x.shape[1], 8, 3, dropout=0.3)
        kept = ge.fit(algorithm, net, F.cross_entropy, (x, y), seed=seed, engine="loop", quiet=True)
        return kept.losses.tolist(), [t.tolist() for t in kept.members.tensors.values()]

    alone = [run(seed) for seed in range(4)]
    before = torch.get_rng_state(), random.getstate(), torch.is_grad_enabled()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, range(4)))
    assert together == alone
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), torch.is_grad_enabled()) == before[1:]
