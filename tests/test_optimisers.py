"""Optimisers over a population: what one ordinary optimiser a member does, bit for bit.

With one exception, torch's own: the fused kernels of Adam, AdamW and SGD with momentum round
the numbers at the end of a tensor, which do not fill a vector, in another way. On stacked
leaves these are other numbers, and differ in the last bit.
"""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

import gradevo as ge
from gradevo.checkpoint import read, write
from gradevo.models import mlp
from gradevo.optimisers import ELEMENTWISE, FUSED, MemberOptimiser, default_of, resolve
from gradevo.randomness import generator_from
from modules import ZOO

MEMBERS, STEPS = 3, 4
FORGETFUL = {"SGD"}  # without momentum, which the test of states leaves out
CASE = ZOO["mlp"]
OPTIONS = {torch.optim.SGD: {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}}
BY_NAME = {kind.__name__: kind for kind in ELEMENTWISE}


class Normalised(Optimizer):
    """Steps of one length: what a number does depends on all others. No rate of that name."""

    def __init__(self, params, size: float = 0.1) -> None:
        super().__init__(params, {"size": size})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure and torch.enable_grad()(closure)()
        for group in self.param_groups:
            norm = torch.stack([p.grad.norm() for p in group["params"]]).norm()
            for p in group["params"]:
                count = self.state[p].setdefault("count", torch.zeros(()))
                p.sub_(group["size"] / (1 + count) * p.grad / norm)
                count += 1
        return loss


class Mine(torch.optim.Adam):
    """Who knows what a subclass does?"""


COUPLED = {
    "Adafactor": (torch.optim.Adafactor, {"lr": 0.05}),
    "Muon": (torch.optim.Muon, {"lr": 0.05, "weight_decay": 0.1}),
    "LBFGS": (torch.optim.LBFGS, {"lr": 0.5, "max_iter": 3, "history_size": 4}),
    "Normalised": (Normalised, {"size": 0.1}),
    "Mine": (Mine, {"lr": 0.05}),
}


def population(seed: int = 0) -> ge.Population:
    return ge.Population(CASE.build, MEMBERS, generator=generator_from(seed), engine="loop")


def batch(step: int) -> tuple[Tensor, Tensor]:
    return CASE.batch(6, MEMBERS, seed=step)


def spread(**numbers: float) -> dict[str, Tensor]:
    """Other numbers for every member."""
    factors = torch.tensor([0.5, 1.0, 0.9], dtype=torch.float64)
    return {name: factors * value for name, value in numbers.items()}


def train(pop: ge.Population, optimiser: MemberOptimiser, steps: range) -> None:
    """The inner loop of a learning phase."""
    loop = pop.choice.loop(pop)
    for step in steps:
        x, y = batch(step)
        if optimiser.elementwise:
            pop.zero_grad(set_to_none=False)
            pop.accumulate(CASE.loss, x, y, per_member=True)
            optimiser.step()
            continue
        for i in range(MEMBERS):

            def closure(i=i, x=x, y=y) -> Tensor:
                pop.zero_grad(set_to_none=False)
                return loop.member_step(i, CASE.loss, x[i], y[i])

            optimiser.step_member(i, closure)


def train_alone(module: nn.Module, optimisers: list[Optimizer], i: int) -> None:
    """Ordinary training of one module on the batches of member i."""
    for step in range(STEPS):
        x, y = batch(step)

        def closure(x=x, y=y) -> Tensor:
            module.zero_grad()
            loss = CASE.loss(module(x[i]), y[i])
            loss.backward()
            return loss

        if len(optimisers) == 1:
            optimisers[0].step(closure)
        else:
            closure()
            for optimiser in optimisers:
                optimiser.step()


def assert_member_is(pop: ge.Population, i: int, module: nn.Module, last_bit=False) -> None:
    rtol, atol = (1e-5, 1e-6) if last_bit else (0, 0)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(pop.leaves[name][i], parameter, rtol=rtol, atol=atol)


def rounds_ends(kind: type[Optimizer], options: dict) -> bool:
    """Whether torch's kernel makes a last bit depend on where a number lies."""
    return "fused" in options and kind is not torch.optim.Adagrad


def variants() -> list:
    """Every elementwise class with every implementation that it has."""
    cases = []
    for name, kind in sorted(BY_NAME.items()):
        ways = [{}, {"foreach": True}] + ([{"fused": True}] if kind in FUSED else [])
        ways = [{**OPTIONS.get(kind, {}), **way} for way in ways]
        cases += [pytest.param(kind, way, id=f"{name}-{'-'.join(way)}") for way in ways]
    return cases


# --- any torch optimiser on the stacked leaves -----------------------------------------------


