"""GEMONN's published search: guided children, losses from birth, fine-tuning."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fronts import PAPER, counting, sound, states
from gradevo.algorithms import guided
from gradevo.algorithms.guided import tuning_steps
from gradevo.learning import clone
from gradevo.operators import masks as masking
from gradevo.operators.gsbx import gsbx
from gradevo.polish import polish
from gradevo.randomness import generator_from
from problems import Everything, bits, make_problem, run, stored

# --- the paper's search --------------------------------------------------------------------


@pytest.mark.parametrize("reevaluate", [False, True])
@pytest.mark.parametrize("fine_tune", [0, 7, 30])
def test_every_pass_of_the_papers_search_is_counted(reevaluate, fine_tune):
    loss, calls = counting()
    algorithm = replace(PAPER, population=5, reevaluate=reevaluate, fine_tune=fine_tune)
    tuned = []
    for state in states(algorithm, make_problem(loss=loss, size=5)):
        assert len(calls) == state.passes
        if state.children is not None:
            tuned = state.children.densities().tolist()
    steps = [tuning_steps(fine_tune, density, max(tuned)) for density in tuned]
    assert len(steps) == (5 if fine_tune else 0)
    assert state.passes == algorithm.passes + sum(steps) + 2 * len(steps)
    assert algorithm.passes == 5 * (1 + 8 * (2 if reevaluate else 1))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2000), st.lists(st.floats(1e-6, 1), min_size=1, max_size=9))
def test_denser_members_are_tuned_longer_and_none_without_a_step(most, densities):
    steps = [tuning_steps(most, density, max(densities)) for density in sorted(densities)]
    assert steps[-1] == most if max(densities) >= 0.05 else steps[-1] == min(most, 20)
    usual = [s for s, d in zip(steps, sorted(densities), strict=True) if d >= 0.05]
    assert usual == sorted(usual)
    shares = [d / max(densities) for d in sorted(densities) if d >= 0.05]
    assert usual == [pytest.approx(most * share, abs=0.5) for share in shares]
    assert all(0 <= s <= most for s in steps)


def batch_of(problem, state):
    """The batch that a step from this state draws first."""
    return problem.source.draw(stored(state).streams.data, 6, shared=True)


def test_survivors_keep_the_losses_that_they_were_born_with():
    problem = make_problem(size=6)
    algorithm = replace(PAPER, fine_tune=0)
    state, kept = algorithm.init(problem, generator_from(0)), 0
    state, _ = algorithm.step(problem, state)
    while not algorithm.finished(state):
        before = state.members.losses.clone()
        state, info = algorithm.step(problem, state)
        for i, source in enumerate(info["survivors"]):
            if source < 6:
                assert state.members.losses[i] == before[source]
                kept += 1
    assert kept > 6


def test_reevaluated_members_have_losses_and_gradients_of_the_newest_batch():
    problem = make_problem(size=6)
    algorithm = replace(PAPER, reevaluate=True, fine_tune=0)
    population, kept = problem.population, 0
    state = algorithm.init(problem, generator_from(0))
    while not algorithm.finished(state):
        batch = batch_of(problem, state)
        state, info = algorithm.step(problem, state)
        population.load(state.members.tensors)
        population.gradient()
        losses = population.accumulate(problem.loss, *batch)
        torch.testing.assert_close(state.members.losses, losses.double())
        for name, gradient in population.gradients().items():
            torch.testing.assert_close(state.members.gradients[name], gradient)
        kept += sum(source < 6 for source in info["survivors"])
    assert kept > 6


@pytest.mark.parametrize("fine_tune", [0, 12])
def test_what_is_zero_is_listed_as_not_there(fine_tune):
    algorithm, zeros = replace(PAPER, fine_tune=fine_tune), 0
    for state in states(algorithm, make_problem(Everything, size=6)):
        assert sound(state.members)
        assert state.children is None or sound(state.children)
        zeros += int((state.members.densities() < 1).sum())
    assert zeros > 6


def bred(state, **changes):
    """Children of a copy of a state, without zeros by chance."""
    return guided.breed(replace(PAPER, **changes), make_problem(size=6), stored(state))[0]


def grown_up(problem=None, seed=0):
    """A state of the paper's search after some generations."""
    problem = problem or make_problem(size=6)
    algorithm = replace(PAPER, generations=100)
    state = algorithm.init(problem, generator_from(seed))
    for _ in range(3):
        state, _ = algorithm.step(problem, state)
    return state


