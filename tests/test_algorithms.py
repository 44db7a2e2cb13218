"""One battery for every algorithm: a new one is one more line in `ALGORITHMS`."""

import json
import math
import random
from dataclasses import replace as replaced

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gradevo.algorithms.adaswarm import AdaSwarm
from gradevo.algorithms.gadam import GADAM
from gradevo.algorithms.gemonn import GEMONN
from gradevo.algorithms.independent import Independent
from gradevo.algorithms.islands import Islands
from gradevo.errors import DivergedError
from gradevo.fields import default
from gradevo.randomness import generator_from
from gradevo.swarm.dynamics import REMPSO
from problems import Everything, bits, data, make_problem, run, stored

SHORT = {"population": 4, "generations": 2, "steps": 7, "batch_size": 16}
ALGORITHMS = {
    "gadam": GADAM(**SHORT),
    "paper": GADAM.paper(**SHORT, lr=0.01, validation_batch=24),
    "tournament": GADAM(
        **SHORT, selection="tournament", crossover="layerwise", mutation="replace", align=False,
        learners="both", average=0.5, checks=3, shared_batch=True, clip=1.0, schedule="cosine",
    ),
    "truncation": GADAM(
        **SHORT, selection="truncation", crossover="uniform", evolve=("lr", "beta1"),
        backoff=False, average=0.3, validation_batch=24,
    ),
    "momentum": GADAM(
        **SHORT, optimizer="SGD", options={"momentum": 0.9}, evolve=("lr", "momentum"), lr=0.05,
        spread=0.5, schedule="linear",
    ),
    "adafactor": GADAM(**SHORT, optimizer="Adafactor", evolve=("lr",), weight_decay=0.0),
    "independent": Independent(**SHORT, lr=0.01),
    "averaged": Independent(
        **SHORT, lr=0.01, spread=1.0, average=0.3, backoff=False, schedule="linear"
    ),
    "adaswarm": AdaSwarm(**SHORT, lr=0.01),
    "joint swarm": AdaSwarm(
        **SHORT, lr=0.01, scope="batch", particles=40, iterations=1, dynamics=REMPSO()
    ),
    "islands": Islands(GADAM(**SHORT | {"population": 2}), islands=2, every=1),
    "random islands": Islands(
        GADAM.paper(**SHORT | {"population": 2}, lr=0.01, validation_batch=24),
        islands=2, every=1, topology="random",
    ),
    "gemonn": GEMONN(**SHORT, lr=0.02, validation_batch=None),
    "gemonn paper": GEMONN.paper(population=4, generations=2, batch_size=16, lr=0.02, fine_tune=10),
}  # fmt: skip


def replace(algorithm, **changes):
    """The algorithm with other fields, of which islands have few of their own."""
    if isinstance(algorithm, Islands):
        return replaced(algorithm, algorithm=replaced(algorithm.algorithm, **changes))
    return replaced(algorithm, **changes)


def inner(algorithm):
    """Whose settings say how members learn."""
    return algorithm.algorithm if isinstance(algorithm, Islands) else algorithm


def every(wanted=lambda algorithm: True):
    """The battery, or the algorithms in it that a promise is for."""
    chosen = {name: a for name, a in ALGORITHMS.items() if wanted(a)}
    return pytest.mark.parametrize("algorithm", chosen.values(), ids=chosen.keys())


def planned(algorithm):
    """Whether the number of generations is part of what every one of them does."""
    return getattr(algorithm, "planned", False)


def crosses(algorithm):
    """Whether all learning is crossover, until the fine-tuning at the end."""
    return getattr(algorithm, "search", None) == "crossover"


EVERY = every()


def result(algorithm, seed=0, problem=None):
    """Everything that a run gives, as plain values."""
    state, infos = run(algorithm, problem or make_problem(Everything), seed)
    return bits([algorithm.survivors(state), infos])


@EVERY
def test_it_learns(algorithm):
    problem = make_problem()
    before = float(problem.evaluate(problem.population.tensors).min())
    longer = {"fine_tune": 60} if crosses(algorithm) else {"steps": 60}
    state, infos = run(replace(algorithm, **longer), problem)
    tensors, losses = algorithm.survivors(state)
    assert infos[-1]["best"] < 0.65 * before
    if crosses(algorithm):
        return  # its losses are of training batches, which a validation cannot repeat
    if getattr(inner(algorithm), "validation_batch", None) is None:
        assert torch.equal(problem.evaluate(tensors), losses)
        assert losses.tolist() == sorted(losses.tolist())
        assert float(losses[0]) == infos[-1]["best"]


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_keeps_to_the_members_dtype(algorithm, dtype):
    problem = make_problem(Everything, dtype=dtype)
    tensors, losses = algorithm.survivors(run(algorithm, problem)[0])
    for name in problem.population.structure.trainable:
        assert tensors[name].dtype == dtype
    assert tensors["norm.num_batches_tracked"].dtype == torch.int64
    assert losses.dtype == torch.float64


@EVERY
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(algorithm):
    assert result(algorithm, 1) == result(algorithm, 1)
    assert result(algorithm, 1) != result(algorithm, 2)


@every(lambda algorithm: not planned(algorithm))
def test_more_generations_go_on_from_a_stored_state_as_if_it_had_never_stopped(algorithm):
    half = run(replace(algorithm, generations=1), make_problem(Everything))[0]
    state, infos = run(algorithm, make_problem(Everything), state=stored(half))
    whole, all_infos = run(algorithm, make_problem(Everything))
    assert bits(algorithm.survivors(state)) == bits(algorithm.survivors(whole))
    assert infos == all_infos[1:]