@pytest.mark.parametrize(("kind", "options"), variants())
def test_an_ordinary_optimiser_treats_members_as_if_alone(kind, options):
    pop = population()
    members = [pop.member(i) for i in range(MEMBERS)]
    optimizer = kind(pop.parameters(), **options)
    for step in range(STEPS):
        x, y = batch(step)
        optimizer.zero_grad()
        pop.losses(CASE.loss, x, y, per_member=True).sum().backward()
        optimizer.step()
    for i, member in enumerate(members):
        start = member[0].weight.clone()
        train_alone(member, [kind(member.parameters(), **options)], i)
        assert not torch.equal(start, member[0].weight)
        assert_member_is(pop, i, member, last_bit=rounds_ends(kind, options))


@pytest.mark.parametrize(("kind", "options"), variants())
def test_sizes_that_do_not_fill_a_vector_make_no_difference(kind, options):
    """Kernels work on several numbers at once, and on what is left over in another way."""

    @settings(max_examples=6, deadline=None)
    @given(
        sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        members=st.integers(1, 5),
        seed=st.integers(0, 99),
    )
    def check(sizes, members, seed):
        pop = ge.Population(mlp(*sizes), members, generator=generator_from(seed))
        modules = [pop.member(i) for i in range(members)]
        optimizers = [kind(m.parameters(), **options) for m in (pop, *modules)]
        generator = generator_from(seed)
        for _ in range(3):
            for name, leaf in pop.leaves.items():
                leaf.grad = torch.randn(leaf.shape, generator=generator)
                for i, module in enumerate(modules):
                    module.get_parameter(name).grad = leaf.grad[i].clone()
            for optimizer in optimizers:
                optimizer.step()
        for i, module in enumerate(modules):
            assert_member_is(pop, i, module, last_bit=rounds_ends(kind, options))

    check()


# --- numbers of each member's own ------------------------------------------------------------

NUMBERS = {
    "Adadelta": {"lr": 1.0, "rho": 0.9},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.01},
    "Adam": {"lr": 0.02, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.99},
    "AdamW": {"lr": 0.02, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.99},
    "Adamax": {"lr": 0.02, "beta1": 0.9, "beta2": 0.99},
    "ASGD": {"lr": 0.02, "weight_decay": 0.1},
    "NAdam": {"lr": 0.02, "beta1": 0.9},
    "RAdam": {"lr": 0.02, "beta2": 0.99},
    "RMSprop": {"lr": 0.02, "alpha": 0.9, "momentum": 0.5},
    "Rprop": {"lr": 0.01},
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
}


def ordinary(kind: type[Optimizer], module: nn.Module, numbers: dict, fixed: dict) -> Optimizer:
    """What a user would write for one member."""
    own = {name: value for name, value in numbers.items() if not name.startswith("beta")}
    if "beta1" in numbers or "beta2" in numbers:
        own["betas"] = (numbers.get("beta1", 0.9), numbers.get("beta2", 0.999))
    return kind(module.parameters(), **own, **fixed)


@pytest.mark.parametrize("equal", [True, False], ids=["one group", "a group a member"])
@pytest.mark.parametrize("fixed", [{}, {"foreach": True}], ids=["default", "foreach"])
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_member_steps_with_its_own_numbers(name, fixed, equal):
    pop, kind = population(), resolve(name)
    hyper = spread(**NUMBERS[name])
    if equal:
        hyper = {key: values[:1].expand(MEMBERS) for key, values in hyper.items()}
    members = [pop.member(i) for i in range(MEMBERS)]
    pop.gradient()
    optimiser = MemberOptimiser(pop, kind, hyper, fixed)
    assert optimiser.elementwise
    assert len(optimiser.groups) == (1 if equal else MEMBERS)
    train(pop, optimiser, range(STEPS))
    way = {"fused": True} if kind in FUSED and not fixed else fixed
    for i, member in enumerate(members):
        numbers = {key: float(values[i]) for key, values in hyper.items()}
        train_alone(member, [ordinary(kind, member, numbers, way)], i)
        assert_member_is(pop, i, member, last_bit=equal and rounds_ends(kind, way))


@pytest.mark.parametrize("name", list(COUPLED))
def test_a_class_that_couples_numbers_trains_every_member_alone(name):
    kind, numbers = COUPLED[name]
    pop = population()
    members = [pop.member(i) for i in range(MEMBERS)]
    varied = next(iter(numbers))
    fixed = {key: value for key, value in numbers.items() if key != varied}
    hyper = spread(**{varied: numbers[varied]})
    pop.gradient()
    optimiser = MemberOptimiser(pop, kind, hyper, fixed)
    assert not optimiser.elementwise
    train(pop, optimiser, range(STEPS))
    for i, member in enumerate(members):
        own = {**fixed, varied: float(hyper[varied][i])}
        train_alone(member, apart(kind, member, own), i)
        assert_member_is(pop, i, member)


