"""What estimators say to input that they cannot use: which part, the rule, what was given."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.datasets import load_iris
from sklearn.metrics import accuracy_score
from torch import nn

from gradevo.sklearn import (
    AdaSwarmClassifier,
    GADAMClassifier,
    GADAMRegressor,
    GEMONNClassifier,
)

KINDS = [GADAMClassifier, GADAMRegressor, AdaSwarmClassifier, GEMONNClassifier]
QUICK = {"population": 2, "generations": 1, "epochs": 1}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return pd.DataFrame(load_iris().data, columns=["a", "b", "c", "d"])


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.array(["x", "y", "z"])[load_iris().target]


@pytest.fixture(scope="module")
def fitted(frame, labels) -> GADAMClassifier:
    return GADAMClassifier(**QUICK, random_state=0).fit(frame, labels)


TEXT = {
    "text": ["red", "blue"] * 75,
    "category": pd.Categorical(["red", "blue"] * 75),
    "numbers as categories": pd.Categorical([1, 2] * 75),
    "numbers as text": pd.Series(["1", "2"] * 75, dtype=object),
    "object": pd.Series([1, "red", None] * 50, dtype=object),
    "date": pd.date_range("2020-01-01", periods=150),
    "duration": pd.timedelta_range("1s", periods=150),
}


@pytest.mark.parametrize("column", TEXT.values(), ids=TEXT.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_columns_without_numbers_are_named(kind, column, frame, labels) -> None:
    y = labels if kind is not GADAMRegressor else np.arange(150.0)
    with pytest.raises(ValueError, match=r"X: .*got 'colour' \(.*OneHotEncoder") as error:
        kind().fit(frame.assign(colour=column), y)
    assert "'a'" not in str(error.value)


def test_a_column_that_became_text_is_named_when_predicting(fitted, frame) -> None:
    with pytest.raises(ValueError, match="X: every column must hold numbers, got 'b'"):
        fitted.predict(frame.assign(b="new"))


@pytest.mark.parametrize("dtype", ["int8", "float32", "bool", "Int64", "Float64", "object"])
def test_columns_of_numbers_of_every_kind_are_taken(dtype, frame, labels) -> None:
    changed = frame.assign(b=(frame.b > 3).astype(dtype))
    model = GADAMClassifier(**QUICK, random_state=0).fit(changed, labels)
    assert model.predict_proba(changed).shape == (150, 3)
    assert list(model.feature_names_in_) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda f: f.drop(columns="c"), "yet now missing:\n- c"),
        (lambda f: f[["b", "a", "c", "d"]], "same order"),
        (lambda f: f.rename(columns={"a": "other"}), "unseen at fit time:\n- other"),
        (lambda f: f.assign(e=1.0), "unseen at fit time:\n- e"),
    ],
    ids=["missing", "order", "renamed", "further"],
)
def test_other_columns_than_in_fit_are_named(change, word, fitted, frame) -> None:
    with pytest.raises(ValueError, match=word):
        fitted.predict(change(frame))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_numbers_that_are_not_finite_are_refused(value, fitted, frame, labels) -> None:
    bad = frame.copy()
    bad.iloc[3, 1] = value
    for call in (lambda: fitted.fit(bad, labels), lambda: fitted.predict(bad)):
        with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
            call()


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_input_is_refused_with_what_to_do(kind, frame, labels) -> None:
    with pytest.raises(TypeError, match=r"Sparse data was passed.*toarray"):
        kind().fit(csr_array(frame.to_numpy()), labels)


# --- labels and targets --------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GADAMClassifier, AdaSwarmClassifier, GEMONNClassifier])
def test_a_single_class_is_refused_by_name(kind, frame) -> None:
    with pytest.raises(ValueError, match=r"y: must hold at least two classes .* one class, 'x'"):
        kind().fit(frame, ["x"] * 150)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ([None, "a", "b"], "y: must hold a label in every row, got None"),
        (["a", "b", None], "y: must hold a label in every row, got None"),
        ([np.nan, 1.0, 2.0], "Input y contains NaN"),
        ([0.5, 1.5, 2.5], "Unknown label type: continuous"),
        ([[1, 0], [0, 1], [1, 1]], "1d array"),
    ],
)
def test_labels_that_are_none_are_refused(bad, word, frame) -> None:
    y = np.array(bad, dtype=object if None in bad else None)
    with pytest.raises(ValueError, match=word):
        GADAMClassifier().fit(frame.iloc[:150], np.tile(y, (50, 1) if y.ndim == 2 else 50))


def test_targets_of_the_regressor_must_be_finite_numbers(frame) -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"Input y contains|Input contains"):
            GADAMRegressor().fit(frame, np.full(150, bad))
    with pytest.raises(ValueError, match="could not convert string"):
        GADAMRegressor().fit(frame, ["a"] * 150)


def test_a_label_never_seen_counts_as_wrong(fitted, frame, labels) -> None:
    other = np.where(labels == "x", "never seen", labels)
    expected = accuracy_score(other, fitted.predict(frame))
    assert fitted.score(frame, other) == expected
    assert fitted.score(frame, np.full(150, "never seen")) == 0


@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
@pytest.mark.parametrize("rows", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_handful_of_rows_is_enough(kind, rows, frame) -> None:
    settings = QUICK if kind is not AdaSwarmClassifier else {"epochs": 1}
    model = kind(**settings, random_state=0).fit(frame.iloc[:rows], np.arange(rows))
    assert model.predict(frame).shape == (150,)


def test_one_row_is_too_few(frame) -> None:
    with pytest.raises(ValueError, match="1 sample"):
        GADAMRegressor().fit(frame.iloc[:1], [1.0])


# --- parameters ----------------------------------------------------------------------------

PARAMETERS = [
    ({"hidden": (0,)}, "hidden: must be a whole number of at least 1, got 0"),
    ({"hidden": "64"}, "hidden: must be sizes of layers"),
    ({"population": 1}, "population: must be a whole number of at least 2, got 1"),
    ({"epochs": 0}, "epochs: must be a finite positive number, got 0"),
    ({"batch_size": 0.5}, "batch_size: must be a whole number"),
    ({"lr": -1}, "lr: must be a finite number that is not negative"),
    ({"predict_with": "all"}, "predict_with: must be one of best, soup, ensemble, got 'all'"),
    ({"engine": "gpu"}, "engine: must be one of"),
    ({"settings": {"lr": 1}}, "settings: must be further fields of GADAM, got 'lr'"),
    ({"settings": {"depth": 1}}, "settings: must be further fields of GADAM, got 'depth'"),
    ({"class_weight": "even"}, "class_weight"),
    ({"class_weight": {"w": 2.0}}, r"classes, \['w'\], are not in class_weight|class_weight"),
]


@pytest.mark.parametrize(("given", "word"), PARAMETERS)
def test_a_parameter_out_of_range_is_named(given, word, frame, labels) -> None:
    model = GADAMClassifier(**given)
    with pytest.raises(ValueError, match=word):
        model.fit(frame, labels)


@pytest.mark.parametrize(
    ("module", "word"),
    [
        (nn.Linear(4, 3), "module: must be a function .* got a Linear"),
        (lambda: nn.Linear(4, 3), "module: must be a function .* got one with other arguments"),
        (lambda inputs, outputs: 3, "module: must return a torch.nn.Module, got a int"),
    ],
)
def test_a_module_that_builds_no_network_is_refused(module, word, frame, labels) -> None:
    with pytest.raises(TypeError, match=word):
        GADAMClassifier(module=module).fit(frame, labels)


def test_a_network_with_other_outputs_is_refused(frame, labels) -> None:
    with pytest.raises(ValueError, match=r"module: must give outputs of shape \(2, 3\).*\(2, 5\)"):
        GADAMClassifier(module=lambda inputs, outputs: nn.Linear(inputs, 5)).fit(frame, labels)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"sparsity": 1.5}, r"sparsity: must lie in \[0, 1\], got 1.5"),
        ({"max_loss": -1.0}, "max_loss: must be a finite number that is not negative"),
        ({"sparsity": 0.5, "max_loss": 1.0}, "max_loss: must not go with sparsity"),
        ({"sparsity": 1.0}, "sparsity: must be at most that of the sparsest network, 0"),
        ({"max_loss": 0.0}, "max_loss: must be at least the lowest loss of the front"),
    ],
)
def test_a_pick_that_no_network_meets_says_what_there_is(given, word, frame, labels) -> None:
    with pytest.raises(ValueError, match=word):
        GEMONNClassifier(**QUICK, **given, random_state=0).fit(frame, labels)


def test_losses_by_name_must_exist(frame, labels) -> None:
    with pytest.raises(ValueError, match=r"loss: must be one of cross-entropy, .*got 'auc'"):
        AdaSwarmClassifier(loss="auc").fit(frame, labels)
    with pytest.raises(ValueError, match=r"loss: must be one of squared_error, .*got 'mse'"):
        GADAMRegressor(loss="mse").fit(frame, np.arange(150.0))


def test_after_a_pick_that_is_not_there_the_best_network_predicts():
    rows = np.random.default_rng(0).normal(size=(40, 3))
    labels = (rows[:, 0] > 0).astype(int)
    model = GEMONNClassifier(population=4, generations=3, random_state=0)
    with pytest.raises(ValueError, match="sparsity: must be at most"):
        model.set_params(sparsity=0.99999).fit(rows, labels)
    assert model.predict(rows).shape == (40,)


@pytest.mark.parametrize("weight", [-2.0, 0.0, float("nan")])
def test_class_weights_that_are_not_positive_are_refused(weight):
    rows = np.random.default_rng(0).normal(size=(40, 3))
    labels = (rows[:, 0] > 0).astype(int)
    with pytest.raises(ValueError, match="class_weight: must be a finite positive number"):
        GADAMClassifier(class_weight={0: weight, 1: 1.0}).fit(rows, labels)


def test_an_ensemble_that_the_simd_engine_trained_predicts():
    rows = np.random.default_rng(0).normal(size=(40, 3))
    labels = (rows[:, 0] > 0).astype(int)
    model = GADAMClassifier(
        (4,), engine="simd", predict_with="ensemble", population=2, generations=1, epochs=2
    )
    assert model.fit(rows, labels).predict_proba(rows).shape == (40, 2)
