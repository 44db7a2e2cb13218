"""The learning phase: slices, batches, schedules, clipping, checks and what is kept."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradevo import learning, stepping
from gradevo.learning import begin, clone, learn, outcome
from gradevo.optimisers import ELEMENTWISE
from gradevo.phase import SCHEDULES, Phase, Recipe, Streams
from gradevo.randomness import generator_from
from problems import Everything, bits, data, make_problem, stored

OPTIMISERS = {
    "Adam": {}, "SGD": {"momentum": 0.9}, "Adafactor": {},
    "LBFGS": {"max_iter": 3, "line_search_fn": "strong_wolfe"},
}  # fmt: skip


def hyper(size=4, **numbers):
    """Each number the same for all members, or a list of each member's own."""
    return {k: torch.as_tensor(v, dtype=torch.float64).expand(size) for k, v in numbers.items()}


def start(problem, recipe, numbers=None):
    streams = Streams.start(problem, generator_from(5))
    tensors = clone(problem.population.tensors)
    return begin(problem, recipe, tensors, numbers or hyper(lr=0.02)), streams


def learnt(problem, recipe, numbers=None) -> Phase:
    """A phase from its first step to its last, in one slice."""
    phase, streams = start(problem, recipe, numbers)
    learn(problem, recipe, phase, streams)
    assert phase.step == recipe.steps
    return phase


def in_slices(make, recipe):
    """The same, one step a slice; every third slice goes on from disk, in another process."""
    problem = make(slice_seconds=0)
    phase, streams = start(problem, recipe)
    for step in range(1, recipe.steps + 1):
        learn(problem, recipe, phase, streams)
        assert phase.step == step
        if step % 3 == 0:
            (phase, streams), problem = stored([phase, streams]), make(slice_seconds=0)
    return phase, streams


