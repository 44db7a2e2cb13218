"""Populations and ensembles of modules with several inputs and outputs."""

import copy
from collections import UserDict
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
import problems
from gradevo import trees
from gradevo.fitness import CHUNK, evaluate
from gradevo.models import mlp
from gradevo.operators.symmetry import find_symmetry
from gradevo.population import Population
from gradevo.result import Ensemble
from modules import close
from readers import (
    KINDS,
    ON_LOGITS,
    QUICK,
    Reader,
    equal,
    fit,
    words,
)

# --- a population ------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [False, True], ids=["shared", "one a member"])
@pytest.mark.parametrize("engine", ["vmap", "batched", "batched/2", "loop@2", "batched/2@2"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_engine_computes_what_each_member_does_by_itself(kind, engine, each):
    build, loss, batch = KINDS[kind]
    x, y = batch(6, 3) if each else batch(6)
    pop = Population(build, 3, engine=engine)
    alone = [
        (pop.member(i), *((trees.take(x, i), trees.take(y, i)) if each else (x, y)))
        for i in range(3)
    ]
    outputs = trees.stack([trees.call(member, mine) for member, mine, _ in alone])
    expected = torch.stack([loss(trees.call(m, mine), target) for m, mine, target in alone])
    found = pop(x, per_member=each)
    for mine, theirs in zip(trees.tensors(found), trees.tensors(outputs), strict=True):
        close(mine, theirs)
    close(pop.losses(loss, x, y, per_member=each), expected)
    for _ in range(2):  # threads take their first step in order
        pop.gradient()
        close(pop.accumulate(loss, x, y, per_member=each), expected)
    for i, (member, mine, target) in enumerate(alone):
        loss(trees.call(member, mine), target).backward()
        for name, leaf in member.named_parameters():
            close(pop.leaves[name].grad[i], leaf.grad)


def test_auto_finds_an_engine_for_a_mapping_and_says_why_others_cannot():
    x, y = words(16)
    pop = Population(Reader, 3)
    pop.losses(ON_LOGITS, x, y)
    assert "inputs are not one tensor" in pop.choice.report["simd"] or (
        "not tried" in pop.choice.report["simd"]
    )
    assert pop.engine in ("loop", "vmap", "batched")


def test_an_engine_that_cannot_take_several_tensors_says_so():
    x = {"input": torch.randn(6, 4)}
    pop = Population(mlp(4, 6, 3), 3, engine="simd")
    with pytest.raises(ge.EngineError, match="inputs are not one tensor"):
        pop.losses(F.mse_loss, x, torch.zeros(6, 3))


def test_a_mapping_of_any_class_is_taken():
    x, y = words(6)
    for engine in ("loop", "vmap", "batched"):
        pop = Population(partial(Reader, 0.0), 2, engine=engine)
        close(pop(UserDict(x))["logits"], pop(x)["logits"])
        close(pop.losses(ON_LOGITS, UserDict(x), y), pop.losses(ON_LOGITS, x, y))


class Caching(Reader):
    """Hands out what is no tensor: something of its own, and a word."""

    def forward(self, ids, mask=None):
        return {**super().forward(ids, mask), "cache": object()}


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_outputs_that_are_no_tensors_do_not_stand_in_the_way(engine):
    x, y = words(6)
    pop = Population(partial(Caching, 0.0), 2, engine=engine)
    outputs = pop(x)
    assert outputs["cache"] is None
    assert outputs["task"] == "read"
    pop.gradient()
    close(pop.accumulate(ON_LOGITS, x, y), pop.losses(ON_LOGITS, x, y).detach())


@pytest.mark.parametrize("engine", ["loop", "vmap", "batched"])
def test_dropout_differs_between_members_with_the_same_weights(engine):
    one = Reader(0.5)
    copies = [copy.deepcopy(one) for _ in range(3)]
    pop = Population.from_modules(copies, engine=engine).train()
    logits = pop(words(16)[0])["logits"]
    assert not torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[1], logits[2])


# --- evaluation --------------------------------------------------------------------------------


class Valued(Reader):
    """Returns a number for the whole batch as well."""

    def forward(self, ids, mask=None):
        output = super().forward(ids, mask)
        return {"loss": output["state"].square().mean(), **output}


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_losses_on_many_rows_are_those_of_all_at_once(engine):
    x, y = words(CHUNK + 90)
    pop = Population(partial(Valued, 0.0), 3, engine=engine).eval()

    def whole(output, target):
        assert len(output["logits"]) == len(target) == CHUNK + 90
        return F.cross_entropy(output["logits"], target) + output["loss"]

    with torch.no_grad():
        expected = torch.stack([whole(pop.member(i)(**x), y) for i in range(3)])
    close(evaluate(pop, whole, x, y).float(), expected)


def test_an_ensemble_averages_every_tensor_and_the_probabilities_of_the_prediction():
    class Counting(Reader):
        def forward(self, ids, mask=None):
            output = super().forward(ids, mask)
            return {**output, "class": output["logits"].argmax(1)}

    x, _ = words(9)
    result = fit(QUICK, build=Counting)
    outputs = [result.members.member(i)(**x) for i in range(3)]
    logits = torch.stack([output["logits"] for output in outputs])
    found = result.ensemble(**x)
    close(found["logits"], logits.softmax(2).mean(0).log())
    close(found["state"], torch.stack([output["state"] for output in outputs]).mean(0))
    assert torch.equal(found["class"], outputs[0]["class"])
    assert equal(result.ensemble(x), found)
    assert equal(result.ensemble(x["ids"], x["mask"]), found)
    plain = fit(QUICK, loss=on_its_own)
    logits = torch.stack([plain.members.member(i)(**x)["logits"] for i in range(3)])
    close(plain.ensemble(**x)["logits"], logits.mean(0))


def on_its_own(output, target):
    return F.cross_entropy(output["logits"], target)


def test_hidden_units_of_a_chain_are_matched_by_name_as_well():
    network = mlp(4, 6, 3)()
    plain = find_symmetry(network, torch.randn(2, 4))
    assert find_symmetry(network, {"input": torch.randn(2, 4)}) == plain
    problem = problems.make_problem(
        mlp(4, 6, 3), F.mse_loss, rows=({"input": torch.randn(48, 4)}, torch.zeros(48, 3))
    )
    assert problem.symmetry == plain


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x=None, mask=None):
        return self.layer(x) * (1.0 if mask is None else mask)


