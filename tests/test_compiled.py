"""A learning phase in compiled steps is the phase that torch takes, and goes on exactly."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
from gradevo import learning
from gradevo.learning import begin, clone, learn
from gradevo.phase import Phase, Recipe, Streams
from gradevo.randomness import generator_from
from gradevo.stepping import Eager, Watched, stepper_of
from problems import bits, make_problem, stored
from stacks import CHAINS, CLASSES, DROPPING, INPUTS

SIZE = 19  # more than a vector holds
RULES = {
    "Adam": ("Adam", {}), "AdamW": ("AdamW", {"betas": (0.8, 0.99), "eps": 1e-6}),
    "Adam with decay": ("Adam", {"weight_decay": 0.1}),
    "SGD": ("SGD", {}), "momentum": ("SGD", {"momentum": 0.9, "dampening": 0.3}),
    "dampening alone": ("SGD", {"dampening": 0.3}),
    "Nesterov": ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
}  # fmt: skip


def rows():
    generator = generator_from(7)
    x = torch.randn(96, INPUTS, generator=generator)
    return x, (x @ torch.randn(INPUTS, CLASSES, generator=generator)).argmax(1)


def problem(build=CHAINS["relu"], engine="simd", **more):
    return make_problem(build, size=SIZE, rows=rows(), engine=engine, **more)


def numbers(**more):
    """Each member's own, or the same for all."""
    values = {"lr": 0.02, **more}
    return {k: torch.as_tensor(v, dtype=torch.float64).expand(SIZE) for k, v in values.items()}


def start(task, recipe, hyper=None, **more) -> tuple[Phase, Streams]:
    tensors = clone(task.population.tensors)
    streams = Streams.start(task, generator_from(5))
    return replace(begin(task, recipe, tensors, hyper or numbers()), **more), streams


def learnt(task, recipe, hyper=None, **more) -> Phase:
    phase, streams = start(task, recipe, hyper, **more)
    learn(task, recipe, phase, streams)
    return phase


def alike(one: Phase, other: Phase, tolerance=2e-4):
    def close(mine, theirs):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)

    for name, tensor in one.tensors.items():
        close(tensor, other.tensors[name])
        if one.mean is not None:
            close(one.mean[name], other.mean[name])
    close(one.losses, other.losses)
    assert (one.step, one.passes) == (other.step, other.passes)


@pytest.mark.parametrize("name", RULES)
def test_optimisers_move_weights_as_torchs_do(name):
    kind, options = RULES[name]
    recipe = Recipe(kind, 21, options, "cosine", checks=3)
    alike(learnt(problem(), recipe), learnt(problem(engine="loop"), recipe))


@pytest.mark.parametrize("kind", CHAINS)
def test_chains_learn_as_in_the_loop_with_mean_clipping_and_numbers_of_their_own(kind):
    spread = torch.linspace(0.5, 2, SIZE)
    hyper = numbers(lr=0.01 * spread, weight_decay=0.1 * spread, beta1=0.5 + 0.2 * spread)
    recipe = Recipe("AdamW", 20, {"eps": 1e-3}, clip=0.1, average=0.5, checks=2)
    mine = learnt(problem(CHAINS[kind]), recipe, hyper)
    alike(mine, learnt(problem(CHAINS[kind], "loop"), recipe, hyper))


def test_a_shared_batch_is_the_same_for_all():
    recipe = Recipe("SGD", 9, shared_batch=True, backoff=False)
    alike(learnt(problem(), recipe), learnt(problem(engine="loop"), recipe))


@pytest.mark.parametrize("loss", [F.mse_loss, nn.L1Loss(), nn.BCEWithLogitsLoss()])
def test_targets_that_are_numbers(loss):
    x, y = rows()
    wide = F.one_hot(y, CLASSES).float()
    recipe = Recipe("SGD", 12, {"momentum": 0.9})
    mine, other = (
        learnt(make_problem(CHAINS["relu"], loss, size=SIZE, rows=(x, wide), engine=e), recipe)
        for e in ("simd", "loop")
    )
    alike(mine, other)


def random_masks(task):
    generator = generator_from(2)
    return {
        name: torch.rand(leaf.shape, generator=generator) < 0.5
        for name, leaf in task.population.leaves.items()
        if "weight" in name
    }


def test_weights_that_are_gone_stay_zero_with_momentum_and_decay():
    kind = {"lr": 0.05, "weight_decay": 0.1}
    recipe = Recipe("Adam", 15, clip=0.5, average=0.5)

    def masked(engine):
        task = problem(engine=engine)
        masks = random_masks(task)
        for name, mask in masks.items():
            task.population.tensors[name].mul_(mask)
        return learnt(task, recipe, numbers(**kind), masks=masks), masks

    (mine, masks), (other, _) = masked("simd"), masked("loop")
    alike(mine, other)
    for name, mask in masks.items():
        assert not bool(mine.tensors[name][mask == 0].any())
        assert bool(mine.tensors[name][mask != 0].all())