def apart(kind: type[Optimizer], module: nn.Module, numbers: dict) -> list[Optimizer]:
    """Muon is for matrices: its documentation asks for AdamW beside it."""
    if kind is not torch.optim.Muon:
        return [kind(module.parameters(), **numbers)]
    matrices = [p for p in module.parameters() if p.dim() == 2]
    others = [p for p in module.parameters() if p.dim() != 2]
    return [kind(matrices, **numbers), torch.optim.AdamW(others, **numbers)]


@pytest.mark.parametrize("name", [*sorted(BY_NAME), *COUPLED])
def test_a_saved_state_goes_on_bit_for_bit(name, tmp_path):
    kind, numbers = COUPLED.get(name) or (BY_NAME[name], NUMBERS[name])
    hyper = spread(**{key: numbers[key] for key in list(numbers)[:1]})

    def start(weights: dict[str, Tensor]) -> tuple[ge.Population, MemberOptimiser]:
        pop = population(1)
        pop.load(weights)
        pop.gradient()
        return pop, MemberOptimiser(pop, kind, hyper, {})

    pop, optimiser = start(population().tensors)
    train(pop, optimiser, range(2))
    saved = copy.deepcopy({"weights": pop.tensors, "state": optimiser.state()})
    write(tmp_path / "state", saved)
    stored = read(tmp_path / "state")
    train(pop, optimiser, range(2, STEPS))
    for back in (saved, stored):
        other, resumed = start(back["weights"])
        resumed.load(back["state"])
        train(other, resumed, range(2, STEPS))
        assert torch.equal(pop.flat, other.flat)
    other, fresh = start(stored["weights"])
    train(other, fresh, range(2, STEPS))
    assert not torch.equal(pop.flat, other.flat) or name in FORGETFUL


def test_rates_are_scaled_from_their_start():
    pop = population()
    pop.gradient()
    optimiser = MemberOptimiser(pop, torch.optim.SGD, spread(lr=0.2), {})
    for factor in (0.5, 0.5, 0.25):
        optimiser.scale_rate(factor)
        assert [group["lr"] for group in optimiser.groups] == pytest.approx(
            [0.1 * factor, 0.2 * factor, 0.18 * factor]
        )
    pop.leaves["0.bias"].grad.fill_(1.0)
    before = pop.leaves["0.bias"].clone()
    optimiser.step()
    torch.testing.assert_close(
        (before - pop.leaves["0.bias"])[:, 0], torch.tensor([0.025, 0.05, 0.045])
    )
    MemberOptimiser(pop, Normalised, spread(size=0.1), {}).scale_rate(0.5)  # has no lr


def test_gradients_must_be_there():
    with pytest.raises(RuntimeError, match=r"call gradient\(\) once before"):
        MemberOptimiser(population(), torch.optim.Adam, spread(lr=0.1), {})


def test_the_gradient_is_the_one_that_accumulate_fills():
    """Views, not copies: also for one member's rows."""
    pop = population()
    gradient = pop.gradient()
    optimiser = MemberOptimiser(pop, torch.optim.SGD, spread(lr=1.0), {})
    before = pop.flat.clone()
    gradient.fill_(1.0)
    optimiser.step()
    moved = (before - pop.flat).split([leaf.numel() for leaf in pop.leaves.values()])[0]
    close = torch.tensor([0.5, 1.0, 0.9]).repeat_interleave(len(moved) // MEMBERS)
    torch.testing.assert_close(moved, close)


# --- names and defaults ----------------------------------------------------------------------


def test_optimisers_have_names():
    assert resolve("adamw") is resolve("AdamW") is resolve(torch.optim.AdamW) is torch.optim.AdamW
    assert resolve(Normalised) is Normalised
    for bad in ("adamm", 3, nn.Linear):
        with pytest.raises(ValueError, match=r"optimizer: must be .*Adam, AdamW.*SGD.*, got"):
            resolve(bad)


def test_the_default_of_a_number_is_the_optimisers_own():
    assert default_of("adam", {}, "lr") == 1e-3
    assert default_of("adam", {"lr": 0.5}, "lr") == 0.5
    assert default_of("adam", {}, "beta2") == 0.999
    assert default_of("adam", {"betas": (0.8, 0.7)}, "beta1") == 0.8
    assert default_of("adamw", {}, "weight_decay") == 0.01
    assert default_of("sgd", {}, "momentum") == 0.0
    assert default_of(Normalised, {}, "size") == 0.1
    for kind, name in [("adam", "rho"), ("rmsprop", "beta1"), ("adam", "amsgrad")]:
        with pytest.raises(ValueError, match=rf"evolve: must name numbers .*lr.*, got '{name}'"):
            default_of(kind, {}, name)


def test_every_elementwise_class_is_tested_here():
    assert set(NUMBERS) == set(BY_NAME)
