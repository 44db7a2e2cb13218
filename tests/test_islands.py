"""Populations that evolve alone, and hand each other their best."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import gradevo as ge
import runs
from gradevo.algorithms.gadam import GADAM
from gradevo.algorithms.islands import Islands
from gradevo.errors import DivergedError
from gradevo.randomness import generator_from
from gradevo.share import mixed
from problems import bits, make_problem, run, stored

ISLAND = GADAM(population=3, generations=4, steps=7, batch_size=16)
ISLANDS = Islands(ISLAND, islands=3, every=2)


def whole(algorithm=ISLANDS, seed=0):
    return run(algorithm, make_problem(size=9), seed)


def exchanges(algorithm, seed=0):
    """The state before and after each exchange."""
    problem, found = make_problem(size=9), []
    state = algorithm.init(problem, generator_from(seed))
    while not algorithm.finished(state):
        before = stored(state)
        after, info = algorithm.step(problem, state)
        if info is not None:
            found.append((before, after, info))
        state = after
    return found


def test_between_exchanges_an_island_is_a_population_of_gadam_alone():
    algorithm = replace(ISLANDS, every=4)
    state, infos = whole(algorithm)
    assert len(infos) == 1
    for island in range(3):
        rows = torch.arange(3 * island, 3 * island + 3)
        everyone = make_problem(size=9).population
        problem = make_problem(size=3)
        problem.population.load({name: t[rows] for name, t in everyone.tensors.items()})
        alone, _ = run(ISLAND, problem, state=ISLAND.init(
            problem, generator_from(mixed(state.key, island, 0))
        ))  # fmt: skip
        assert bits(alone.members) == bits({n: t[rows] for n, t in state.members.items()})
        assert torch.equal(alone.losses, state.losses[rows])
    assert state.passes == infos[0]["member_steps"] == 3 * 3 * 7 * 5


@pytest.mark.parametrize("topology", ["ring", "random"])
@pytest.mark.parametrize("migrants", [1, 2])
def test_after_an_exchange_an_island_is_as_good_as_the_one_that_gave(topology, migrants):
    algorithm = replace(ISLANDS, topology=topology, migrants=migrants, every=1)
    for _, state, info in exchanges(algorithm)[:-1]:
        losses = state.losses.view(3, 3)
        assert (losses.diff(dim=1) >= 0).all()  # best first
        best = losses[:, 0].tolist()
        assert best == info["islands"]
        assert best.count(min(best)) >= 2  # the best of all and the copy
        prints = state.prints.view(3, 3)
        came = torch.tensor(info["survivors"]).view(3, 3) // 3
        for island in range(3):
            there = came[island] == island
            away = came[island][~there]
            assert not torch.isin(prints[island][~there], prints[island][there]).any()
            assert len(away) == info["guests"][island] <= migrants
            assert len(set(away.tolist())) <= 1


def test_who_is_replaced_is_the_worst_and_members_keep_what_they_are():
    for before, state, info in exchanges(replace(ISLANDS, every=1, migrants=2)):
        chosen = torch.tensor(info["survivors"])
        assert (state.losses <= torch.cat([one.losses for one in before.running]).max()).all()
        problem = make_problem(size=9)
        assert torch.equal(problem.evaluate(state.members), state.losses)
        assert sorted(state.hyper) == ["lr", "weight_decay"]
        twins = {}  # copies of one member have its learning rate
        for print_, rate in zip(state.prints.tolist(), state.hyper["lr"].tolist(), strict=True):
            assert twins.setdefault(print_, rate) == rate
        assert len(chosen) == 9


def test_with_a_validation_batch_members_are_compared_on_the_same_rows():
    algorithm = replace(ISLANDS, algorithm=replace(ISLAND, validation_batch=9), every=1)
    for _, state, _ in exchanges(algorithm):
        by_print = {}
        for print_, loss in zip(state.prints.tolist(), state.losses.tolist(), strict=True):
            assert by_print.setdefault(print_, loss) == loss
        rows = make_problem(size=9).validation_rows(
            9, generator_from(mixed(state.key, state.generation, 2))
        )
        assert torch.equal(make_problem(size=9).evaluate(state.members, rows), state.losses)


def test_every_row_of_a_loader_is_read_though_islands_begin_anew():
    seen = set()

    class Seen(TensorDataset):
        def __getitem__(self, i):
            seen.add(i)
            return super().__getitem__(i)

    loader = DataLoader(Seen(*runs.rows(1600)), batch_size=16)  # in order
    algorithm = ge.Islands(replace(ISLAND, generations=6), islands=2, every=1)
    ge.fit(algorithm, runs.net, F.cross_entropy, loader, valid=runs.rows(40), engine="loop")
    assert seen == set(range(1600))


def test_rows_that_are_not_finite_are_named():
    x, y = runs.rows(72)
    x[:, 2] = torch.nan
    with pytest.raises(ge.DivergedError, match="NaN or infinity"):
        ge.fit(ISLANDS, runs.net, F.cross_entropy, (x, y), valid=runs.rows(40), engine="loop")


def test_an_island_that_diverges_ends_the_run_at_the_exchange():
    def loss(output, target):
        return F.cross_entropy(output, target) * torch.nan

    with pytest.raises(DivergedError, match="loss: must have a finite gradient"):
        run(ISLANDS, make_problem(loss=loss, size=9))


def test_the_last_generation_is_followed_by_no_exchange():
    *_, (_, state, info) = exchanges(replace(ISLANDS, every=3))
    assert state.generation == 4
    assert info["guests"] == [0, 0, 0]
    assert info["survivors"] == list(range(9))


def test_a_random_ring_gives_every_island_another_ones_guests_and_changes():
    algorithm = replace(ISLANDS, islands=5, topology="random")
    rings = [algorithm._source(7, generation) for generation in range(20)]
    for ring in rings:
        assert sorted(ring) == [0, 1, 2, 3, 4]
        assert all(source != island for island, source in enumerate(ring))
    assert len({tuple(ring) for ring in rings}) > 5
    assert replace(algorithm, topology="ring")._source(7, 2) == [4, 0, 1, 2, 3]


@pytest.mark.parametrize("islands", [2, 3, 5])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_every_process_has_islands_or_a_part_of_one(islands, ranks):
    layout = replace(ISLANDS, islands=islands).layout(ranks)
    ranks_there = [set(layout[3 * i : 3 * i + 3].tolist()) for i in range(islands)]
    if ranks <= 3 * islands:
        assert set(layout.tolist()) == set(range(ranks))
    if ranks <= islands:
        assert all(len(own) == 1 for own in ranks_there)
    else:
        assert sum(map(len, ranks_there)) == len(set(layout.tolist()))  # none has two


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"islands": 1}, "islands: must be .* at least 2, got 1"),
        ({"every": 0}, "every: must be .* at least 1, got 0"),
        ({"migrants": 3}, "migrants: must be fewer than an island's members, 3, got 3"),
        ({"topology": "star"}, "topology: must be one of .*, got 'star'"),
        ({"algorithm": 3}, "algorithm: must be a GADAM, got 3"),
        ({"algorithm": replace(ISLAND, theta=0.1)}, "theta: must be None on islands"),
    ],
)
def test_wrong_settings_are_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(ISLANDS, **wrong)