# --- exact ---------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [CHAINS["norms"], DROPPING])
@pytest.mark.parametrize("kind", ["AdamW", "Nesterov"])
@pytest.mark.parametrize("own", [False, True])
def test_slices_of_any_length_and_the_disk_in_between_give_the_same_bits(build, kind, own):
    optimizer, options = RULES[kind]
    rates = torch.linspace(0.01, 0.05, SIZE) if own else 0.02
    recipe = Recipe(optimizer, 23, options, "linear", checks=4, average=0.3)
    whole, streams = start(problem(build), recipe, numbers(lr=rates))
    learn(problem(build), recipe, whole, streams)

    task = problem(build, slice_seconds=0)
    phase, others = start(task, recipe, numbers(lr=rates))
    while phase.step < recipe.steps:
        learn(task, recipe, phase, others)
        if phase.step % 5 == 0:
            (phase, others), task = stored([phase, others]), problem(build, slice_seconds=0)
    assert bits([whole, streams]) == bits([phase, others])


def test_how_many_steps_a_call_takes_makes_no_difference(monkeypatch):
    recipe = Recipe("AdamW", 40, average=0.5)
    found = []
    for spell in (0.0, 1e-3, 10.0):
        monkeypatch.setattr(learning, "SPELL", spell)
        found.append(bits(learnt(problem(DROPPING), recipe)))
    assert found[0] == found[1] == found[2]


def test_threads_make_no_difference():
    recipe, found = Recipe("AdamW", 12), []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            task = make_problem(DROPPING, size=40, rows=rows(), engine="simd")
            streams = Streams.start(task, generator_from(5))
            hyper = {"lr": torch.full((40,), 0.02, dtype=torch.float64)}
            phase = begin(task, recipe, clone(task.population.tensors), hyper)
            learn(task, recipe, phase, streams)
        finally:
            torch.set_num_threads(before)
        found.append(bits(phase))
    assert found[0] == found[1]


def test_dropout_makes_members_differ_and_global_random_numbers_are_left_alone():
    task = problem(DROPPING)
    for tensor in task.population.tensors.values():
        tensor.copy_(tensor[:1].clone().expand_as(tensor))
    before = torch.get_rng_state()
    phase = learnt(task, Recipe("SGD", 3, shared_batch=True, backoff=False))
    assert torch.equal(before, torch.get_rng_state())
    weights = phase.tensors["1.weight"].flatten(1)
    assert len(weights.unique(dim=0)) == SIZE


# --- who takes the steps -------------------------------------------------------------------

EAGER = {
    "an optimiser without a kernel": {"recipe": Recipe("RMSprop", 5)},
    "one of members alone": {"recipe": Recipe("Adafactor", 5)},
    "a variant without a kernel": {"recipe": Recipe("Adam", 5, {"amsgrad": True})},
    "a loss of one's own": {"loss": lambda output, target: F.cross_entropy(output, target)},
}


@pytest.mark.parametrize("kind", EAGER)
def test_what_has_no_compiled_steps_is_left_to_torch(kind):
    more = dict(EAGER[kind])
    recipe = more.pop("recipe", Recipe("Adam", 5))
    task, other = problem(**more), problem(engine="loop", **more)
    phase, streams = start(task, recipe)
    assert isinstance(stepper_of(task, recipe, phase, streams), Eager)
    alike(learnt(task, recipe), learnt(other, recipe))


def test_the_simd_engine_takes_compiled_steps_and_auto_finds_it():
    recipe = Recipe("Adam", 100_000)
    for engine in ("simd", "auto"):
        task = problem(engine=engine)
        phase, streams = start(task, recipe)
        before = bits([phase, streams])
        stepper = stepper_of(task, recipe, phase, streams)
        assert isinstance(stepper, Watched)
        assert task.population.engine == "simd"
        assert bits([phase, streams]) == before


def test_a_whole_run_says_which_engine_and_goes_on_with_it(tmp_path):
    x, y = rows()
    settings = ge.GADAM(population=6, generations=2, steps=200, batch_size=32)
    result = ge.fit(settings, CHAINS["relu"], F.cross_entropy, (x, y), valid=(x, y),
                    engine="simd", checkpoint=tmp_path / "run")  # fmt: skip
    assert result.engine == "simd"
    again = ge.fit(settings, CHAINS["relu"], F.cross_entropy, (x, y), valid=(x, y), engine="simd")
    assert torch.equal(result.losses, again.losses)
