"""AdaSwarm for tables: a classifier that trains on losses that can only be evaluated."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from gradevo.algorithms.adaswarm import AdaSwarm
from gradevo.criteria import is_cross_entropy
from gradevo.losses import LOSSES, Named, with_sigmoid
from gradevo.population import Loss
from gradevo.result import Result
from gradevo.sklearn.base import NetworkClassifier
from gradevo.sklearn.inputs import table_and_labels
from gradevo.sklearn.networks import Module
from gradevo.validation import function, one_of


class AdaSwarmClassifier(NetworkClassifier):
    """Classifies rows by a network that a swarm's gradient trains on what counts in the end.

    For losses without a useful gradient: the share of wrong rows, 1 - F1, a table of costs. The
    loss is only evaluated. A fifth of the rows is held out to keep the best weights. Inputs are
    taken as they are: put a `StandardScaler` before it in a pipeline. With another loss than
    "cross-entropy" the network has a sigmoid on each output; then `predict_proba` gives these as
    shares of their sum: they rank rows, but do not estimate probabilities.

    Args:
        hidden: sizes of a perceptron's hidden layers with ReLU; `()` is a linear model.
        module: instead of `hidden` the user's own network: a function or class `module(inputs,
            outputs)` that returns a new module from `(rows, inputs)` to `(rows, outputs)`, without
            the sigmoid. To pickle the estimator it must be importable, so no lambda.
        loss: "zero-one", "f1", "mae", "mse", "bce", "cross-entropy", or `loss(output, label)` of
            outputs `(rows, classes)` in [0, 1] and labels 0..C-1 in the order of `classes_`,
            that returns a value a row, or one for the batch with `scope="batch"`.
        scope: one swarm a "row", an "entry" or a "batch"; None: what the named loss needs, a row
            for a function.
        population: networks trained beside each other; the best on held-out rows predicts.
        epochs: passes through the training rows.
        batch_size: rows a step; fewer where there are fewer.
        lr: learning rate of Adam.
        settings: further fields of `ge.AdaSwarm`, by name.
        engine: of `ge.fit`; None: "batched" for perceptrons, "loop" for `module`, which give the
            same bits for the same seed.
        random_state: an int, a `RandomState`, or None: numpy's global one.
        verbose: show progress on a terminal.

    Attributes:
        classes_: labels, sorted.
        n_features_in_: columns.
        feature_names_in_: their names, where `X` was a data frame.
        result_: the `ge.Result`.
        network_: the module that predicts, its sigmoid included.
        history_: one dict of numbers a generation.

    Raises:
        ValueError: on `fit`, a parameter out of range, NaN, text, or a single class.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> x = (x - x.mean(0)) / x.std(0)
        >>> model = AdaSwarmClassifier(loss="f1", epochs=30, random_state=0).fit(x, y)
        >>> bool(model.score(x, y) > 0.8)
        True
    """

    ALGORITHM = AdaSwarm
    FIELDS = ("population", "epochs", "batch_size", "lr")
    result_: Result

    def __init__(
        self,
        hidden: int | Sequence[int] = (64,),
        *,
        module: Module | None = None,
        loss: str | Loss = "zero-one",
        scope: str | None = None,
        population: int = 1,
        epochs: float | None = 100,
        batch_size: int = 64,
        lr: float = 1e-2,
        settings: Mapping[str, Any] | None = None,
        engine: str | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden
        self.module = module
        self.loss = loss
        self.scope = scope
        self.population = population
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.settings = settings
        self.engine = engine
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Train on rows `(n, columns)` and their labels `(n,)`."""
        named = _named(self.loss)
        x, labels, self.classes_ = table_and_labels(self, X, y)
        self._bounded = named.probabilities
        swarm = {
            "scope": named.scope if self.scope is None else self.scope,
            "bounds": (0.0, 1.0) if self._bounded else None,
        }
        around = with_sigmoid if self._bounded else _as_it_is
        outputs = len(self.classes_)
        self.result_ = self._train(x, labels, outputs, named.loss, around, **swarm)
        self.network_ = self.result_.best
        self.history_ = self.result_.history
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Shares of the classes, `(n, classes)`, in the order of `classes_`."""
        outputs = self._outputs(X)
        if not self._bounded:
            return self._softmax(outputs)
        outputs = np.maximum(outputs, np.finfo(np.float64).tiny)  # none is left without a share
        return outputs / outputs.sum(axis=1, keepdims=True)


def _as_it_is(build: Any) -> Any:
    return build


def _named(loss: Any) -> Named:
    """A loss of the user's is treated as the named ones are.

    Raises:
        ValueError: no such name.
    """
    if isinstance(loss, str) or not callable(loss):
        return LOSSES[one_of("loss", loss, LOSSES)]
    loss = function("loss", loss)
    return Named(loss, not is_cross_entropy(loss), "auto", False, "of the user")
