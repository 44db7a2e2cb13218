"""What the estimators share: how they train, and how their networks are asked."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted
from torch import nn

from gradevo import validation
from gradevo.algorithms.base import Algorithm
from gradevo.data import batch_of, rows_to_train
from gradevo.population import Loss
from gradevo.run import fit
from gradevo.sklearn.inputs import table
from gradevo.sklearn.networks import Module, builder, check_outputs, outputs_of


class NetworkEstimator(BaseEstimator):
    """Trains networks on arrays; subclasses say which algorithm, loss and targets.

    Attributes:
        ALGORITHM: the config's class.
        FIELDS: parameters of the estimator that are fields of the config.
    """

    ALGORITHM: type[Any]
    FIELDS: tuple[str, ...] = ("population", "generations", "epochs", "batch_size", "lr")

    hidden: int | Sequence[int]
    module: Module | None
    settings: Mapping[str, Any] | None
    engine: str | None
    random_state: Any
    verbose: bool
    network_: nn.Module
    history_: list[dict[str, Any]]

    def _algorithm(self, rows: int, **more: Any) -> Algorithm:
        """The config that the parameters ask for, with batches that the rows can fill."""
        given = {name: validation.plain(getattr(self, name)) for name in self.FIELDS}
        extra = self._settings(set(given))
        if extra.get("search") == "crossover" and given["epochs"] == self._default("epochs"):
            given["epochs"] = None  # it has no phases to learn in
        usual = validation.at_least("batch_size", given["batch_size"], 1)
        given["batch_size"] = batch_of(None, rows_to_train(rows), usual)
        return self.ALGORITHM(**{**more, **given, **extra})

    def _settings(self, taken: set[str]) -> dict[str, Any]:
        """Further fields of the config, of which parameters are none."""
        if not isinstance(self.settings, Mapping | None):
            raise TypeError(f"settings: must be a mapping from names, got {self.settings!r}")
        known = {field.name for field in fields(self.ALGORITHM)} - taken
        if strange := [name for name in self.settings or {} if name not in known]:
            raise ValueError(
                f"settings: must be further fields of {self.ALGORITHM.__name__}, "
                f"got {', '.join(map(repr, strange))}"
            )
        return dict(self.settings or {})

    def _default(self, name: str) -> Any:
        return inspect.signature(type(self)).parameters[name].default

    def _seed(self) -> int:
        try:
            state = check_random_state(self.random_state)
        except ValueError as error:
            raise ValueError(f"random_state: {error}") from None
        return int(state.randint(2**31 - 1))

    def _train(
        self,
        x: np.ndarray,
        y: np.ndarray,
        outputs: int,
        loss: Loss,
        around: Callable[[Any], Any] = lambda build: build,
        **more: Any,
    ) -> Any:
        """The outcome of a run.

        Args:
            x: rows, float32.
            y: labels, or targets, float32.
            outputs: of the network.
            loss: of outputs and targets.
            around: what becomes of the network's builder.
            more: fields of the config that are no parameters.
        """
        verbose = validation.flag("verbose", self.verbose)
        algorithm = self._algorithm(len(x), **more)
        build = builder(self.hidden, self.module, x.shape[1], outputs)
        inputs, targets = torch.tensor(x), torch.tensor(y)
        seed = self._seed()
        if self.module is not None:
            check_outputs(build, inputs, outputs)
        return fit(
            algorithm,
            around(build),
            loss,
            (inputs, targets),
            seed=seed,
            engine=self.engine or ("batched" if self.module is None else "loop"),
            quiet=not verbose,
        )

    def _outputs(self, X: Any) -> np.ndarray:
        """The network's outputs, `(n, outputs)`, float64.

        Perceptrons compute in double precision here, so that a row's answer does not depend on
        which rows are beside it; networks of the user's may know single precision only.
        """
        check_is_fitted(self)
        return outputs_of(self.network_, table(self, X), exact=self.module is None)


class NetworkClassifier(ClassifierMixin, NetworkEstimator):
    """Labels for rows, from a network with an output a class."""

    classes_: np.ndarray
    class_weight: Any

    def _cross_entropy(self, labels: np.ndarray) -> nn.Module:
        """Of the softmax, weighted as `class_weight` says; `labels` are 0..C-1."""
        if self.class_weight is None:
            return nn.CrossEntropyLoss()
        given = self.class_weight.values() if isinstance(self.class_weight, Mapping) else ()
        for weight in given:
            validation.positive("class_weight", weight)
        weights = compute_class_weight(
            self.class_weight, classes=self.classes_, y=self.classes_[labels]
        )
        return nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float32))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, `(n, classes)`, in the order of `classes_`."""
        return self._softmax(self._outputs(X))

    @staticmethod
    def _softmax(logits: np.ndarray) -> np.ndarray:
        return softmax(logits, axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row, `(n,)`."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]