class Line(nn.Module):
    """One weight whose gradient is 1: what a step does is the learning rate alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(1, 1, dtype=torch.float64) * 3)

    def forward(self, x):
        return self.weight * torch.ones_like(x[:, :1])


def line_problem(**more):
    loss = more.pop("loss", lambda output, target: output.mean())
    return make_problem(Line, loss, dtype=torch.float64, **more)


# --- slices --------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_a_phase_in_slices_gives_the_bits_of_a_phase_in_one(optimizer):
    recipe = Recipe(optimizer, 8, OPTIMISERS[optimizer], "cosine", clip=1.0, checks=3, average=0.5)

    def make(**more):
        return make_problem(Everything, **more)

    whole, streams = start(make(), recipe)
    learn(make(), recipe, whole, streams)
    assert bits([whole, streams]) == bits(list(in_slices(make, recipe)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", sorted(ELEMENTWISE, key=lambda kind: kind.__name__))
def test_every_elementwise_optimiser_goes_on_where_it_stood(kind, dtype):
    recipe = Recipe(kind, 7)

    def make(**more):
        return make_problem(dtype=dtype, **more)

    whole = learnt(make(), recipe)
    assert bits(whole) == bits(in_slices(make, recipe)[0])


# --- against torch itself ------------------------------------------------------------------


def test_each_member_learns_as_torch_would_train_it_alone_with_its_own_numbers():
    problem = make_problem(dtype=torch.float64)
    alone = [problem.population.member(i) for i in range(4)]
    numbers = hyper(lr=[1e-3, 1e-2, 0.1, 0.5], weight_decay=[0, 0.1, 1e-3, 0.5],
                    beta1=[0.9, 0.5, 0.0, 0.99])  # fmt: skip
    recipe = Recipe("AdamW", 15, schedule="linear", shared_batch=True, backoff=False)
    phase = learnt(problem, recipe, numbers)
    streams = Streams.start(problem, generator_from(5))
    batches = [problem.source.draw(streams.data, 4, True) for _ in range(15)]
    for i, module in enumerate(alone):
        lr, decay, beta = (float(values[i]) for values in numbers.values())
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=lr, weight_decay=decay, betas=(beta, 0.999)
        )
        for step, (x, y) in enumerate(batches):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / 15)
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(phase.tensors[name][i], parameter.detach())


def test_an_optimiser_of_ones_own_gets_one_instance_a_member_and_the_same_numbers():
    class Own(torch.optim.SGD):
        pass

    recipe = Recipe(torch.optim.SGD, 6, {"momentum": 0.9}, clip=0.5)
    one = learnt(make_problem(), recipe)
    other = learnt(make_problem(), replace(recipe, optimizer=Own))
    assert one.passes == other.passes == 24
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(tensor, other.tensors[name])


# --- clipping ------------------------------------------------------------------------------


def test_members_are_clipped_as_each_would_be_alone_and_small_gradients_not_at_all():
    problem = make_problem(Everything)
    population = problem.population
    gradient = population.gradient()
    noise = torch.randn(gradient.shape, generator=generator_from(0))
    gradient.copy_(noise)
    for leaf in population.parameters():
        if leaf.grad is not None:
            leaf.grad[0] *= 1e-3
            leaf.grad[1] *= 100
    before = {name: leaf.grad.clone() for name, leaf in population.leaves.items()}
    stepping.clip_members(problem, 2.0)
    for i in range(4):
        module = population.member(i)
        for name in population.leaves:
            module.get_parameter(name).grad = before[name][i].clone()
        norm = nn.utils.clip_grad_norm_(module.parameters(), 2.0)
        assert (norm < 2) == (i == 0)
        for name, leaf in population.leaves.items():
            torch.testing.assert_close(leaf.grad[i], module.get_parameter(name).grad)
            assert torch.equal(leaf.grad[i], before[name][i]) == (i == 0)


def test_the_recipe_clips_before_the_step():
    recipe = Recipe("SGD", 1, backoff=False, clip=1e-3)
    start, clipped = (learnt(make_problem(), recipe, hyper(lr=lr)).tensors for lr in (0.0, 1.0))
    moved = torch.cat([(clipped[k] - start[k]).flatten(1) for k in start], dim=1)
    assert moved.norm(dim=1).tolist() == pytest.approx([1e-3] * 4, rel=1e-2)


# --- schedules -----------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [*SCHEDULES, lambda progress: 3.0 - progress**2])
def test_the_rate_follows_the_schedule(schedule):
    def factor(progress):
        if not isinstance(schedule, str):
            return schedule(progress)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return {"constant": 1, "linear": 1 - progress, "cosine": cosine}[schedule]

    problem = line_problem()
    before = problem.population.tensors["weight"].clone()
    phase = learnt(problem, Recipe("SGD", 10, schedule=schedule), hyper(lr=[0.1, 0.2, 0.3, 0.0]))
    total = sum(factor(step / 10) for step in range(10))
    moved = (before - phase.tensors["weight"]).flatten().tolist()
    assert moved == pytest.approx([0.1 * total, 0.2 * total, 0.3 * total, 0.0])


# --- batches -------------------------------------------------------------------------------


def batches_seen(shared):
    """The rows of each member's batch, `[step][member]`, over two epochs of four batches."""
    seen = []

    def loss(output, target):
        if torch.is_grad_enabled():
            seen.append(target.tolist())
        return output.square().mean()

    rows = data()[0], torch.arange(96)
    learnt(make_problem(loss=loss, rows=rows), Recipe("SGD", 8, shared_batch=shared))
    return [seen[4 * step : 4 * step + 4] for step in range(8)]


def test_members_batches_differ_and_cover_every_row_once_an_epoch():
    steps = batches_seen(shared=False)
    for epoch in (steps[:4], steps[4:]):
        for member in range(4):
            rows = [row for step in epoch for row in step[member]]
            assert sorted(rows) == list(range(64))
    assert all(step[i] != step[j] for step in steps for i in range(4) for j in range(i))
    assert steps[:4] != steps[4:]


def test_a_shared_batch_is_the_same_for_all_and_covers_every_row_once_an_epoch():
    steps = batches_seen(shared=True)
    assert all(step[0] == step[i] for step in steps for i in range(4))
    assert sorted(row for step in steps[:4] for row in step[0]) == list(range(64))


# --- checks, and what is kept --------------------------------------------------------------


@pytest.mark.parametrize(("steps", "checks"), [(10, 1), (10, 3), (7, 7), (100, 9)])
def test_checks_are_as_many_as_asked_for_and_the_last_is_at_the_end(steps, checks):
    recipe = Recipe("SGD", steps, checks=checks)
    at = [step for step in range(1, steps + 1) if recipe.check_after(step)]
    assert len(at) == checks
    assert at[-1] == steps
    assert max(b - a for a, b in zip([0, *at], at, strict=False)) <= math.ceil(steps / checks)


