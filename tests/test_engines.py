"""Engines: the loop's numbers, or a reason; measured without a trace; errors by name."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
from gradevo.models import mlp
from gradevo.randomness import generator_from, isolated
from gradevo.structure import evaluating
from modules import DECLINES, ENGINES, SEVERAL, ZOO, Case, Tied, close, population

pytestmark = pytest.mark.usefixtures("forgetful")


def sgd_step(pop: ge.Population, case: Case, *, per_member: bool, how: str) -> dict:
    """One training step; gradients, buffers and weights after it."""
    x, y = case.batch(6, *([SEVERAL] if per_member else []))
    if how == "accumulate":
        pop.gradient()
        pop.accumulate(case.loss, x, y, per_member=per_member)
    else:
        pop.losses(case.loss, x, y, per_member=per_member).sum().backward()
    gradients = {f"{name}.grad": leaf.grad.clone() for name, leaf in pop.leaves.items()}
    torch.optim.SGD(pop.parameters(), lr=0.1).step()
    return gradients | {name: tensor.clone() for name, tensor in pop.tensors.items()}


def alone(pop: ge.Population, case: Case, *, per_member: bool) -> dict:
    """The same step by g ordinary modules that know nothing of each other."""
    x, y = case.batch(6, *([SEVERAL] if per_member else []))
    after = []
    for i in range(SEVERAL):
        module = pop.member(i)
        inputs, targets = (x[i], y[i]) if per_member else (x, y)
        case.loss(module(inputs), targets).backward()
        trainable = {n: p for n, p in module.named_parameters() if p.requires_grad}
        gradients = {f"{name}.grad": p.grad for name, p in trainable.items()}
        torch.optim.SGD(module.parameters(), lr=0.1).step()
        named = [*module.named_parameters(), *module.named_buffers()]
        after.append(gradients | {name: t.detach() for name, t in named})
    return {name: torch.stack([row[name] for row in after]) for name in after[0]}


def without_draws(pop: ge.Population) -> ge.Population:
    for part in pop.modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    return pop


@pytest.mark.parametrize("how", ["losses", "accumulate"])
@pytest.mark.parametrize("per_member", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", list(ZOO))
def test_one_step_of_an_engine_is_that_of_ordinary_modules_or_it_declines(
    name, engine, per_member, how
):
    case = ZOO[name]
    pop = without_draws(population(name, engine))
    expected = alone(pop, case, per_member=per_member)
    if name in DECLINES.get(engine, ()):
        with pytest.raises(ge.EngineError, match=DECLINES[engine][name]):
            sgd_step(pop, case, per_member=per_member, how=how)
        return
    actual = sgd_step(pop, case, per_member=per_member, how=how)
    assert actual.keys() == expected.keys()
    for key, tensor in expected.items():
        close(actual[key], tensor)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", sorted(ZOO))
def test_several_calls_move_buffers_as_those_of_ordinary_modules_do(name, engine, grad):
    if name in DECLINES.get(engine, ()):
        pytest.skip("declined")
    pop = without_draws(population(name, engine))
    members = [pop.member(i) for i in range(SEVERAL)]
    x, _ = ZOO[name].batch()
    with torch.set_grad_enabled(grad):
        for _ in range(3):
            close(pop(x), torch.stack([member(x) for member in members]))
    for i, member in enumerate(members):
        for key, buffer in member.named_buffers():
            close(pop.tensors[key][i], buffer)


@pytest.mark.parametrize("engine", ENGINES)
def test_dropout_differs_between_members_and_follows_the_generator(engine):
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(32, 1))
    pop = ge.Population.from_modules([module, copy.deepcopy(module)], engine=engine)
    x = torch.ones(16, 32)

    def step(seed: int) -> torch.Tensor:
        gradient = pop.gradient()
        with isolated(generator_from(seed)):
            pop.accumulate(F.mse_loss, x, x[:, :1])
        return gradient

    first, again, other = step(1), step(1), step(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    weights = first[: 2 * 32].view(2, 32)
    assert not torch.allclose(weights[0], weights[1])


@pytest.mark.parametrize("engine", ENGINES)
def test_every_part_keeps_its_own_mode(engine):
    """A batch norm that build put in eval mode stays there, also after an evaluation."""
    pop, (x, y) = population("frozen", engine), ZOO["frozen"].batch()
    before = pop.tensors["body.1.running_mean"].clone()
    with evaluating(pop), torch.no_grad():
        pop(x)
    pop.losses(F.cross_entropy, x, y).sum().backward()
    assert torch.equal(pop.tensors["body.1.running_mean"], before)
    pop.stacked.body.train()
    pop.losses(F.cross_entropy, x, y).sum().backward()
    assert not torch.equal(pop.tensors["body.1.running_mean"], before)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_part_that_draws_is_quiet_in_an_evaluation_whatever_its_parent_does(engine):
    def build() -> nn.Module:
        module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval()
        module[1].train()
        return module

    pop, x = ge.Population(build, 2, engine=engine), torch.ones(5, 4)
    with torch.no_grad():
        pop(x)
        with evaluating(pop):
            assert torch.equal(pop(x), pop(x))
        assert not torch.equal(pop(x), pop(x))


def test_a_forced_engine_that_cannot_run_forward_raises_by_name():
    pop, (x, _) = population("branching", "vmap"), ZOO["branching"].batch()
    with pytest.raises(ge.EngineError, match=r"engine: .* Branching, got 'vmap'.*control flow"):
        pop(x)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_a_loss_that_is_no_scalar_is_named(engine, grad):
    pop, (x, y) = population("mlp", engine), ZOO["mlp"].batch()
    with torch.set_grad_enabled(grad):
        with pytest.raises(ValueError, match=r"loss: must return a scalar .*got shape \(6,\)"):
            pop.losses(lambda output, target: (output**2).mean(1), x, y)
        with pytest.raises(ValueError, match="loss: must return a scalar tensor, got float"):
            pop.losses(lambda output, target: 1.0, x, y)


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_a_mistake_of_the_users_own_comes_through_as_it_is(engine):
    pop, (x, y) = population("mlp", engine), ZOO["mlp"].batch()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        pop.losses(F.cross_entropy, x[:, :3], y)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_without_the_members_axis_is_named(engine):
    pop, (x, y) = population("mlp", engine), ZOO["mlp"].batch(6, SEVERAL)
    for bad in (2, SEVERAL + 1):
        wide = torch.zeros(bad, 6, 4)
        with pytest.raises(ValueError, match=r"x: must have the 3 members .*got shape"):
            pop(wide, per_member=True)
    with pytest.raises(ValueError, match=r"y: must have the 3 members .*got shape \(2, 6\)"):
        pop.losses(F.cross_entropy, x, y[:2], per_member=True)


def test_an_unknown_engine_is_named_with_the_choices():
    with pytest.raises(
        ValueError, match="engine: must be one of auto, loop, vmap, batched, simd, got 'warp'"
    ):
        ge.Population(mlp(2, 1), 2, engine="warp")


@pytest.mark.parametrize("engine", ENGINES)
def test_accumulate_adds_to_the_buffer_that_was_asked_for(engine):
    pop, (x, y) = population("mlp", engine), ZOO["mlp"].batch()
    with pytest.raises(RuntimeError, match=r"call gradient\(\) once before"):
        pop.accumulate(F.cross_entropy, x, y)
    gradient = pop.gradient()
    pop.accumulate(F.cross_entropy, x, y)
    once = gradient.clone()
    assert once.abs().max() > 0
    pop.accumulate(F.cross_entropy, x, y)
    close(gradient, 2 * once)
    assert not pop.accumulate(F.cross_entropy, x, y).requires_grad


@pytest.mark.parametrize("engine", [e for e in ENGINES if "tied" not in DECLINES.get(e, ())])
def test_ties_hold_in_every_engine(engine):
    pop, (x, y) = ge.Population(Tied, 2, engine=engine), ZOO["tied"].batch()
    pop.losses(F.mse_loss, x, y).sum().backward()
    torch.optim.SGD(pop.parameters(), lr=0.5).step()
    member = pop.member(1)
    assert member.decode.weight is member.encode.weight
    close(pop(x)[1], member(x))