def turned(state):
    """The same with all gradients the other way round."""
    gradients = {name: -g for name, g in state.members.gradients.items()}
    return replace(state, members=replace(state.members, gradients=gradients))


def test_the_sign_of_the_gradient_guides_gsbx_and_not_sbx():
    state = grown_up()
    assert bits(bred(state, crossover="sbx")) == bits(bred(turned(state), crossover="sbx"))
    one, other = bred(state), bred(turned(state))
    assert bits(one) != bits(other)
    assert bits(one) != bits(bred(state, crossover="sbx"))
    assert bits(one) != bits(bred(state, low_side=True))
    longer = {n: 3 * g for n, g in state.members.gradients.items()}
    stretched = replace(state, members=replace(state.members, gradients=longer))
    assert bits(one) == bits(bred(stretched))


def test_every_parent_is_crossed_with_its_own_gradient():
    state = grown_up()
    for name, gradient in state.members.gradients.items():
        parents = state.members.tensors[name]
        streams = [[generator_from(i) for i in range(3)] for _ in range(2)]
        own = gradient[:3], gradient[3:]
        expected = gsbx(parents[:3], parents[3:], own, streams[0])
        children = guided._crossed(PAPER, parents, gradient, streams[1])
        assert all(map(torch.equal, children, expected))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 70), st.integers(0, 10**6))
def test_a_pair_has_the_same_children_whoever_is_crossed_beside_it(entries, seed):
    """To the bit: a kernel may round the last entries of a tensor otherwise than the others."""
    parents, gradients = torch.randn(2, 6, entries, generator=generator_from(seed)).unbind()

    def crossed(pairs):
        rows = torch.tensor([*pairs, *(pair + 3 for pair in pairs)])
        streams = [generator_from(seed + pair) for pair in pairs]
        return guided._crossed(PAPER, parents[rows], gradients[rows], streams)

    together = crossed([0, 1, 2])
    for pair in range(3):
        for child, alone in zip(together, crossed([pair]), strict=True):
            assert torch.equal(child[pair], alone[0])


@pytest.mark.parametrize("changes", [{"crossover": "sbx"}, {"low_side": True}, {"index": 2.0}])
def test_other_crossovers_run_in_the_same_loop(changes):
    state, infos = run(replace(PAPER, **changes), make_problem(size=6))
    assert state.members.losses.isfinite().all()
    assert bits(infos) != bits(run(PAPER, make_problem(size=6))[1])


def test_children_lose_entries_of_their_own():
    state, counts = grown_up(), set()
    for seed in range(20):
        state.streams.choice.manual_seed(seed)
        biases = bred(state)["0.bias"]  # no zeros but those by chance
        counts.add(tuple((biases == 0).sum(dim=1).tolist()))
    assert any(len(set(zeros)) > 1 for zeros in counts)


def test_guided_children_have_lower_losses_than_those_of_plain_sbx():
    wins = 0
    for seed in range(40):
        state = grown_up(make_problem(size=6), seed % 8)
        state.streams.choice.manual_seed(seed)
        problem = make_problem(size=6)
        losses = [
            problem.evaluate(bred(state, crossover=kind, index=2.0)).mean()
            for kind in ("gsbx", "sbx")
        ]
        wins += bool(losses[0] < losses[1])
    assert wins >= 25


def test_children_lie_in_the_box_of_weights_and_of_other_numbers():
    children = bred(grown_up(make_problem(Everything, size=6)), box=(0.05, 0.02))
    for name in ("inner.weight", "outer.weight"):
        assert float(children[name].abs().max()) == pytest.approx(0.05)
    for name in ("inner.bias", "norm.weight", "outer.bias", "scale"):
        assert float(children[name].abs().max()) == pytest.approx(0.02)


