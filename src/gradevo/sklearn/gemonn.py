"""GEMONN for tables: a classifier whose sparsity is chosen from a front."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from sklearn.utils.validation import check_is_fitted
from torch import nn

from gradevo import validation
from gradevo.algorithms.gemonn import GEMONN
from gradevo.front import Front
from gradevo.sklearn.base import NetworkClassifier
from gradevo.sklearn.inputs import table_and_labels
from gradevo.sklearn.networks import Module


class GEMONNClassifier(NetworkClassifier):
    """Classifies rows by a sparse network, picked from a front between density and loss.

    One fit trains networks from nearly empty to dense; `sparsity` or `max_loss` says which of
    them predicts, `pick` changes that afterwards. Without either it is the one of the lowest loss
    on the fifth of the rows that is held out: the knee of a front depends on how far down it
    reaches, and may cost accuracy that nobody agreed to. Inputs are taken as they are: put a
    `StandardScaler` before it in a pipeline. Runs are shorter than those of `ge.GEMONN()`:
    seconds for a thousand rows.

    Args:
        hidden: sizes of a perceptron's hidden layers with ReLU; `()` is a linear model.
        module: instead of `hidden` the user's own network: a function or class `module(inputs,
            outputs)` that returns a new module from `(rows, inputs)` to logits `(rows, outputs)`.
            To pickle the estimator it must be importable, so no lambda.
        sparsity: share of the weights that must be zero; of such networks the best predicts.
        max_loss: largest cross-entropy on held-out rows; the sparsest such network predicts.
        population: networks that are kept, at least 2.
        generations: rungs of the ladder of densities, at least 1.
        epochs: passes through the training rows on each rung.
        batch_size: rows a step; fewer where there are fewer.
        lr: learning rate of the dense network.
        class_weight: None, "balanced", or a dict from label to weight.
        settings: further fields of `ge.GEMONN`, by name.
        engine: of `ge.fit`; None: "batched" for perceptrons, "loop" for `module`, which give the
            same bits for the same seed.
        random_state: an int, a `RandomState`, or None: numpy's global one.
        verbose: show progress on a terminal.

    Attributes:
        classes_: labels, sorted.
        n_features_in_: columns.
        feature_names_in_: their names, where `X` was a data frame.
        front_: the `ge.Front`; `print(model.front_.table())`.
        network_: the module that predicts; it gives logits, and its zeros are in place.
        history_: one dict of numbers a generation.

    Raises:
        ValueError: on `fit`, a parameter out of range, NaN, text, a single class, or no network
            that is so sparse or has so low a loss.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> x = (x - x.mean(0)) / x.std(0)
        >>> model = GEMONNClassifier((16,), generations=40, random_state=0).fit(x, y)
        >>> sum(int((p == 0).sum()) for p in model.pick(sparsity=0.5).network_.parameters()) > 50
        True
    """

    ALGORITHM = GEMONN
    front_: Front

    def __init__(
        self,
        hidden: int | Sequence[int] = (64,),
        *,
        module: Module | None = None,
        sparsity: float | None = None,
        max_loss: float | None = None,
        population: int = 20,
        generations: int = 100,
        epochs: float | None = 2,
        batch_size: int = 64,
        lr: float = 3e-3,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        settings: Mapping[str, Any] | None = None,
        engine: str | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden
        self.module = module
        self.sparsity = sparsity
        self.max_loss = max_loss
        self.population = population
        self.generations = generations
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.class_weight = class_weight
        self.settings = settings
        self.engine = engine
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Train on rows `(n, columns)` and their labels `(n,)`."""
        _check_pick(self.sparsity, self.max_loss)
        x, labels, self.classes_ = table_and_labels(self, X, y)
        loss = self._cross_entropy(labels)
        self.front_ = self._train(x, labels, len(self.classes_), loss)
        self.history_, self.network_ = self.front_.history, self.front_.best()
        return self.pick(sparsity=self.sparsity, max_loss=self.max_loss)

    def pick(self, *, sparsity: float | None = None, max_loss: float | None = None) -> Self:
        """Let another network of the front predict, without training again.

        Args:
            sparsity: share of the weights that must be zero; of such networks the best.
            max_loss: largest loss on held-out rows; the sparsest such network. Neither: the best.

        Returns:
            The estimator itself.

        Raises:
            ValueError: both are given, or no network is so sparse or has so low a loss.
        """
        check_is_fitted(self)
        _check_pick(sparsity, max_loss)
        self.network_ = _picked(self.front_, sparsity, max_loss)
        return self


def _check_pick(sparsity: Any, max_loss: Any) -> None:
    if sparsity is not None:
        validation.share("sparsity", sparsity)
    if max_loss is not None:
        validation.not_negative("max_loss", max_loss)
    if sparsity is not None and max_loss is not None:
        raise ValueError(f"max_loss: must not go with sparsity, got {max_loss!r} and {sparsity!r}")


def _picked(front: Front, sparsity: float | None, max_loss: float | None) -> nn.Module:
    if max_loss is not None:
        return front.sparsest(max_loss)
    most = float(front.points.sparsities.max())
    if (sparsity or 0.0) > most:
        raise ValueError(
            f"sparsity: must be at most that of the sparsest network, {most:.6g}, got {sparsity!r}"
        )
    return front.best(sparsity or 0.0)
