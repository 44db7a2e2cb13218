"""The 15 data sets of the AdaSwarm paper, split by ten seeds at once: `(10, rows, inputs)`.

A fifth of the rows, by class, is test data. While something is chosen, `part="tuning"` takes a
quarter of the training rows in its place, and the test rows are not touched.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, StandardScaler
from torch import Tensor

NAMES = {
    "iris": "Iris",
    "ionosphere": "Ionosphere",
    "wisconsin_breast_cancer": "Wisconsin Breast Cancer",
    "sonar": "Sonar",
    "wheat_seeds": "Wheat Seeds",
    "banknote": "Bank Note Authentication",
    "heart_disease": "Heart Disease",
    "haberman": "Haberman's Survival",
    "wine": "Wine",
    "car_evaluation": "Car Evaluation",
    "indian_liver_patient": "Indian Liver Patient",
    "abalone": "Abalone",
    "titanic": "Titanic",
    "pima_diabetes": "Pima India Diabetes",
    "agaricus_lepiota": "Agaricus Lepiota",
}  # file: name in the paper
Scale = Literal["raw", "standardised"]


@dataclass(frozen=True)
class Splits:
    """The same data under several splits; the first axis is the split.

    Attributes:
        train: inputs `(splits, rows, inputs)` and class numbers `(splits, rows)`.
        test: the same of the held-out rows.
        classes: how many.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int


def load(name: str, folder: Path, scale: Scale, seeds: range, part: str = "test") -> Splits:
    """One data set under the splits of `seeds`."""
    x, y, words = _read(folder / f"{name}.csv")
    pieces = [_split(x, y, words, scale, seed, part) for seed in seeds]
    stacked = [torch.stack(column) for column in zip(*pieces, strict=True)]
    return Splits((stacked[0], stacked[1]), (stacked[2], stacked[3]), int(y.max()) + 1)


def _read(path: Path) -> tuple[NDArray[Any], NDArray[np.int64], list[int]]:
    with path.open() as file:
        _, *lines = csv.reader(file)
    columns = list(zip(*lines, strict=True))
    y = LabelEncoder().fit_transform(columns.pop())
    words = [i for i, column in enumerate(columns) if not all(map(_numeric, column))]
    x = np.empty((len(y), len(columns)), dtype=object)
    for i, column in enumerate(columns):
        x[:, i] = [(cell if i in words else float(cell)) if cell else np.nan for cell in column]
    return x, y.astype(np.int64), words


def _numeric(cell: str) -> bool:
    try:
        float(cell or "0")
    except ValueError:
        return False
    return True


def _split(
    x: NDArray[Any], y: NDArray[np.int64], words: list[int], scale: Scale, seed: int, part: str
) -> tuple[Tensor, ...]:
    train, held = train_test_split(np.arange(len(y)), test_size=0.2, random_state=seed, stratify=y)
    if part == "tuning":
        train, held = train_test_split(train, test_size=0.25, random_state=seed, stratify=y[train])
    encoder = _encoder(x, words, scale).fit(x[train])
    parts = []
    for rows in (train, held):
        parts.append(torch.from_numpy(encoder.transform(x[rows]).astype(np.float32)))
        parts.append(torch.from_numpy(y[rows]))
    return tuple(parts)


def _encoder(x: NDArray[Any], words: list[int], scale: Scale) -> ColumnTransformer:
    """Medians, means and deviations of training rows; the words are those of all rows."""
    numbers = [i for i in range(x.shape[1]) if i not in words]
    numeric: list[Any] = [SimpleImputer(strategy="median")]
    numeric += [StandardScaler()] if scale == "standardised" else []
    kinds = [sorted({v for v in x[:, i] if isinstance(v, str)}) for i in words]
    one_hot = OneHotEncoder(categories=kinds, handle_unknown="ignore", sparse_output=False)
    fill = SimpleImputer(strategy="most_frequent")
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(*numeric), numbers),
            ("words", make_pipeline(fill, one_hot), words),
        ],
        sparse_threshold=0,
    )
