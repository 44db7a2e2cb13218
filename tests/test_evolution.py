"""`evolve` in a loop of one's own: who is replaced, by what, and what children take over."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradevo as ge
from gradevo.fitness import evaluate
from gradevo.optimisers import MemberOptimiser
from gradevo.randomness import generator_from

LOSSES = torch.tensor([0.3, 0.1, 0.9, 0.2, 0.7, 0.5])
STILL = ge.GADAM(crossover_rate=0.0, mutation_rate=0.0)  # children are copies of one parent


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def population(size: int = 6) -> ge.Population:
    return ge.Population(net, size, generator=generator_from(3), engine="loop")


def rows(population):
    return [population.member(i).state_dict() for i in range(population.size)]


def same(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def evolve(pop, losses=LOSSES, seed=0, **more):
    return ge.evolve(pop, losses, generator=generator_from(seed), **more)


@settings(max_examples=30, deadline=None)
@given(
    losses=st.lists(st.sampled_from([0.1, 0.2, 0.5, 3.0, float("nan"), float("inf")]),
                    min_size=2, max_size=6).filter(lambda ls: any(v < 4 for v in ls)),
    share=st.floats(0, 1),
)  # fmt: skip
def test_only_the_worst_are_replaced_and_never_the_best(losses, share):
    pop, told = population(len(losses)), torch.tensor(losses)
    before = rows(pop)
    births = evolve(pop, told, replace=share)
    known = told.nan_to_num(torch.inf, torch.inf)
    replaced = set(births.children.tolist())
    assert int(known.argmin()) not in replaced
    assert {i for i in range(len(losses)) if not told[i].isfinite()} <= replaced
    kept = [i for i in range(len(losses)) if i not in replaced]
    assert all(known[i] <= known[j] for i in kept for j in replaced)
    assert all(same(before[i], row) for i, row in enumerate(rows(pop)) if i in kept)
    assert told[births.parents].isfinite().all()


def test_a_child_with_one_parent_and_no_mutation_is_that_parent():
    pop = population()
    before = rows(pop)
    births = evolve(pop, replace=0.5, config=STILL)
    assert births.children.tolist() == [5, 4, 2]
    for child, (first, second) in zip(births.children, births.parents.tolist(), strict=True):
        assert first == second
        assert same(rows(pop)[child], before[first])


def test_parents_that_compute_the_same_with_units_in_another_order_have_a_child_that_does_too():
    mother = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    order, father = torch.randperm(6, generator=generator_from(1)), copy.deepcopy(mother)
    with torch.no_grad():
        for tensor in (father[0].weight, father[0].bias):
            tensor.copy_(tensor[order])
        father[2].weight.copy_(father[2].weight[:, order])
    x = torch.randn(8, 4, generator=generator_from(2))
    pop = ge.Population.from_modules([mother, father])
    config = ge.GADAM(crossover_rate=1.0, mutation_rate=0.0)
    for seed in range(5):
        evolve(pop, torch.tensor([0.1, 0.2]), seed, config=config, replace=0.5, example=x)
        torch.testing.assert_close(pop.member(1)(x), mother(x))


def test_the_same_generator_gives_the_same_bits_and_global_state_is_left_alone():
    a, b, state = population(), population(), torch.get_rng_state()
    assert same(evolve(a, seed=7) and a.state_dict(), evolve(b, seed=7) and b.state_dict())
    evolve(b, seed=8)
    assert not same(a.state_dict(), b.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


def trained(pop, optimizer):
    x, y = torch.randn(16, 4, generator=generator_from(5)), torch.arange(16) % 3
    for _ in range(3):
        optimizer.zero_grad()
        pop.losses(F.cross_entropy, x, y).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_children_go_on_with_the_moments_of_their_fitter_parent_in_one_optimiser_for_all(kind):
    pop = population()
    more = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(pop.parameters(), lr=0.01, **more)
    trained(pop, optimizer)
    before = copy.deepcopy(optimizer.state_dict()["state"])
    births = evolve(pop, replace=0.5, optimizer=optimizer)
    assert len(births) == 3
    origin = torch.arange(6)
    origin[births.children] = births.parents[:, 0]
    for i, numbers in optimizer.state_dict()["state"].items():
        for name, value in numbers.items():
            was = before[i][name]
            assert torch.equal(value, was[origin] if value.dim() else was)
    trained(pop, optimizer)


def test_optimisers_of_single_members_hand_on_moments_steps_and_numbers():
    pop = population()
    views = [pop.view(i) for i in range(6)]
    optimizers = [torch.optim.Adam(v.parameters(), lr=0.01 * (i + 1)) for i, v in enumerate(views)]
    x, y = torch.randn(16, 4, generator=generator_from(5)), torch.arange(16) % 3
    for i, (view, optimizer) in enumerate(zip(views, optimizers, strict=True)):
        for _ in range(i + 1):  # each has taken another number of steps
            F.cross_entropy(view(x), y).backward()
            optimizer.step()
    before = copy.deepcopy([o.state_dict() for o in optimizers])
    births = evolve(pop, replace=0.5, optimizer=optimizers)
    for child, parent in zip(births.children.tolist(), births.parents[:, 0].tolist(), strict=True):
        state, was = optimizers[child].state_dict(), before[parent]
        for i, numbers in state["state"].items():
            assert same(numbers, was["state"][i])
        ratio = state["param_groups"][0]["lr"] / was["param_groups"][0]["lr"]
        assert 0.05 < ratio < 20 and ratio != 1
    moments = [n["exp_avg"] for o in optimizers for n in o.state.values()]
    assert len({moment.data_ptr() for moment in moments}) == len(moments)  # of each its own
    kept = [i for i in range(6) if i not in births.children]
    assert all(optimizers[i].param_groups[0]["lr"] == 0.01 * (i + 1) for i in kept)


def test_groups_of_one_member_change_by_the_same_factor_and_what_schedules_keep_with_them():
    pop = population(2)
    optimizers = [
        torch.optim.Adam(
            [{"params": list(v[0].parameters()), "lr": 0.1}, {"params": list(v[3].parameters())}],
            lr=0.2, betas=(0.8, 0.99),
        )
        for v in (pop.view(0), pop.view(1))
    ]  # fmt: skip
    for optimizer in optimizers:
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    config = ge.GADAM(evolve=("lr", "beta1"), lr=0.1)
    evolve(pop, torch.tensor([0.1, 0.2]), optimizer=optimizers, config=config)
    first, second = optimizers[1].param_groups
    factor = first["lr"] / 0.05
    assert factor != 1
    assert second["lr"] == pytest.approx(0.1 * factor)
    assert [first["initial_lr"], second["initial_lr"]] == pytest.approx(
        [0.1 * factor, 0.2 * factor]
    )
    assert first["betas"] == second["betas"] != (0.8, 0.99)
    assert 0 <= first["betas"][0] < 1 and first["betas"][1] == 0.99


def test_an_optimiser_with_rates_of_each_member_is_understood():
    pop = population()
    pop.gradient()
    optimizer = MemberOptimiser(pop, torch.optim.Adam, {"lr": torch.logspace(-3, -1, 6)}, {})
    births = evolve(pop, replace=0.5, optimizer=optimizer.all(), config=ge.GADAM(evolve=("lr",)))
    before, groups = torch.logspace(-3, -1, 6).tolist(), optimizer.all()[0].param_groups
    changed = {i for i, group in enumerate(groups) if abs(group["lr"] / before[i] - 1) > 1e-6}
    assert changed == set(births.children.tolist())


def test_evolution_finds_a_better_minimum_than_members_with_a_bad_rate_alone():
    generator = generator_from(0)
    x = torch.rand(400, 4, generator=generator) * 4 - 2
    y = (x[:, 0] * x[:, 1] > 0).long()

    def best(evolving: bool) -> float:
        pop = ge.Population(lambda: nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 2)),
                            8, generator=generator_from(1), engine="batched")  # fmt: skip
        pop.gradient()
        rates = torch.full((8,), 3e-4) * torch.linspace(0.99, 1.01, 8)
        optimizer = MemberOptimiser(pop, torch.optim.Adam, {"lr": rates}, {})
        choice = generator_from(2)
        for step in range(400):
            if step and step % 20 == 0 and evolving:
                losses = evaluate(pop, F.cross_entropy, x[200:], y[200:])
                ge.evolve(pop, losses, generator=choice, optimizer=optimizer.all(), replace=0.5,
                          config=ge.GADAM(evolve=("lr",)))  # fmt: skip
            for leaf in pop.parameters():
                leaf.grad.zero_()
            pop.accumulate(F.cross_entropy, x[:200], y[:200])
            optimizer.step()
        return float(evaluate(pop, F.cross_entropy, x[200:], y[200:]).min())

    assert best(evolving=True) < 0.95 * best(evolving=False)


def test_mistakes_are_named_before_anything_changes():
    pop = population()
    before = pop.state_dict()
    before = {name: t.clone() for name, t in before.items()}
    other = torch.optim.Adam(population().parameters())
    for message, more in [
        ("replace: must lie in", {"replace": 1.5}),
        (r"losses: must be one a member, \(6,\), got \(2,\)", {"losses": torch.ones(2)}),
        ("optimizer: must hold tensors of the population, got a Adam", {"optimizer": other}),
        ("evolve: must name numbers of the optimiser .*got 'momentum'",
         {"config": ge.GADAM(evolve=("momentum",), optimizer="SGD", options={"momentum": 0.9}),
          "optimizer": [torch.optim.Adam(pop.view(i).parameters()) for i in range(6)]}),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            evolve(pop, **more)
    with pytest.raises(ge.DivergedError, match="loss: must be finite for at least one member"):
        evolve(pop, torch.full((6,), torch.nan))
    with pytest.raises(ValueError, match="population: must be a whole number of at least 2"):
        evolve(population(1), torch.ones(1))
    assert same(before, pop.state_dict())


def test_a_rate_that_groups_share_as_one_tensor_changes_for_the_child_alone():
    pop, shared = population(5), torch.tensor(1e-2)
    groups = [{"params": list(pop.view(i).parameters()), "lr": shared} for i in range(5)]
    optimizer = torch.optim.Adam(groups)
    losses = torch.tensor([0.1, 0.2, 0.3, 0.4, 9.0])
    evolve(pop, losses, optimizer=optimizer, config=ge.GADAM(evolve=("lr",)))
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    assert rates[:4] == pytest.approx([1e-2] * 4) and rates[4] != pytest.approx(1e-2)


def test_a_schedule_scales_the_rate_that_a_child_inherited():
    pop = population(5)
    pop.gradient()
    rates = torch.tensor([1e-3, 1e-3, 1e-3, 1e-3, 0.5])
    optimiser = MemberOptimiser(pop, torch.optim.Adam, {"lr": rates}, {})
    losses = torch.tensor([0.1, 0.2, 0.3, 0.4, 9.0])
    evolve(pop, losses, optimizer=optimiser.all(), config=ge.GADAM(evolve=("lr",)))
    inherited = optimiser.groups[4]["lr"]
    optimiser.scale_rate(0.5)
    assert inherited < 0.1
    assert optimiser.groups[4]["lr"] == pytest.approx(inherited / 2)


def test_a_member_that_has_diverged_does_not_keep_the_others_from_being_aligned(caplog):
    pop = population(5)
    with torch.no_grad():
        for leaf in pop.parameters():
            leaf[0] = torch.nan
    losses = torch.tensor([torch.nan, 0.2, 0.3, 0.1, 0.4])
    with caplog.at_level("INFO"):
        evolve(pop, losses, example=torch.randn(8, 4))
    assert "not applied" not in caplog.text
