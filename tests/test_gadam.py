"""GADAM: a generation step by step, the paper's setting, and what can go wrong."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from gradevo.algorithms.gadam import GADAM
from gradevo.errors import DivergedError
from gradevo.operators.alignment import permute
from gradevo.randomness import generator_from
from gradevo.structure import stack
from problems import Everything, data, make_problem, run

SHORT = {"population": 4, "generations": 3, "steps": 5, "batch_size": 16}
EITHER = pytest.mark.parametrize("learners", ["children", "both"])


def bred(algorithm, problem=None, losses=(0.9, 0.2, 0.4, 0.6)):
    """Members whose every number differs, their state, and the children bred from them."""
    problem = problem or make_problem(Everything)
    state = algorithm.init(problem, generator_from(0))
    for i, tensor in enumerate(state.members.values()):
        noise = torch.rand(tensor.shape, generator=generator_from(i)) * 100
        tensor.copy_(noise)
    state.losses = torch.tensor(losses, dtype=torch.float64)
    return state, algorithm.breed(problem, state)


# --- never worse ---------------------------------------------------------------------------


@EITHER
@pytest.mark.parametrize("lr", [1e-2, 3.0, 1e3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_best_loss_never_rises(learners, lr, seed):  # theorem 1
    algorithm = GADAM(**SHORT, learners=learners, lr=lr, backoff=True, validation_batch=None)
    problem = make_problem()
    best = [float(problem.evaluate(problem.population.tensors).min())]
    state, infos = run(algorithm, problem, seed)
    best += [info["best"] for info in infos]
    assert len(best) == 4
    assert all(after <= before for before, after in pairwise(best))
    tensors, losses = algorithm.survivors(state)
    assert torch.equal(problem.evaluate(tensors), losses)
    assert float(losses.min()) == float(losses[0]) == best[-1]


def test_without_backoff_it_does_rise():
    algorithm = GADAM(**SHORT, learners="both", lr=3.0, spread=0.0, backoff=False)
    problem = make_problem()
    before = float(problem.evaluate(problem.population.tensors).min())
    assert run(algorithm, problem)[1][0]["best"] > before


# --- members that are not finite -----------------------------------------------------------


@EITHER
@pytest.mark.parametrize("backoff", [True, False])
@pytest.mark.parametrize("select", ["softmax", "tournament", "truncation"])
def test_a_member_of_nan_never_spreads(learners, backoff, select):
    algorithm = GADAM(**SHORT, learners=learners, backoff=backoff, selection=select, lr=1e-3)
    problem = make_problem(Everything)
    state = algorithm.init(problem, generator_from(0))
    for name in ("inner.weight", "outer.bias"):
        state.members[name][2] = math.nan
    state, infos = run(algorithm, problem, state=state)
    assert not any(2 in pair for pair in infos[0]["parents"])
    assert 2 not in infos[0]["survivors"]
    assert bool(state.losses.isfinite().all())
    assert all(bool(t.isfinite().all()) for t in state.members.values())


@EITHER
def test_a_run_in_which_no_member_learns_stops_whether_or_not_it_backs_off(learners):
    x, y = data()
    x[:, 1] = math.nan
    for backoff in (True, False):
        algorithm = GADAM(**SHORT, learners=learners, backoff=backoff, lr=1e30, optimizer="SGD")
        for problem in (make_problem(), make_problem(rows=(x, y))):
            with pytest.raises(DivergedError, match=r"for at least one member, got NaN .* all 4"):
                run(algorithm, problem)


# --- breeding ------------------------------------------------------------------------------


@pytest.mark.parametrize("cross", ["uniform", "layerwise", "blend"])
def test_buffers_and_frozen_numbers_come_whole_from_the_fitter_parent(cross):
    algorithm = GADAM(**SHORT, crossover=cross, mutation_rate=1.0)
    state, (children, _, parents) = bred(algorithm)
    structure = make_problem(Everything).population.structure
    assert bool((state.losses[parents[:, 0]] <= state.losses[parents[:, 1]]).all())
    for name in structure.carried:
        assert torch.equal(children[name], state.members[name][parents[:, 0]])
    assert {"shift", "norm.running_mean", "norm.num_batches_tracked"} <= set(structure.carried)


def test_breeding_changes_no_parent():
    problem = make_problem()
    algorithm = GADAM(**SHORT, mutation_rate=1.0)
    state = bred(algorithm, problem)[0]
    before = {name: t.clone() for name, t in state.members.items()}
    algorithm.breed(problem, state)
    assert all(torch.equal(t, before[name]) for name, t in state.members.items())


def test_uniform_crossover_of_the_paper_takes_entries_from_the_two_parents():
    algorithm = GADAM.paper(**SHORT, mutation_rate=0.0)
    state, (children, _, parents) = bred(algorithm)
    first, second = (state.members["inner.weight"][parents[:, side]] for side in (0, 1))
    child = children["inner.weight"]
    assert bool(((child == first) | (child == second)).all())
    both = parents[:, 0] != parents[:, 1]
    assert bool(both.any())
    assert bool((child != first).flatten(1).any(1)[both].all())
    assert bool((child != second).flatten(1).any(1)[both].all())


def test_a_blend_has_the_fitter_parents_share_by_equation_10():
    algorithm = GADAM(**SHORT, crossover="blend", crossover_rate=1.0, mutation_rate=0.0)
    state, (children, _, parents) = bred(algorithm)
    weights = torch.exp(-torch.tensor([1.0, 0.0, 2 / 7, 4 / 7]))[parents]  # normalised losses
    share = (weights[:, 0] / weights.sum(dim=1)).view(-1, 1, 1)
    first, second = (state.members["inner.weight"][parents[:, side]] for side in (0, 1))
    torch.testing.assert_close(children["inner.weight"], share * first + (1 - share) * second)


def test_mutation_follows_equation_12():
    change = {"mutation": "replace", "mutation_rate": 0.9, "crossover_rate": 0.0}
    algorithm = GADAM(**SHORT | {"population": 200} | change)
    rows = torch.ones(96, 40), data()[1]
    problem = make_problem(lambda: nn.Linear(40, 30), size=200, rows=rows)
    losses = [0.5, *[math.nan] * 199]  # one member has P = 1, so that p (1 - 2 P) is below 0
    state, (children, _, _) = bred(algorithm, problem, losses)
    assert torch.equal(children["weight"], state.members["weight"][:1].expand(200, 30, 40))
    state, (children, _, parents) = bred(algorithm, problem, [1.0] * 200)
    changed = (children["weight"] != state.members["weight"][parents[:, 0]]).double().mean()
    assert float(changed) == pytest.approx(0.9 * (1 - 2 / 200), abs=0.005)


def test_some_children_are_copies_of_the_fitter_parent():
    state, (children, _, parents) = bred(GADAM(**SHORT, crossover_rate=0.0, mutation_rate=0.0))
    assert torch.equal(parents[:, 0], parents[:, 1])
    for name, tensor in children.items():
        assert torch.equal(tensor, state.members[name][parents[:, 0]])
    many = GADAM(**SHORT | {"population": 1000}, crossover_rate=0.3)
    parents = bred(many, make_problem(size=1000), torch.rand(1000).tolist())[1][2]
    assert float((parents[:, 0] == parents[:, 1]).double().mean()) == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("align", [True, False])
def test_children_of_one_network_in_two_orders_are_that_network_if_parents_are_aligned(align):
    problem = make_problem()
    orders = [torch.stack([torch.randperm(8, generator=generator_from(i)) for i in range(4)])]
    same = stack([problem.population.member(0)] * 4)
    algorithm = GADAM(**SHORT, align=align, crossover="blend", crossover_rate=1, mutation_rate=0)
    state = algorithm.init(problem, generator_from(0))
    state.members = permute(problem.symmetry, same, orders)
    state.losses = problem.evaluate(state.members)
    children, _, parents = algorithm.breed(problem, state)
    assert bool((parents[:, 0] != parents[:, 1]).any())
    close = torch.allclose(problem.evaluate(children), state.losses, rtol=1e-5)
    assert close == align


class Odd(nn.Module):
    """Hidden units that cannot be permuted, for three reasons."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.inner, self.outer = kind, nn.Linear(4, 6), nn.Linear(6, 3)
        self.recurrent = nn.GRU(4, 6, batch_first=True) if kind == "recurrent" else None

    def forward(self, x):
        if self.recurrent is not None:
            return self.outer(self.recurrent(x.unsqueeze(1))[0][:, 0])
        hidden = self.inner(x)
        if self.kind == "branch" and hidden.sum() > 0:
            hidden = hidden.relu()
        return self.outer(hidden.cumsum(1))