@EVERY
def test_a_state_stored_inside_a_generation_goes_on_in_another_process(algorithm):
    loss = algorithm.criterion(F.cross_entropy)
    problem, infos, progress = make_problem(Everything, loss, slice_seconds=0), [], []
    state = algorithm.init(problem, generator_from(0))
    while not algorithm.finished(state):
        state, info = algorithm.step(problem, state)
        infos += [info] if info else []
        progress.append(algorithm.progress(problem, state))
        if len(progress) % 4 == 0:
            state, problem = stored(state), make_problem(Everything, loss, slice_seconds=0)
    assert bits([algorithm.survivors(state), infos]) == result(algorithm)
    slices = 1 + 4 if crosses(algorithm) else 2 * inner(algorithm).steps  # 4 members are fine-tuned
    assert len(progress) >= slices
    assert progress == sorted(progress)
    assert 0 < progress[0] < progress[-1] == 1


@EVERY
def test_what_belongs_to_the_caller_is_left_alone(algorithm):
    x, y = data()
    kept = x.clone(), y.clone()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    run(algorithm, make_problem(Everything, rows=(x, y)))
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])


@EVERY
def test_a_member_of_nan_is_scored_and_never_wins(algorithm):
    problem = make_problem(Everything)
    for leaf in problem.population.leaves.values():
        leaf.data[0] = math.nan
    state, infos = run(algorithm, problem)
    tensors, losses = algorithm.survivors(state)
    assert all(math.isfinite(info["best"]) and math.isfinite(info["mean"]) for info in infos)
    assert all(bool(tensors[name][0].isfinite().all()) for name in tensors)
    for i in range(4):
        if bool(losses[i].isfinite()):
            assert all(bool(t[i].isfinite().all()) for t in tensors.values())
        else:
            assert isinstance(
                algorithm, Independent | AdaSwarm
            )  # selection has dropped it elsewhere


@EVERY
def test_a_run_without_a_finite_member_stops_with_a_reason(algorithm):
    problem = make_problem()
    for leaf in problem.population.leaves.values():
        leaf.data.fill_(math.nan)
    with pytest.raises(DivergedError, match=r"loss: must .* at least one .*got NaN or infinity"):
        run(algorithm, problem)


@every(lambda algorithm: not isinstance(algorithm, GEMONN))  # its weights are set to zero
def test_a_constant_loss_does_not_train(algorithm):
    def constant(output, target, reduction="mean"):
        losses = output.sum(1) * 0 + 1
        return losses.mean() if reduction == "mean" else losses

    problem = make_problem(loss=constant)
    before = {name: t.clone() for name, t in problem.population.tensors.items()}
    state, infos = run(replace(algorithm, weight_decay=0.0), problem)
    tensors = algorithm.survivors(state)[0]
    for name, tensor in before.items():
        torch.testing.assert_close(tensors[name], tensor)
    assert all(info["losses"] == [1.0] * 4 for info in infos)
    assert all(info.get("adoption", 0) == 0 for info in infos)


@EVERY
def test_info_is_plain_json(algorithm):
    infos = run(algorithm, make_problem())[1]
    assert json.loads(json.dumps(infos, allow_nan=False)) == infos
    assert [info["generation"] for info in infos] == [1, 2]
    for info in infos:
        assert {"best", "mean", "losses", "member_steps", "hyper"} <= set(info)
        assert len(info["losses"]) == 4
        assert all(len(numbers) == 4 for numbers in info["hyper"].values())
    if isinstance(algorithm, GADAM):
        wanted = {"adoption", "diversity", "parents", "survivors"}
        assert all(wanted <= set(info) for info in infos)


@every(lambda algorithm: not isinstance(algorithm, Islands) and not crosses(algorithm))
def test_epochs_count_passes_through_the_training_rows(algorithm):
    problem = make_problem()  # 64 rows in batches of 16
    algorithm = replace(algorithm, steps=default(algorithm, "steps"), checks=1)
    for epochs, steps in ((2, 8), (0.6, 2), (0.001, 1)):
        assert replace(algorithm, epochs=epochs).recipe(problem).steps == steps
    infos = run(replace(algorithm, epochs=1), problem)[1]
    phases = algorithm.phases if isinstance(algorithm, GADAM) else 2
    learners = 1 if isinstance(algorithm, GEMONN) else 4
    assert infos[-1]["member_steps"] == 4 * learners * phases


def test_independent_runs_never_meet():
    problem = make_problem(loss=F.cross_entropy)
    algorithm = Independent(**SHORT, spread=1.0, shared_batch=True)
    alone = make_problem(size=1)
    kept = algorithm.init(problem, generator_from(0))
    rate, member = kept.hyper["lr"][2], {n: t[2:3] for n, t in problem.population.tensors.items()}
    alone.population.load(member)
    one = Independent(**SHORT | {"population": 1}, shared_batch=True, lr=float(rate))
    together = run(algorithm, problem, state=kept)[1][-1]
    single = run(one, alone)[1][-1]
    assert single["losses"][0] == pytest.approx(together["losses"][2], rel=1e-5)
    assert len(set(together["hyper"]["lr"])) == 4


def test_generations_of_independent_runs_are_one_long_run():
    short = Independent(**SHORT, lr=0.01, checks=1)
    one, other = short, replace(short, generations=1, steps=14, checks=2)
    results = [
        bits(algorithm.survivors(run(algorithm, make_problem(Everything))[0]))
        for algorithm in (one, other)
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("field", "value"), [("population", 0), ("generations", 0), ("spread", -1.0), ("steps", 0)]
)
def test_a_field_of_independent_out_of_range_is_refused_by_name_rule_and_value(field, value):
    with pytest.raises(ValueError, match=rf"^{field}: must .*got {value!r}$"):
        Independent(**{field: value})
