"""The estimators: scikit-learn's own checks, and what its tools do with them."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from unittest import SkipTest

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification, make_regression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    parametrize_with_checks,
)
from torch import nn

from gradevo.sklearn import (
    AdaSwarmClassifier,
    GADAMClassifier,
    GADAMRegressor,
    GEMONNClassifier,
)

SMALL = {"hidden": (16,), "batch_size": 32}
GADAM = {**SMALL, "population": 2, "generations": 1, "epochs": 10}
ESTIMATORS = [
    GADAMClassifier(**GADAM),
    GADAMRegressor(**GADAM),
    AdaSwarmClassifier(**SMALL, epochs=20),
    GEMONNClassifier(**SMALL, population=4, generations=12, epochs=1),
]
CLASSIFIERS = [ESTIMATORS[0], *ESTIMATORS[2:]]
KIND = {"ids": lambda estimator: type(estimator).__name__}


@pytest.fixture
def dispatching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it scikit-learn skips its check of array API input."""
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")


@parametrize_with_checks(ESTIMATORS)
@pytest.mark.usefixtures("dispatching")
@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
def test_scikit_learns_checks_pass_and_none_is_skipped(estimator, check) -> None:
    try:
        check(estimator)
    except SkipTest as reason:
        pytest.fail(f"skipped: {reason}")


@pytest.mark.parametrize("estimator", ESTIMATORS, **KIND)
def test_names_of_columns_are_kept_and_compared(estimator) -> None:
    check_dataframe_column_names_consistency(type(estimator).__name__, estimator)


# --- in scikit-learn's tools ---------------------------------------------------------------


@pytest.fixture(scope="module")
def iris():
    x, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(x), y


@pytest.mark.parametrize("estimator", CLASSIFIERS, **KIND)
def test_classifiers_learn_in_a_pipeline(estimator) -> None:
    x, y = load_iris(return_X_y=True)
    steps = make_pipeline(StandardScaler(), clone(estimator).set_params(epochs=20, random_state=0))
    assert cross_val_score(steps, x, y, cv=3).mean() > 0.85


def test_the_regressor_learns_targets_of_any_size_alike() -> None:
    x, y = make_regression(200, 5, noise=1.0, random_state=0)
    model = GADAMRegressor(**GADAM, random_state=0)
    small, large = (clone(model).fit(x, k * y + k) for k in (1.0, 1e6))
    assert small.score(x, y + 1) > 0.95
    np.testing.assert_allclose(large.predict(x), 1e6 * small.predict(x), rtol=1e-3, atol=1e4)


def test_the_regressor_predicts_several_targets_and_keeps_their_shape() -> None:
    x, y = make_regression(100, 4, n_targets=3, random_state=0)
    model = GADAMRegressor(**GADAM, random_state=0).fit(x, y)
    assert model.predict(x).shape == (100, 3) and model.score(x, y) > 0.8
    assert model.fit(x, y[:, :1]).predict(x).shape == (100, 1)
    assert model.fit(x, y[:, 0]).predict(x).shape == (100,)


def test_a_regressor_of_a_constant_predicts_it() -> None:
    x = np.random.RandomState(0).normal(size=(30, 3))
    found = GADAMRegressor(**GADAM, random_state=0).fit(x, np.full(30, 7.0)).predict(x)
    np.testing.assert_allclose(found, 7.0, atol=0.3)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_search_in_two_processes_finds_what_one_process_finds(iris) -> None:
    grid = {"population": np.array([2, 3]), "lr": [1e-4, 1e-2]}
    base = GADAMClassifier(**GADAM, random_state=0)
    alone, both = (GridSearchCV(base, grid, cv=2, n_jobs=n).fit(*iris) for n in (1, 2))
    assert both.best_params_ == alone.best_params_ and both.best_params_["lr"] == 1e-2
    scores = [search.cv_results_["mean_test_score"] for search in (alone, both)]
    np.testing.assert_allclose(*scores, atol=0.03)