@pytest.mark.parametrize("kind", ["mixing", "recurrent", "branch"])
def test_a_module_that_cannot_be_aligned_is_crossed_as_it_is_and_the_reason_is_kept(kind):
    problem = make_problem(lambda: Odd(kind))
    assert problem.symmetry is None
    assert "Odd" in problem.unaligned
    infos = run(GADAM(**SHORT, align=True, crossover_rate=1.0), problem)[1]
    assert infos[-1]["best"] <= infos[0]["best"]
    assert make_problem().unaligned is None


# --- the members' own numbers --------------------------------------------------------------


@pytest.mark.parametrize("perturb", [0.0, 0.3])
def test_children_inherit_the_fitter_parents_numbers_perturbed(perturb):
    algorithm = GADAM(
        **SHORT, evolve=("lr", "beta1"), perturb=perturb, rate_decay=0.5, weight_decay=0.25
    )
    state, (_, hyper, parents) = bred(algorithm)
    assert len(set(state.hyper["lr"].tolist())) == 4
    for name, factor in (("lr", 0.5), ("beta1", 1.0), ("weight_decay", 1.0)):
        expected = state.hyper[name][parents[:, 0]] * factor
        same = torch.allclose(hyper[name], expected)
        assert same == (perturb == 0 or name == "weight_decay")
        assert torch.allclose(hyper[name], expected, rtol=1.5)
    assert hyper["weight_decay"].tolist() == [0.25] * 4