def test_frozen_numbers_and_statistics_come_from_the_parent_that_a_child_is_like():
    state = grown_up(make_problem(Everything, size=6))
    tensors, children = state.members.tensors, bred(state, crossover="sbx", index=1e9)
    for child in range(6):
        apart = (tensors["inner.weight"] - children["inner.weight"][child]).flatten(1)
        entries = (apart.abs() > 1e-6).sum(1)
        parents = torch.nonzero(entries == entries.min()).flatten().tolist()
        names = ("shift", "norm.running_mean", "norm.running_var")
        assert any(
            all(torch.equal(children[name][child], tensors[name][parent]) for name in names)
            for parent in parents
        )


def test_about_one_entry_a_child_becomes_zero():
    state = grown_up()
    dense = {n: torch.where(t == 0, 0.5, t) for n, t in state.members.tensors.items()}
    state = replace(state, members=replace(state.members, tensors=dense))
    zeros = []
    for seed in range(30):
        state.streams.choice.manual_seed(seed)
        zeros.append(sum(int((t == 0).sum()) for t in bred(state).values()))
    assert sum(zeros) / 180 == pytest.approx(1, abs=4 / math.sqrt(180))


# --- fine-tuning ---------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 0.1, 10.0]), st.integers(0, 15))
def test_tuning_never_raises_the_loss_on_its_batch_and_leaves_zeros_zero(seed, rate, steps):
    problem = make_problem(size=1)
    tensors = problem.population.tensors
    masks = masking.drawn(tensors, ["0.weight", "2.weight"], torch.tensor([0.5]),
                          generator_from(seed))  # fmt: skip
    start = masking.masked(clone(tensors), masks)
    batch = problem.valid
    before = float(problem.evaluate(start))
    kept = clone(start)
    after, _ = polish(problem, start, masks, batch, steps, rate)
    assert float(problem.evaluate(after)) <= before + 1e-6
    if rate == 1e-3 and steps:
        assert float(problem.evaluate(after)) < before
    assert all(torch.equal(start[name], kept[name]) for name in start)
    assert all(not after[name][~mask].any() for name, mask in masks.items())


def test_tuning_finds_the_lowest_point_of_its_way_and_not_the_last():
    problem = make_problem(size=1)
    start = clone(problem.population.tensors)
    masks = masking.full(start, ["0.weight", "2.weight"])
    losses = [
        float(problem.evaluate(polish(problem, start, masks, problem.valid, steps, 0.5)[0]))
        for steps in range(25)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]
    assert len(set(losses)) < 25  # some steps led upwards


def test_tuning_takes_adams_steps_on_the_weights_that_are_there():
    problem = make_problem(size=1)
    tensors = problem.population.tensors
    masks = masking.drawn(tensors, ["0.weight", "2.weight"], torch.ones(1) / 2, generator_from(0))
    start = masking.masked(clone(tensors), masks)
    problem.population.load(start)
    module = problem.population.member(0)
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(module(problem.valid[0]), problem.valid[1]).backward()
        for name, mask in masks.items():
            module.get_parameter(name).grad.mul_(mask[0])
        optimizer.step()
    tuned, _ = polish(problem, start, masks, problem.valid, 20, 1e-3)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(tuned[name][0], parameter.detach())


def test_those_who_would_survive_are_tuned():
    whole = states(PAPER, make_problem(size=6))
    tuned = [state.children for state in whole if state.children is not None]
    survivors = run(replace(PAPER, fine_tune=0), make_problem(size=6))[0].members
    assert bits(tuned[0]) == bits(survivors)


def test_tuned_members_compete_with_what_they_came_from():
    algorithm, problem = replace(PAPER, fine_tune=60), make_problem(size=6)
    adoptions = [run(algorithm, make_problem(size=6), seed)[1][-1]["adoption"] for seed in range(4)]
    assert sum(adoptions) / 4 > 0.5
    state, _ = run(algorithm, problem)
    untuned = run(replace(PAPER, fine_tune=0), make_problem(size=6))[0].members
    assert problem.evaluate(state.members.tensors).min() < problem.evaluate(untuned.tensors).min()