@pytest.mark.parametrize("estimator", ESTIMATORS, **KIND)
def test_a_fitted_estimator_comes_back_from_pickle_and_joblib(estimator, iris, tmp_path) -> None:
    x, y = iris
    model = clone(estimator).set_params(random_state=0).fit(x, y)
    joblib.dump(model, tmp_path / "model")
    for copy in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model")):
        np.testing.assert_array_equal(copy.predict(x), model.predict(x))
        assert copy.history_ == model.history_


@pytest.mark.parametrize("estimator", ESTIMATORS, **KIND)
def test_the_same_seed_gives_the_same_bits_also_in_threads(estimator, iris) -> None:
    def predicted(seed: int):
        return getattr(clone(estimator).set_params(random_state=seed).fit(*iris), ask)(iris[0])

    ask = "predict_proba" if hasattr(estimator, "predict_proba") else "predict"
    with ThreadPoolExecutor(2) as pool:
        first, second, other = pool.map(predicted, [1, 1, 2])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, predicted(1))
    assert not np.array_equal(first, other)


def test_random_state_may_be_a_generator_and_global_states_stay(iris) -> None:
    before = np.random.get_state(), torch.get_rng_state()
    model = GADAMClassifier(**GADAM, random_state=np.random.RandomState(3))
    first, second = (model.fit(*iris).predict_proba(iris[0]) for _ in range(2))
    assert not np.array_equal(first, second)  # the generator moves on
    for old, new in zip(before[0], np.random.get_state(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize("estimator", ESTIMATORS, **KIND)
def test_what_a_row_gets_does_not_depend_on_the_rows_beside_it(estimator, iris) -> None:
    x, y = iris
    model = clone(estimator).set_params(random_state=0).fit(x, y)
    alone = np.concatenate([model.predict(x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(alone, model.predict(x), rtol=1e-12)


# --- what they offer -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["b", "a", "c"]), np.array(["b", "a", "c"], dtype=object), np.array([7, -1, 3]),
        np.array([True, False, True]),
    ],
    ids=["text", "object", "whole numbers", "truth values"],
)  # fmt: skip
def test_labels_of_every_kind_come_back_as_they_were(labels, iris) -> None:
    x, y = iris
    model = GADAMClassifier(**GADAM, random_state=0).fit(x, labels[y])
    found = model.predict(x)
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    assert found.dtype == model.classes_.dtype and (found == labels[y]).mean() > 0.8


def test_best_soup_and_ensemble_predict_by_other_networks(iris) -> None:
    model = GADAMClassifier(**{**GADAM, "population": 4}, random_state=0)
    found = {n: clone(model).set_params(predict_with=n).fit(*iris) for n in ("best", "ensemble")}
    x = torch.tensor(iris[0], dtype=torch.float32)
    for name, fitted in found.items():
        network = getattr(fitted.result_, name)
        expected = network(x).softmax(1).detach().numpy()
        np.testing.assert_allclose(fitted.predict_proba(iris[0]), expected, atol=1e-5)
    assert not np.allclose(*(fitted.predict_proba(iris[0]) for fitted in found.values()))


@pytest.mark.parametrize("kind", [GADAMClassifier, GEMONNClassifier])
def test_balanced_weights_find_more_of_a_rare_class(kind) -> None:
    x, y = make_classification(
        400, 5, weights=[0.93], class_sep=0.5, flip_y=0.05, random_state=3
    )  # fmt: skip
    small = GADAM if kind is GADAMClassifier else {**SMALL, "generations": 20}
    plain, even = (
        kind(**small, class_weight=w, random_state=0).fit(x, y) for w in (None, "balanced")
    )
    assert even.predict(x)[y == 1].mean() > plain.predict(x)[y == 1].mean() + 0.2


def test_a_network_is_picked_from_the_front_by_sparsity_or_loss(iris) -> None:
    model = GEMONNClassifier(**SMALL, generations=40, epochs=1, random_state=0).fit(*iris)
    losses, sparsities = model.front_.points.losses, model.front_.points.sparsities

    def sparsity() -> float:
        weights = [p for p in model.network_.parameters() if p.dim() > 1]
        return 1 - sum(int((p != 0).sum()) for p in weights) / sum(p.numel() for p in weights)

    assert sparsity() == pytest.approx(float(sparsities[losses.argmin()]))
    assert model.pick(sparsity=0.7) is model and sparsity() >= 0.7
    bearable = float(losses.median())
    model.pick(max_loss=bearable)
    assert sparsity() == pytest.approx(float(sparsities[losses <= bearable].max()))
    again = clone(model).set_params(sparsity=0.7).fit(*iris)
    np.testing.assert_array_equal(
        again.predict_proba(iris[0]), model.pick(sparsity=0.7).predict_proba(iris[0])
    )


@pytest.mark.parametrize("loss", ["f1", "mae", "cross-entropy"])
def test_adaswarm_trains_on_losses_by_name(loss, iris) -> None:
    model = AdaSwarmClassifier(**SMALL, loss=loss, random_state=0).fit(*iris)
    assert model.score(*iris) > 0.8
    np.testing.assert_allclose(model.predict_proba(iris[0]).sum(axis=1), 1)


def costly(output, label):
    """To miss class 0 costs ten times as much."""
    return (output.argmax(-1) != label) * torch.where(label == 0, 10.0, 1.0)


def costly_batch(output, label):
    return costly(output, label).mean()


@pytest.mark.parametrize(("loss", "scope"), [(costly, None), (costly_batch, "batch")])
def test_adaswarm_trains_on_a_loss_of_the_users(loss, scope) -> None:
    x, y = make_classification(300, 4, class_sep=0.4, random_state=0)
    plain = AdaSwarmClassifier(**SMALL, epochs=30, random_state=0)
    own = clone(plain).set_params(loss=loss, scope=scope)
    missed = [(model.fit(x, y).predict(x) != y)[y == 0].mean() for model in (plain, own)]
    assert missed[1] < missed[0] / 2


class Wide(nn.Module):
    """A network of the user's."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, 12), nn.Tanh(), nn.Linear(12, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.parametrize("estimator", ESTIMATORS, **KIND)
def test_a_network_of_the_users_is_trained_and_pickled(estimator, iris) -> None:
    x, y = iris
    model = clone(estimator).set_params(module=Wide, epochs=20, random_state=0).fit(x, y)
    parts = [type(part) for part in model.network_.modules()]
    assert Wide in parts and model.score(x, y) > 0.7
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict(x), model.predict(x))


def test_a_lambda_is_a_network_too_and_travels_to_workers(iris) -> None:
    model = GADAMClassifier(**GADAM, module=lambda i, o: nn.Linear(i, o), random_state=0)
    assert cross_val_score(model, *iris, cv=2, n_jobs=2).mean() > 0.7


@pytest.mark.parametrize(
    ("hidden", "layers"), [((), 1), (8, 2), ([8, np.int64(4)], 3), (np.array([8]), 2)]
)
def test_hidden_says_how_many_layers_there_are(hidden, layers, iris) -> None:
    model = GADAMClassifier(**GADAM | {"hidden": hidden}, random_state=0).fit(*iris)
    assert sum(isinstance(part, nn.Linear) for part in model.network_.modules()) == layers


def test_settings_reach_the_algorithm(iris) -> None:
    model = GADAMClassifier(**GADAM | {"epochs": None}, settings={"steps": 7}, random_state=0)
    assert model.fit(*iris).result_.member_steps == 2 * 2 * 7


def test_nothing_is_shown_unless_asked_for(iris, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = []
    for verbose in (False, True):
        GADAMClassifier(**GADAM, verbose=verbose, random_state=0).fit(*iris)
        shown.append("generation" in capsys.readouterr().err)
    assert shown == [False, True]
