"""A LightningModule trained as a population by the real Trainer."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

import gradevo as ge
from gradevo.lightning import Evolve, PopulationModule
from lit import QUIET, VALID, Net, fit, loaders, same, trainer

pytestmark = QUIET


@pytest.mark.parametrize(
    "more",
    [
        {"gradient_clip_val": 0.05},
        {"accumulate_grad_batches": 2},
        {"precision": "bf16-mixed"},
    ],
)
def test_without_evolution_members_get_the_bits_of_as_many_fits_of_their_own(more):
    module = PopulationModule(lambda: Net(norm=True), 3)
    alone = [module.population.member(i) for i in range(3)]
    metrics = fit(module, **more).callback_metrics
    told = [fit(member, **more).callback_metrics for member in alone]
    assert all(same(module.population.member(i).state_dict(), m.state_dict())
               for i, m in enumerate(alone))  # fmt: skip
    best = min(range(3), key=lambda i: told[i]["val_loss"])
    assert module.leader == best
    for name in ("val_loss", "val_acc"):
        torch.testing.assert_close(metrics[name], told[best][name])
        mean = torch.stack([one[name] for one in told]).mean()
        torch.testing.assert_close(metrics[f"{name}_mean"], mean)


def test_64_bit_modules_stay_such():
    module = PopulationModule(Net, 2)
    before = module.population.member(0).double()
    fit(module, 1, Evolve(), precision="64-true")
    after = module.best.net[0].weight
    assert after.dtype == torch.float64 and not torch.equal(after, before.net[0].weight)


def test_a_resumed_run_ends_with_the_bits_of_one_that_was_never_stopped(tmp_path):
    def parts():
        saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        return PopulationModule(lambda: Net(0.3, norm=True), 4), Evolve(replace=0.5), saving

    whole, evolution, saving = parts()
    fit(whole, 4, evolution, saving)
    for stop in (1, 2):
        again, evolved, _ = parts()
        torch.rand(3)  # the global stream is elsewhere
        made = trainer(4, evolved)
        made.fit(again, *loaders(), ckpt_path=tmp_path / f"epoch={stop}.ckpt")
        assert same(again.state_dict(), whole.state_dict())
        assert torch.equal(again.scores, whole.scores)
        assert evolved.history == evolution.history and len(evolved.history) == 3


def test_checkpoints_monitors_and_early_stopping_go_by_the_best_member(tmp_path):
    saving = ModelCheckpoint(tmp_path, monitor="val_loss")
    stopping = EarlyStopping("val_loss_mean", min_delta=100.0, patience=1)
    module = PopulationModule(Net, 3)
    made = fit(module, 5, Evolve(), saving, stopping)
    assert made.current_epoch == 2
    assert float(saving.best_model_score) == pytest.approx(float(module.scores.min()))
    other = PopulationModule.load_from_checkpoint(saving.best_model_path, build=Net, size=3)
    assert same(other.best.state_dict(), module.best.state_dict())
    with pytest.raises(ge.CheckpointError, match="ckpt_path: must be a checkpoint of a Population"):
        other.on_load_checkpoint({})


def test_the_best_is_an_ordinary_module_of_the_users_with_which_to_go_on():
    module = PopulationModule(lambda: Net(0.1), 3)
    made = fit(module, 2, Evolve())
    best = module.best
    assert type(best) is Net and best.hparams.dropout == 0.1
    (told,) = made.test(module, DataLoader(VALID, 8), verbose=False)
    (alone,) = trainer(1).test(best, DataLoader(VALID, 8), verbose=False)
    assert told == pytest.approx(alone)
    outputs = made.predict(module, DataLoader(VALID, 8))
    torch.testing.assert_close(torch.cat(outputs), best.eval()(VALID.tensors[0]))
    before = copy.deepcopy(best.state_dict())
    assert "val_loss" in fit(best.train(), 1).callback_metrics
    assert not same(before, best.state_dict())
    (known,) = made.validate(module, DataLoader(VALID, 8), verbose=False)
    assert known["val_loss"] == pytest.approx(float(module.scores.min()), rel=1e-5)


class Listener(Callback):
    """Compares the global random state before and after each batch; loaders draw between them."""

    def __init__(self):
        self.batches = 0

    def on_train_batch_start(self, *_):
        self.state = torch.get_rng_state()

    def on_train_batch_end(self, *_):
        assert torch.equal(self.state, torch.get_rng_state())
        self.batches += 1

    def on_validation_batch_start(self, *_):
        self.on_train_batch_start()

    def on_validation_batch_end(self, *_):
        self.on_train_batch_end()


def test_dropout_differs_between_members_and_leaves_the_global_stream_alone():
    first, listener = Net(0.5), Listener()
    module = PopulationModule(lambda: copy.deepcopy(first), 2)
    fit(module, 1, listener)
    assert listener.batches == 3 + 2 + 3  # two of them before training
    a, b = module.population.member(0), module.population.member(1)
    assert not same(a.state_dict(), b.state_dict())


class Metered(Net):
    def __init__(self):
        super().__init__()
        self.accuracy, self.seen = MulticlassAccuracy(3, average="micro"), MulticlassAccuracy(3)
        self.batches = []

    def training_step(self, batch, batch_idx):
        self.seen(self(batch[0]), batch[1])
        self.log("seen", self.seen, on_step=False, on_epoch=True)
        return {"loss": super().training_step(batch, batch_idx)}

    def validation_step(self, batch):
        self.accuracy.update(self(batch[0]), batch[1])
        self.batches.append(float(F.cross_entropy(self(batch[0]), batch[1])))
        self.log("acc", self.accuracy)

    def on_validation_epoch_end(self):
        self.log("val_loss", sum(self.batches) / len(self.batches))
        self.batches.clear()


def test_in_evaluation_all_members_draw_the_same_every_time():
    class Drawing(Net):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", torch.rand(()) + 0 * self(batch[0]).sum())

    module = PopulationModule(Drawing, 3)
    seen = []
    fit(module, 2, Told(seen), num_sanity_val_steps=0)
    values = [float(numbers[name]) for numbers in seen for name in ("val_loss", "val_loss_mean")]
    assert values == pytest.approx([values[0]] * 4)


class Told(Callback):
    """Keeps what every validation has logged."""

    def __init__(self, seen):
        self.seen = seen

    def on_validation_end(self, trainer, module):
        self.seen.append(dict(trainer.callback_metrics))


def test_metrics_and_what_is_logged_when_an_epoch_ends_are_each_members_own():
    module = PopulationModule(Metered, 3, monitor="acc", mode="max")
    alone = [module.population.member(i) for i in range(3)]
    metrics = fit(module).callback_metrics
    told = [fit(member).callback_metrics for member in alone]
    best = max(range(3), key=lambda i: told[i]["acc"])
    for name in ("acc", "val_loss", "train_loss"):
        torch.testing.assert_close(metrics[f"{name}_mean"],
                                   torch.stack([one[name] for one in told]).mean())  # fmt: skip
        torch.testing.assert_close(metrics[name], told[best][name])
    mean = torch.stack([one["seen"] for one in told]).mean()
    torch.testing.assert_close(metrics["seen_mean"], mean)


@pytest.mark.parametrize("engine", ["loop", "batched"])
def test_with_a_loss_an_engine_trains_all_members_together(engine):
    def made(**more):
        return PopulationModule(Net, 3, **more)

    together, alone = made(loss=F.cross_entropy, engine=engine), made()
    metrics = fit(together, gradient_clip_val=0.05).callback_metrics
    other = fit(alone, gradient_clip_val=0.05).callback_metrics
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(metrics["train_loss_mean"], other["train_loss_mean"])
    assert together.population.engine == engine


def test_a_run_with_engines_and_evolution_repeats_its_bits():
    ends = []
    for _ in range(2):
        module = PopulationModule(lambda: Net(0.2), 3, loss=F.cross_entropy, engine="batched")
        fit(module, 3, Evolve())
        ends.append(module.state_dict())
    assert same(*ends)


def test_loggers_and_rate_monitors_see_every_member(tmp_path):
    logger, module = CSVLogger(tmp_path), PopulationModule(Net, 2)
    rates = LearningRateMonitor()
    fit(module, 1, Evolve(), rates, logger=logger, log_every_n_steps=1)
    text = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()[0]
    assert {"train_loss", "train_loss_mean", "val_loss", "val_acc_mean"} <= set(text.split(","))
    assert len(rates.lrs) == 4  # two groups a member


class Skips(Net):
    def training_step(self, batch, batch_idx):
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_a_batch_that_members_skip_changes_nothing():
    module = PopulationModule(Skips, 2)
    alone = [module.population.member(i) for i in range(2)]
    fit(module)
    for i, member in enumerate(alone):
        fit(member)
        assert same(module.population.member(i).state_dict(), member.state_dict())


def variant(**methods):
    return type("Variant", (Net,), methods)


def manual(self):
    Net.__init__(self)
    self.automatic_optimization = False


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (variant(__init__=manual), "build: must return modules with automatic optimisation"),
        (variant(on_train_batch_start=lambda *a: None), "that leave on_train_batch_start to"),
        (variant(optimizer_step=lambda *a: None), "that leave optimizer_step to Lightning"),
        (variant(validation_step=LightningModule.validation_step), "modules with a validation_st"),
    ],
)
def test_what_a_population_cannot_train_is_refused_when_it_is_made(build, message):
    with pytest.raises(ValueError, match=message):
        PopulationModule(build, 2)


def test_what_is_no_lightning_module_is_refused():
    with pytest.raises(TypeError, match=r"build: must return a lightning\.pytorch.LightningModule"):
        PopulationModule(lambda: nn.Linear(2, 2), 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"build: must be a function .*got a Net"):
        PopulationModule(Net(), 2)
    with pytest.raises(TypeError, match="Evolve: must be used with a PopulationModule, got a Net"):
        fit(Net(), 1, Evolve())
    with pytest.raises(RuntimeError, match="best: must be known from a validation"):
        _ = PopulationModule(Net, 2).best


def two(self):
    return [torch.optim.SGD(part.parameters()) for part in (self.net[0], self.net[3])]


def plateau(self):
    optimizer = torch.optim.SGD(self.parameters())
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


def lbfgs(self):
    return torch.optim.LBFGS(self.parameters())


@pytest.mark.parametrize(
    ("configure", "message"),
    [
        (two, "must return one optimiser, got SGD, SGD"),
        (plateau, "got ReduceLROnPlateau"),
        (lbfgs, "one gradient a step, got LBFGS"),
        (lambda self: None, "must return one optimiser, got none"),
    ],
)
def test_optimisers_that_cannot_be_driven_are_refused_before_training(configure, message):
    module = PopulationModule(variant(configure_optimizers=configure), 2)
    with pytest.raises(ValueError, match=f"configure_optimizers: .*{message}"):
        fit(module)


def test_a_trainer_that_cannot_serve_is_refused_before_training():
    with pytest.raises(ValueError, match="val_dataloaders: must be given"):
        fit(PopulationModule(Net, 2), limit_val_batches=0)
    with pytest.raises(
        ValueError, match=r"monitor: must be logged .*got 'loss' where they log val_"
    ):
        fit(PopulationModule(Net, 2, monitor="loss"))
    with pytest.raises(ValueError, match="size: must be a whole number of at least 2, got 1"):
        fit(PopulationModule(Net, 1), 1, Evolve())


WRITES = {
    "in place": lambda batch: batch[0].mul_(2),
    "through data": lambda batch: batch[0].data.mul_(2),
    "through NumPy": lambda batch: batch[0].numpy().__imul__(2),
}


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_a_step_that_writes_into_the_batch_which_all_see_is_refused(how, step):
    def writes(self, batch, batch_idx):
        WRITES[how](batch)
        return getattr(Net, step)(self, batch, batch_idx)

    given = loaders()
    before = given[0].dataset.tensors[0].clone()
    with pytest.raises(ValueError, match="batch: must be left as it is"):
        trainer(1).fit(PopulationModule(variant(**{step: writes}), 2), *given)
    assert torch.equal(given[0].dataset.tensors[0], before)


def test_the_containers_of_a_batch_are_each_members_own():
    def takes(self, batch, batch_idx):
        y = batch.pop()
        return Net.training_step(self, [*batch, y], batch_idx)

    fit(PopulationModule(variant(training_step=takes), 3), 1)


def spoilt(which):
    """A training step whose loss is NaN for the members of some numbers, on every other batch."""

    def step(self, batch, batch_idx):
        loss = Net.training_step(self, batch, batch_idx)
        return loss * torch.nan if which(self.number) and batch_idx % 2 == 0 else loss

    numbers = itertools.count()
    kind = variant(training_step=step)

    def build():
        module = kind()
        module.number = next(numbers)
        return module

    return build


def test_a_member_skips_steps_without_a_gradient_and_the_others_take_theirs(caplog):
    module = PopulationModule(spoilt(lambda number: number == 1), 3)
    made = trainer(1)
    made.fit(module, *loaders())
    skips = made.optimizers[0].skipped.tolist()
    assert skips[1] > 0 and skips == [0, skips[1], 0]
    assert made.callback_metrics["skipped"] == skips[1]
    assert all(t.isfinite().all() for t in module.population.tensors.values())
    assert caplog.text.count("member 1 skips a step whose gradient is NaN") == 1


def test_an_epoch_in_which_nobody_learns_ends_the_fit():
    def undefined(self, batch, batch_idx):
        return Net.training_step(self, batch, batch_idx) * torch.nan

    with pytest.raises(ge.DivergedError, match="must have a finite gradient on most steps"):
        fit(PopulationModule(variant(training_step=undefined), 2), 1)


def test_weights_of_nan_are_the_worst_whatever_a_member_logs():
    def lucky(self, batch, batch_idx):
        self.log("val_loss", torch.nan_to_num(F.cross_entropy(self(batch[0]), batch[1]), 0.0))

    module = PopulationModule(variant(validation_step=lucky), 2)
    with torch.no_grad():
        module.population.tensors["net.0.weight"][0] = torch.nan
    fit(module, 1)
    assert module.leader == 1


def test_a_module_can_be_copied_and_fitted_again():
    module = PopulationModule(Net, 2)
    fit(module, 1)
    twin = copy.deepcopy(module)
    before = copy.deepcopy(module.state_dict())
    fit(twin, 1)
    assert same(before, module.state_dict())
    assert not same(before, twin.state_dict())


class Unusual(Net):
    """A frozen layer, tied weights, an optimiser that is not elementwise, hooks."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
        self.net[0].requires_grad_(False)
        self.net[2].weight = self.net[1].weight
        self.seen = []

    def setup(self, stage):
        self.scale = 2.0 if stage == "fit" else 1.0

    def on_train_epoch_start(self):
        self.seen.append(self.current_epoch)

    def training_step(self, batch, batch_idx):
        self.log("scale", self.scale * self.trainer.max_epochs)
        return super().training_step(batch, batch_idx) * self.scale * len(self.seen)

    def configure_optimizers(self):
        return torch.optim.Adafactor([p for p in self.parameters() if p.requires_grad], lr=0.1)


def test_frozen_and_tied_weights_hooks_and_any_optimiser_mean_what_they_mean_alone():
    module = PopulationModule(Unusual, 2)
    alone = [module.population.member(i) for i in range(2)]
    assert fit(module).callback_metrics["scale"] == 4
    for i, member in enumerate(alone):
        frozen = member.net[0].weight.clone()
        fit(member)
        mine = module.population.member(i)
        assert same(mine.state_dict(), member.state_dict())
        assert torch.equal(mine.net[0].weight, frozen)
        assert mine.net[1].weight is mine.net[2].weight
    fit(module, 3, Evolve(ge.GADAM(evolve=("lr",))))