def test_an_ensemble_takes_positional_and_keyword_inputs_together():
    ensemble = Ensemble(ge.Population(Masked, 2), probabilities=False).eval()
    x, mask = torch.randn(4, 3), torch.rand(4, 1)
    close(ensemble(x, mask=mask), ensemble(x=x, mask=mask))
    assert not torch.allclose(ensemble(x, mask=mask), ensemble(x))


def test_an_ensemble_of_modules_whose_one_input_is_a_mapping_is_called_as_they_are():
    class Mapped(Masked):
        def forward(self, batch):
            return self.layer(batch["a"])

    population, x = ge.Population(Mapped, 2), {"a": torch.randn(4, 3)}
    ensemble = Ensemble(population, probabilities=False).eval()
    close(ensemble(x), torch.stack([population.member(i)(x) for i in range(2)]).mean(0))


@pytest.mark.parametrize("engine", ["loop", "vmap", "batched"])
def test_a_module_that_keeps_what_it_computed_can_be_trained_and_copied(engine):
    class Keeping(Masked):
        def forward(self, x):
            self.last = [self.layer(x)]
            return self.last[0]

    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    started = Keeping()
    started(x)
    algorithm = ge.GADAM(population=2, generations=1, steps=3, batch_size=8)
    data = x, (x[:, 0] > 0).long()
    result = ge.fit(algorithm, Keeping, nn.CrossEntropyLoss(), data, engine=engine, start=started)
    assert result.best(x).shape == (40, 2)


def test_a_label_that_a_partial_ignores_is_no_mistake():
    loss = partial(F.cross_entropy, ignore_index=255)
    x, y = torch.randn(40, 3), torch.tensor([0, 1, 255, 1] * 10)
    algorithm = ge.GADAM(population=2, generations=1, steps=2, batch_size=8)
    ge.fit(algorithm, lambda: nn.Linear(3, 2), loss, (x, y), engine="loop")
