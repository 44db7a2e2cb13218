"""The front door: what it takes, what it leaves alone, what it refuses."""

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import gradevo as ge
import runs
from gradevo import checkpoint
from gradevo.errors import DivergedError
from gradevo.folder import FILE

SMALL = ge.GADAM(population=2, generations=1, steps=3, batch_size=8)
ITS_OWN = replace(SMALL, batch_size=None)  # for loaders
FORMS = {
    "tensors": runs.rows,
    "arrays": lambda: tuple(part.numpy() for part in runs.rows()),
    "TensorDataset": lambda: TensorDataset(*runs.rows()),
    "Dataset": runs.Augmented,
    "loader": lambda: DataLoader(runs.Augmented(), batch_size=8),
    "shuffling": lambda: DataLoader(runs.Augmented(), batch_size=8, shuffle=True),
    "drop_last": lambda: DataLoader(runs.Augmented(), batch_size=16, drop_last=True),
    "generator": lambda: DataLoader(
        runs.Augmented(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1)
    ),
    "worker": lambda: DataLoader(runs.Augmented(), batch_size=8, num_workers=1),
}


def fit(train=None, *, algorithm=SMALL, build=runs.net, loss=F.cross_entropy, **keywords):
    train = runs.rows() if train is None else train
    return ge.fit(algorithm, build, loss, train, **{"engine": "loop", **keywords})


# --- what it takes -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_training_data_of_every_form_is_taken_with_and_without_validation_data(form):
    for valid in (None, runs.rows(30)):
        first, second = (fit(FORMS[form](), valid=valid, algorithm=ITS_OWN) for _ in range(2))
        assert runs.bits(first) == runs.bits(second)  # whatever the global random state
        assert first.losses.isfinite().all()
        torch.rand(3), random.random(), np.random.rand()


@pytest.mark.parametrize("form", FORMS)
def test_validation_data_of_every_form_gives_the_loss_that_it_should(form):
    result = fit(valid=FORMS[form]())
    if isinstance(valid := FORMS[form](), tuple | TensorDataset):
        x, y = (torch.as_tensor(p) for p in getattr(valid, "tensors", valid))
        assert F.cross_entropy(result.best(x), y).item() == pytest.approx(result.losses[0])
    assert runs.bits(result) == runs.bits(fit(valid=FORMS[form]()))


def test_a_regression_learns():
    x = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])
    algorithm = ge.GADAM(population=3, generations=2, steps=150, batch_size=20, lr=3e-2)
    result = fit((x, y), algorithm=algorithm, build=lambda: nn.Linear(4, 1), loss=nn.MSELoss())
    assert result.losses[0] < 0.05 * y.var()
    assert not result.probabilities


def test_any_callable_is_a_loss_and_labels_of_minus_one_and_one_are_its_own_business():
    def hinge(output, target):
        return (1 - output.squeeze(1) * target).clamp(min=0).mean()

    x, y = runs.rows()
    result = fit((x, 2 * (y > 0).long() - 1), build=lambda: nn.Linear(6, 1), loss=hinge)
    assert result.losses.isfinite().all()