def test_the_first_members_draw_their_numbers_around_the_start():
    evolve = ("lr", "weight_decay")
    many = GADAM(population=2000, lr=0.02, weight_decay=0.1, evolve=evolve, spread=1.5)
    hyper = many.init(make_problem(), generator_from(0)).hyper
    for name, middle, deviation in (("lr", 0.02, 1.5), ("weight_decay", 0.1, 0.75)):
        logs = (hyper[name] / middle).log()
        assert float(logs.mean()) == pytest.approx(0, abs=0.1)
        assert float(logs.std()) == pytest.approx(deviation, rel=0.05)


@EITHER
def test_where_nothing_evolves_all_learn_alike_whatever_the_rate_decay(learners):
    algorithm = GADAM(**SHORT, evolve=(), rate_decay=0.5, learners=learners, lr=0.01)
    for k, info in enumerate(run(algorithm, make_problem())[1], start=1):
        assert set(info["hyper"]["weight_decay"]) == {algorithm.start_values()["weight_decay"]}
        assert info["hyper"]["lr"] == pytest.approx([0.01 * 0.5**k] * 4)


def test_survivors_keep_their_own_numbers():
    algorithm = GADAM(**SHORT | {"generations": 1}, evolve=("lr",), perturb=0.0, rate_decay=0.1)
    problem = make_problem()
    first = algorithm.init(problem, generator_from(0)).hyper["lr"]
    info = run(algorithm, problem)[1][0]
    for lr, i in zip(info["hyper"]["lr"], info["survivors"], strict=True):
        parent = info["parents"][i - 4][0] if i >= 4 else i
        assert lr == pytest.approx(float(first[parent]) * (0.1 if i >= 4 else 1))


def test_any_number_of_the_optimiser_may_evolve_and_another_name_is_refused():
    infos = run(GADAM(**SHORT, evolve=("lr", "beta1")), make_problem())[1]
    assert all(0 <= beta < 1 for info in infos for beta in info["hyper"]["beta1"])
    assert len(set(infos[0]["hyper"]["beta1"])) > 1
    with pytest.raises(ValueError, match=r"evolve: .*AdamW.*lr.*weight_decay.*got 'speed'"):
        GADAM(evolve=("speed",))
    with pytest.raises(ValueError, match=r"evolve: must be .*names, got 'lr'"):
        GADAM(evolve="lr")


# --- what is reported ----------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [GADAM(**SHORT), GADAM.paper(**SHORT, validation_batch=20)])
def test_every_generation_tells_who_survived_and_what_it_cost(algorithm):
    problem = make_problem()
    infos = run(algorithm, problem)[1]
    assert [info["generation"] for info in infos] == [1, 2, 3]
    for info in infos:
        assert info["losses"] == sorted(info["losses"])
        assert info["best"] == info["losses"][0]
        assert info["mean"] == pytest.approx(sum(info["losses"]) / 4)
        assert info["adoption"] == sum(i >= 4 for i in info["survivors"]) / 4
        assert len(set(info["survivors"])) == 4
        assert all(0 <= i < 4 for pair in info["parents"] for i in pair)
        assert info["diversity"] > 0
    each = 2 if algorithm.learners == "both" else 1
    first = 0 if algorithm.learners == "both" else 1
    steps = [4 * 5 * (first + each * k) for k in (1, 2, 3)]
    assert [info["member_steps"] for info in infos] == steps
    assert steps[-1] == algorithm.population * algorithm.steps * algorithm.phases