def test_a_member_made_worse_by_a_huge_rate_keeps_its_weights_from_before():
    problem = make_problem()
    before = clone(problem.population.tensors)
    rates = hyper(lr=[0.01, 1e6, 1e30, 0.01])
    phase = learnt(problem, Recipe("SGD", 10), rates)
    after = outcome(phase)
    for name, tensor in before.items():
        same = [torch.equal(after[name][i], tensor[i]) for i in range(4)]
        assert same == [False, True, True, False]
    spoilt = learnt(make_problem(), Recipe("SGD", 10, backoff=False), rates)
    assert bool((spoilt.losses[[0, 3]] == phase.losses[[0, 3]]).all())
    assert not bool((spoilt.losses[[1, 2]] < 10).any())


@pytest.mark.parametrize("backoff", [True, False])
@pytest.mark.parametrize("average", [0.0, 0.5])
@pytest.mark.parametrize("checks", [1, 4])
def test_losses_are_those_of_the_weights_that_are_handed_on(backoff, average, checks):
    problem = make_problem(Everything)
    recipe = Recipe("AdamW", 12, checks=checks, backoff=backoff, average=average)
    phase = learnt(problem, recipe, hyper(lr=[0.02, 0.1, 0.3, 1e4]))
    losses = problem.evaluate(outcome(phase))
    torch.testing.assert_close(phase.losses, losses, rtol=0, atol=0, equal_nan=True)
    assert losses.isnan().tolist() == [False, False, False, not backoff]


def test_the_best_of_all_checks_is_kept_and_not_the_last():
    problem = line_problem(loss=lambda output, target: (output.mean() - 1.05).abs())
    problem.population.leaves["weight"].data.copy_(hyper(w=[2, 2, 2, 1.05])["w"].view(4, 1, 1))
    phase = learnt(problem, Recipe("SGD", 20, checks=20), hyper(lr=[0.1, 0.3, 0.0, 0.1]))
    assert phase.losses.tolist() == pytest.approx([0.05, 0.05, 0.95, 0.0], abs=1e-9)
    assert outcome(phase)["weight"].flatten().tolist() == pytest.approx([1.1, 1.1, 2.0, 1.05])


def test_a_loss_of_minus_infinity_is_never_kept():
    spoilt = False

    def loss(output, target):
        return output.mean() * 0 - math.inf if spoilt else F.cross_entropy(output, target)

    problem, recipe = make_problem(loss=loss), Recipe("SGD", 1)
    phase, _ = start(problem, recipe)
    before = clone(phase.kept)
    spoilt = True
    problem.population.leaves["0.weight"].data.zero_()
    learning.check(problem, recipe, phase)
    assert bool(phase.losses.isfinite().all())
    assert all(torch.equal(phase.kept[name], before[name]) for name in before)


# --- the running mean ----------------------------------------------------------------------


def test_the_mean_is_that_of_all_weights_up_to_the_horizon():
    problem = line_problem()
    first = problem.population.tensors["weight"].clone()
    recipe = Recipe("SGD", 20, average=0.25, backoff=False)
    phase = learnt(problem, recipe, hyper(lr=0.1))
    mean, weight = torch.zeros(4, 1, 1, dtype=torch.float64), first
    for step in range(1, 21):
        weight = weight - 0.1
        mean += (weight - mean) / min(step, 5)
    torch.testing.assert_close(outcome(phase)["weight"], mean)


@pytest.mark.parametrize("backoff", [True, False])
def test_averaging_leaves_the_weights_in_progress_alone(backoff):
    recipe = Recipe("Adam", 12, checks=3, backoff=backoff)
    plain = learnt(make_problem(Everything), recipe)
    averaged = learnt(make_problem(Everything), replace(recipe, average=0.5))
    assert all(torch.equal(t, averaged.tensors[name]) for name, t in plain.tensors.items())
    assert averaged.mean["norm.num_batches_tracked"].tolist() == [12] * 4


# --- counting, and random numbers ----------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_every_backward_pass_is_counted(optimizer):
    calls = 0

    def loss(output, target):
        nonlocal calls
        calls += torch.is_grad_enabled()
        return F.cross_entropy(output, target)

    phase = learnt(make_problem(loss=loss), Recipe(optimizer, 5, OPTIMISERS[optimizer]))
    assert phase.passes == calls
    assert calls > 20 if optimizer == "LBFGS" else calls == 20


def test_a_module_that_draws_in_eval_mode_is_evaluated_alike_and_touches_no_global_state():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.randn(len(x), 3)

    problem = make_problem(lambda: Noisy(4, 3))
    before = torch.get_rng_state()
    one, other = (problem.evaluate(problem.population.tensors) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())
    assert len(set(one.tolist())) == 4