class Scaled(nn.Linear):
    """With a parameter that has no axes."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.scale * super().forward(x)


def test_parameters_without_axes_learn_and_are_saved(tmp_path):
    result = fit(build=Scaled, checkpoint=tmp_path)
    assert runs.bits(fit(build=Scaled, checkpoint=tmp_path)) == runs.bits(result)


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_the_engine_that_was_asked_for_is_used(engine):
    result = fit(engine=engine, build=lambda: nn.Linear(6, 3))
    assert result.engine == engine


def test_the_device_argument_moves_everything_there(monkeypatch):
    asked = []
    move = ge.Population.to
    monkeypatch.setattr(ge.Population, "to", lambda s, d: (asked.append(d), move(s, d))[1])
    assert fit(device="cpu").members.device.type == "cpu"
    assert asked == [torch.device("cpu")]


def test_callbacks_get_every_generation_and_one_that_returns_true_ends_the_run():
    seen, later = [], []

    def stop(info):
        seen.append(info["generation"])
        info["best"] = None  # its own copy
        return np.bool_(info["generation"] == 2)

    many = ge.GADAM(population=2, generations=5, steps=2, batch_size=8)
    result = fit(algorithm=many, callbacks=[stop, later.append])
    assert seen == [1, 2]
    assert later == result.history
    assert None not in [info["best"] for info in result.history]
    full = fit(algorithm=many, callbacks=[lambda info: 1, lambda info: "text"])
    assert [info["generation"] for info in full.history] == [1, 2, 3, 4, 5]


# --- what it leaves alone ----------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_global_random_state_is_untouched(form):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    fit(FORMS[form](), valid=FORMS[form](), algorithm=ITS_OWN)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert all(np.array_equal(a, b) for a, b in zip(states[2], np.random.get_state(), strict=True))


def test_the_users_tensors_are_unchanged():
    pairs = [tuple(part.clone() for part in runs.rows(n)) for n in (60, 30)]
    pairs[0][0].requires_grad_()
    fit(pairs[0], valid=pairs[1])
    for pair, count in zip(pairs, (60, 30), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, runs.rows(count), strict=True))
    assert pairs[0][0].grad is None


# --- NaN ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backoff", [True, False])
@pytest.mark.parametrize("part", ["train", "valid"])
@pytest.mark.parametrize("form", ["tensors", "loader"])
def test_nan_in_the_data_is_named_when_every_member_has_diverged(form, part, backoff, tmp_path):
    pairs = {"train": runs.rows(), "valid": runs.rows(30)}
    pairs[part][0][:, 1] = torch.nan
    train = pairs["train"] if form == "tensors" else DataLoader(TensorDataset(*pairs["train"]), 8)
    algorithm = replace(SMALL, backoff=backoff)
    words = f"NaN.* {part}.*Nothing was saved in {tmp_path} yet"
    with pytest.raises(DivergedError, match=words):
        fit(train, valid=pairs["valid"], algorithm=algorithm, checkpoint=tmp_path)


def test_an_absurd_learning_rate_without_backoff_is_named():
    algorithm = replace(SMALL, backoff=False, optimizer="SGD", lr=1e30, evolve=(), steps=20)
    with pytest.raises(DivergedError, match=r"learning rate.*No checkpoint was asked for"):
        fit(algorithm=algorithm)


def test_the_checkpoint_from_before_every_member_diverged_is_kept_and_goes_on(tmp_path):
    healthy, setting = True, {"backoff": False, "learners": "both"}

    def loss(output, target):
        return F.cross_entropy(output, target) * (1.0 if healthy else torch.nan)

    def fall_ill(info):
        nonlocal healthy
        healthy = False

    with pytest.raises(DivergedError, match=f"last good checkpoint is in {tmp_path}"):
        runs.fit("tensors", tmp_path, loss=loss, callbacks=[fall_ill], **setting)
    assert len(checkpoint.read(tmp_path / FILE)["history"]) == 1
    healthy = True
    again = runs.fit("tensors", tmp_path, loss=loss, **setting)
    assert runs.bits(again) == runs.bits(runs.fit("tensors", loss=loss, **setting))


def test_one_member_that_is_nan_does_not_stop_a_run_and_never_wins():
    count = 0

    def build():
        nonlocal count
        count += 1
        module = runs.net()
        if count == 2:
            nn.init.constant_(module[0].weight, torch.nan)
        return module

    algorithm = ge.GADAM(population=3, generations=2, steps=4, batch_size=16)
    result = fit(algorithm=algorithm, build=build)
    assert result.losses.isfinite().all()
    assert all(np.isfinite(info["best"]) for info in result.history)
    assert all(t.isfinite().all() for t in result.soup.state_dict().values())


# --- what it refuses ---------------------------------------------------------------------------


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from zip(*runs.rows(), strict=True)

    def __len__(self):
        return 72


class Triples(Dataset):
    def __len__(self):
        return 72

    def __getitem__(self, i):
        return torch.ones(6), 0, torch.tensor(i)


def labels(change):
    x, y = runs.rows()
    y[7] = change
    return x, y


X, Y = runs.rows()
BAD = {
    "no rows": ({"train": (X[:0], Y[:0])}, ValueError, "train: must hold at least one row"),
    "no valid rows": ({"valid": (X[:0], Y[:0])}, ValueError, "valid: must hold at least one row"),
    "one row": ({"train": (X[:1], Y[:1])}, ValueError, "at least 2 rows to hold some out, got 1"),
    "lengths": ({"train": (X, Y[:5])}, ValueError, "train: x and y .* one length, got 72 and 5"),
    "valid lengths": ({"valid": (X, Y[:5])}, ValueError, "valid: x and y .* got 72 and 5"),
    "negative": ({"train": labels(-2), "valid": (X, Y)}, ValueError, "train: labels.*= 3 .*got -2"),
    "too large": ({"train": labels(3), "valid": (X, Y)}, ValueError, "train: labels.*C-1.*got 3"),
    "valid label": ({"valid": labels(3)}, ValueError, "valid: labels.*0..C-1.*got 3"),
    "valid negative": ({"valid": labels(-1)}, ValueError, "valid: labels.*0..C-1.*got -1"),
    "batch": ({"train": (X[:8], Y[:8])}, ValueError, r"batch_size: .*rows \(6\), got 8"),
    "loader batch": (
        {"train": DataLoader(TensorDataset(X, Y), batch_size=80), "valid": (X, Y)},
        ValueError, r"train: the loader's batch_size .*\(72\), got 80",
    ),
    "no batch a pass": (
        {"train": DataLoader(TensorDataset(X, Y), batch_size=8, sampler=range(5)), "valid": (X, Y)},
        ValueError, r"train: the loader's batch_size .*\(5\), got 8",
    ),
    "no valid batch": (
        {"valid": DataLoader(TensorDataset(X, Y), batch_size=80, drop_last=True)},
        ValueError, "valid: .* must give a batch, got none",
    ),
    "no batch size": (
        {"train": DataLoader(TensorDataset(X, Y), batch_size=None), "valid": (X, Y)},
        ValueError, "train: a DataLoader must have a batch_size, got None",
    ),
    "a sampler": (
        {"train": DataLoader(TensorDataset(X, Y), batch_size=8, sampler=range(50))},
        ValueError, "valid: must be given when the train loader has a sampler",
    ),
    "endless": ({"train": Endless()}, TypeError, "train: must have a length.*got Endless"),
    "endless loader": (
        {"train": DataLoader(Endless(), batch_size=8)}, TypeError, "train: .*length.*got Endless",
    ),
    "triples": ({"train": Triples()}, ValueError, r"pair \(x, y\).*\(Tensor, Tensor, Tensor\)"),
    "three tensors": ({"train": TensorDataset(X, X, Y)}, TypeError, "train: must be a pair"),
    "a number": ({"train": 5}, TypeError, "train: must be a pair of tensors.*got int"),
    "words": ({"train": (["a"], ["b"])}, TypeError, "train: x and y must be tensors.*got list"),
    "no axes": ({"train": (X.sum(), Y.sum())}, TypeError, "train: must have a length"),
    "a vector": (
        {"loss": partial(F.cross_entropy, reduction="none")}, ValueError, r"loss: .*scalar.*\(8,\)",
    ),
    "a float": ({"loss": lambda o, t: 1.0}, ValueError, "loss: must return a scalar tensor"),
    "no loss": ({"loss": "mse"}, TypeError, "loss: must be callable, got a str"),
    "a module": ({"build": runs.net()}, TypeError, "build: must be a function.*got a Sequential"),
    "a class": ({"algorithm": ge.GADAM}, TypeError, "algorithm: must be a config"),
    "no callback": ({"callbacks": [1]}, TypeError, "callbacks: must be callable, got a int"),
    "an engine": ({"engine": "warp"}, ValueError, "engine: must be one of .*'warp'"),
    "in place": (
        {"build": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3))},
        ValueError, "leave their input as it is.*Sequential",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_argument_rule_and_value_before_any_work(case, monkeypatch):
    keywords, error, words = BAD[case]
    monkeypatch.setattr(ge.GADAM, "step", None)  # any work would fail otherwise
    with pytest.raises(error, match=words):
        fit(**keywords)


def test_a_checkpoint_path_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(ValueError, match=f"checkpoint: must be a folder, got the file {path}"):
        fit(checkpoint=path)
    with pytest.raises(ValueError, match=r"seconds: must be .*not negative, got -1"):
        ge.Checkpoint(tmp_path, seconds=-1)
    assert path.read_text() == "mine"


def test_ignored_labels_are_no_mistake():
    x, y = runs.rows()
    y[:5] = 255
    result = fit((x, y), valid=(x, y), loss=nn.CrossEntropyLoss(ignore_index=255))
    assert result.losses.isfinite().all()
    y[:5] = -100
    assert fit((x, y), valid=(x, y)).losses.isfinite().all()


def test_targets_that_are_probabilities_are_no_labels():
    x, y = runs.rows()
    assert fit((x, F.one_hot(y).float())).probabilities