# --- the paper's setting -------------------------------------------------------------------


def test_in_the_papers_setting_parents_learn_again_and_every_evaluation_has_a_new_batch():
    problem = make_problem(slice_seconds=0)
    draw, batches, learning = problem.validation_rows, [], []

    def spy(count, generator):
        rows = draw(count, generator)
        batches.append(tuple(rows.tolist()))
        return rows

    problem.validation_rows = spy
    algorithm = GADAM.paper(**SHORT, validation_batch=8)
    state = algorithm.init(problem, generator_from(0))
    while not algorithm.finished(state):
        state, _ = algorithm.step(problem, state)
        if state.phase is not None and state.phase.step == 1:
            learning.append(state.breeding)
            if state.breeding:  # eq. 7
                fitness = make_problem().evaluate(state.members, torch.tensor(batches[-1]))
                assert torch.equal(state.losses, fitness)
    assert learning == [False, True] * 3  # parents, then children, in every generation
    assert len(batches) == len(set(batches)) == 3 * 3
    assert all(len(set(rows)) == 8 for rows in batches)
    expected = problem.evaluate(state.members, torch.tensor(batches[-1]))
    assert torch.equal(state.losses, expected)


def test_the_paper_is_a_setting_that_can_be_changed():
    paper = GADAM.paper(population=6, lr=0.5)
    assert (paper.learners, paper.crossover, paper.mutation) == ("both", "uniform", "replace")
    assert (paper.population, paper.lr, paper.align, paper.evolve) == (6, 0.5, False, ())
    assert (paper.average, paper.schedule, paper.backoff) == (0, "constant", False)


# --- stopping ------------------------------------------------------------------------------


@EITHER
def test_the_run_stops_when_the_sum_of_losses_stands_still(learners):
    algorithm = GADAM(**SHORT | {"generations": 9}, learners=learners, theta=0.5, lr=0.1)
    infos = run(algorithm, make_problem())[1]
    sums = [sum(info["losses"]) for info in infos]
    changes = [abs(b - a) for a, b in pairwise(sums)]  # eq. 13
    assert len(infos) < 9
    assert changes[-1] <= 0.5
    assert all(change > 0.5 for change in changes[:-1])
    assert len(run(dataclasses.replace(algorithm, theta=None), make_problem())[1]) == 9


# --- the config ----------------------------------------------------------------------------

WRONG = {
    "population": 1, "generations": 0, "steps": 0, "epochs": 0, "batch_size": 2.5, "lr": -0.1,
    "weight_decay": math.inf, "optimizer": "adamm", "schedule": "sine", "clip": 0, "checks": True,
    "average": 1.5, "learners": "parents", "selection": "best", "crossover": "mix",
    "mutation": "none", "crossover_rate": -0.5, "mutation_rate": 1.1, "spread": -1,
    "perturb": math.nan, "rate_decay": 0, "validation_batch": 0, "theta": -1,
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_field_out_of_range_is_refused_by_name_rule_and_value(name):
    with pytest.raises(ValueError, match=rf"^{name}: must .*got {WRONG[name]!r}$"):
        GADAM(**{name: WRONG[name]})
    with pytest.raises(ValueError, match=rf"^{name}: must "):
        GADAM.paper(**{name: WRONG[name]})


def test_a_config_is_frozen_and_a_schedule_must_be_a_name_or_a_function():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GADAM().lr = 1.0
    with pytest.raises(ValueError, match=r"schedule: must be .*got 3"):
        GADAM(schedule=3)


@pytest.mark.parametrize("optimizer", ["LBFGS", "Rprop"])
def test_an_optimiser_without_weight_decay_is_given_none(optimizer):
    algorithm = GADAM(**SHORT, optimizer=optimizer, evolve=("lr",))
    infos = run(algorithm, make_problem())[1]
    assert set(infos[0]["hyper"]) == {"lr"}
    with pytest.raises(ValueError, match=rf"evolve: .*{optimizer}.*got 'weight_decay'"):
        GADAM(optimizer=optimizer, evolve=("weight_decay",))


def test_a_child_that_is_still_its_parent_does_not_take_a_survivors_place():
    """Copies, no mutation, rates at which learning only harms: nothing new comes to be."""
    still = {"crossover_rate": 0.0, "mutation_rate": 0.0, "evolve": (), "lr": 1e6, "average": 0.0}
    problem = make_problem()
    state, infos = run(GADAM(**SHORT | {"checks": 1}, **still), problem)
    assert all(info["adoption"] == 0 for info in infos)
    assert len(set(state.losses.tolist())) == len(state.losses)
