"""GADAM for tables: a classifier and a regressor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.preprocessing import StandardScaler
from torch import nn

from gradevo import validation
from gradevo.algorithms.gadam import GADAM
from gradevo.population import Loss
from gradevo.result import Result
from gradevo.sklearn.base import NetworkClassifier, NetworkEstimator
from gradevo.sklearn.inputs import table_and_labels, table_and_targets
from gradevo.sklearn.networks import Module

NETWORKS = ("best", "soup", "ensemble")
LOSSES: dict[str, Callable[[], Loss]] = {
    "squared_error": nn.MSELoss,
    "absolute_error": nn.L1Loss,
    "huber": nn.HuberLoss,
}


class GADAMClassifier(NetworkClassifier):
    """Classifies rows by a network of a population that learns by gradient and evolves.

    For tables where a network's learning rate and decay would have to be searched for: here
    they evolve. A fifth of the rows is held out to compare members on. Inputs are taken as they
    are: put a `StandardScaler` before it in a pipeline. Epochs count rather than steps, and runs
    are shorter than those of `ge.GADAM()`: seconds for a thousand rows.

    Args:
        hidden: sizes of a perceptron's hidden layers with ReLU; `()` is a linear model.
        module: instead of `hidden` the user's own network: a function or class `module(inputs,
            outputs)` that returns a new module from `(rows, inputs)` to logits `(rows, outputs)`.
            To pickle the estimator it must be importable, so no lambda.
        population: networks, at least 2.
        generations: at least 1.
        epochs: passes through the training rows in each of the `generations + 1` phases.
        batch_size: rows a step; fewer where there are fewer.
        lr: learning rate around which the first members' are drawn.
        class_weight: None, "balanced", or a dict from label to weight.
        predict_with: "soup", the averaged weights of the members that this does not harm; "best",
            the best member; "ensemble", all members' averaged probabilities, at their cost.
        settings: further fields of `ge.GADAM`, by name.
        engine: of `ge.fit`; None: "batched" for perceptrons, "loop" for `module`, which give the
            same bits for the same seed.
        random_state: an int, a `RandomState`, or None: numpy's global one.
        verbose: show progress on a terminal.

    Attributes:
        classes_: labels, sorted.
        n_features_in_: columns.
        feature_names_in_: their names, where `X` was a data frame.
        result_: the `ge.Result`.
        network_: the module that predicts; it gives logits.
        history_: one dict of numbers a generation.

    Raises:
        ValueError: on `fit`, a parameter out of range, NaN, text, or a single class.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> x, y = load_iris(return_X_y=True)
        >>> model = make_pipeline(StandardScaler(), GADAMClassifier(epochs=5, random_state=0))
        >>> bool(model.fit(x, y).score(x, y) > 0.9)
        True
    """

    ALGORITHM = GADAM
    result_: Result

    def __init__(
        self,
        hidden: int | Sequence[int] = (64,),
        *,
        module: Module | None = None,
        population: int = 10,
        generations: int = 4,
        epochs: float | None = 20,
        batch_size: int = 64,
        lr: float = 1e-2,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        predict_with: str = "soup",
        settings: Mapping[str, Any] | None = None,
        engine: str | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden
        self.module = module
        self.population = population
        self.generations = generations
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.class_weight = class_weight
        self.predict_with = predict_with
        self.settings = settings
        self.engine = engine
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Train on rows `(n, columns)` and their labels `(n,)`."""
        validation.one_of("predict_with", self.predict_with, NETWORKS)
        x, labels, self.classes_ = table_and_labels(self, X, y)
        loss = self._cross_entropy(labels)
        self.result_ = self._train(x, labels, len(self.classes_), loss)
        self.network_ = getattr(self.result_, self.predict_with)
        self.history_ = self.result_.history
        return self


class GADAMRegressor(RegressorMixin, MultiOutputMixin, NetworkEstimator):
    """Predicts numbers by a network of a population that learns by gradient and evolves.

    As `GADAMClassifier`, for one target or several. Targets are standardised for the networks,
    which start around zero, and predictions are put back; inputs are taken as they are: put a
    `StandardScaler` before it in a pipeline.

    Args:
        hidden: sizes of a perceptron's hidden layers with ReLU; `()` is a linear model.
        module: instead of `hidden` the user's own network: a function or class `module(inputs,
            outputs)` that returns a new module from `(rows, inputs)` to `(rows, outputs)`. To
            pickle the estimator it must be importable, so no lambda.
        loss: "squared_error", "absolute_error" or "huber", or `loss(output, target)` of
            standardised targets, `(rows, outputs)` both, that returns a scalar.
        population: networks, at least 2.
        generations: at least 1.
        epochs: passes through the training rows in each of the `generations + 1` phases.
        batch_size: rows a step; fewer where there are fewer.
        lr: learning rate around which the first members' are drawn.
        predict_with: "soup", "best" or "ensemble", see `GADAMClassifier`.
        settings: further fields of `ge.GADAM`, by name.
        engine: see `GADAMClassifier`.
        random_state: an int, a `RandomState`, or None: numpy's global one.
        verbose: show progress on a terminal.

    Attributes:
        n_features_in_: columns.
        feature_names_in_: their names, where `X` was a data frame.
        result_: the `ge.Result`, its losses those of standardised targets.
        network_: the module that predicts standardised targets.
        target_mean_: of the targets, `(outputs,)`.
        target_scale_: their deviation, `(outputs,)`.
        history_: one dict of numbers a generation.

    Raises:
        ValueError: on `fit`, a parameter out of range, NaN or text.

    Example:
        >>> from sklearn.datasets import make_regression
        >>> x, y = make_regression(200, 5, random_state=0)
        >>> bool(GADAMRegressor(epochs=5, random_state=0).fit(x, y).score(x, y) > 0.9)
        True
    """

    ALGORITHM = GADAM
    result_: Result
    target_mean_: np.ndarray
    target_scale_: np.ndarray

    def __init__(
        self,
        hidden: int | Sequence[int] = (64,),
        *,
        module: Module | None = None,
        loss: str | Loss = "squared_error",
        population: int = 10,
        generations: int = 4,
        epochs: float | None = 20,
        batch_size: int = 64,
        lr: float = 1e-2,
        predict_with: str = "soup",
        settings: Mapping[str, Any] | None = None,
        engine: str | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden
        self.module = module
        self.loss = loss
        self.population = population
        self.generations = generations
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.predict_with = predict_with
        self.settings = settings
        self.engine = engine
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Train on rows `(n, columns)` and their targets, `(n,)` or `(n, outputs)`."""
        validation.one_of("predict_with", self.predict_with, NETWORKS)
        if isinstance(self.loss, str):
            validation.one_of("loss", self.loss, LOSSES)
        else:
            validation.function("loss", self.loss)
        x, targets = table_and_targets(self, X, y)
        columns = targets.reshape(len(x), -1)
        scaler = StandardScaler().fit(columns)
        self.target_mean_, self.target_scale_ = map(np.asarray, (scaler.mean_, scaler.scale_))
        self._flat = targets.ndim == 1
        standard = np.asarray(scaler.transform(columns), dtype=np.float32)
        loss = LOSSES[self.loss]() if isinstance(self.loss, str) else self.loss
        self.result_ = self._train(x, standard, columns.shape[1], loss)
        self.network_ = getattr(self.result_, self.predict_with)
        self.history_ = self.result_.history
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Targets of rows, of the shape that `fit` was given: `(n,)` or `(n, outputs)`."""
        outputs = self._outputs(X) * self.target_scale_ + self.target_mean_
        return outputs[:, 0] if self._flat else outputs
