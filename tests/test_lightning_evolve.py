"""Evolution under Lightning's Trainer: who is replaced, when, and with what rates."""

import pytest
import torch
from lightning.pytorch import Callback

import gradevo as ge
from gradevo.lightning import Evolve, PopulationModule
from lit import QUIET, Net, fit

pytestmark = QUIET


def test_the_worst_become_children_of_the_others_and_the_best_stays():
    evolve = Evolve(replace=0.5, config=ge.GADAM(spread=1.0))
    module = PopulationModule(Net, 4)
    fit(module, 4, evolve)
    assert [entry["epoch"] for entry in evolve.history] == [1, 2, 3]  # none after the last
    for entry in evolve.history:
        scores = entry["scores"]
        order = sorted(range(4), key=lambda i: scores[i])
        assert sorted(entry["children"]) == sorted(order[2:])
    assert all(score < float("inf") for score in module.scores)


class Watch(Callback):
    """Notes at which batches of an epoch members have just been replaced."""

    def __init__(self, evolve):
        self.evolve, self.batches = evolve, []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if len(self.evolve.history) > len(self.batches):
            self.batches.append(batch_idx)


def test_nobody_is_replaced_while_gradients_are_half_accumulated():
    evolve = Evolve(replace=0.5)
    watch = Watch(evolve)
    fit(PopulationModule(Net, 4), 2, evolve, watch, accumulate_grad_batches=2, val_check_interval=1)
    assert watch.batches == [2, 0, 2]  # of three, after each of which is a validation


def test_members_have_rates_of_their_own_which_children_inherit():
    evolve, module = Evolve(replace=0.5), PopulationModule(Net, 4)
    fit(module, 3, evolve)
    groups = [own.param_groups for own in module.optimizer.members]
    rates = [first["lr"] for first, _ in groups]
    assert len(set(rates)) == 4
    assert all(first["lr"] == pytest.approx(second["lr"]) for first, second in groups)
    starts = [first["initial_lr"] for first, _ in groups]
    shares = [rate / start for rate, start in zip(rates, starts, strict=True)]
    assert shares == pytest.approx([shares[0]] * 4)  # one schedule, around rates of their own
    assert len({first["weight_decay"] for first, _ in groups}) == 4


def test_schedules_go_on_from_the_rates_that_members_have():
    class Halving(Net):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.02)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
            return [optimizer], [schedule]

    module = PopulationModule(Halving, 4)
    fit(module, 3, Evolve(replace=0.5))
    groups = [own.param_groups[0] for own in module.optimizer.members]
    assert len({group["initial_lr"] for group in groups}) == 4
    for group in groups:
        assert group["lr"] == pytest.approx(group["initial_lr"] / 8)


def test_another_fit_does_not_begin_with_the_validations_of_the_last():
    evolve, module = Evolve(replace=0.5), PopulationModule(Net, 4)
    for _ in range(2):
        fit(module, 1, evolve)
    assert evolve.history == []


def test_without_spread_and_evolved_numbers_all_rates_are_the_users():
    module = PopulationModule(Net, 4)
    fit(module, 3, Evolve(ge.GADAM(evolve=())))
    assert {own.param_groups[0]["initial_lr"] for own in module.optimizer.members} == {0.02}
