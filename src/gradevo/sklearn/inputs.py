"""What users hand to an estimator, checked: tables, labels, targets."""

from typing import Any, cast

import numpy as np
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from gradevo.arrays import is_frame, without_numbers


def table(estimator: Any, X: Any) -> np.ndarray:
    """Rows to predict, `(n, columns)`, float32, of the columns that `fit` has seen.

    Raises:
        ValueError: other columns than in `fit`, text, NaN or infinity.
        TypeError: a sparse matrix.
    """
    return cast(np.ndarray, _checked(estimator, X, reset=False))


def table_and_labels(estimator: Any, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows `(n, columns)`, float32, labels as 0..C-1, and the classes, sorted.

    Raises:
        ValueError: as `table`; labels that are none, or of a single class.
        TypeError: a sparse matrix, or labels of several kinds.
    """
    x, labels = _together(estimator, X, y, multi_output=False)
    if any(label is None for label in labels.tolist()):
        raise ValueError("y: must hold a label in every row, got None")
    check_classification_targets(labels)
    encoder = LabelEncoder().fit(labels)
    classes = cast(np.ndarray, encoder.classes_)
    if len(classes) < 2:
        raise ValueError(
            "y: must hold at least two classes to tell apart, "
            f"got one class, {classes.tolist()[0]!r}"
        )
    return x, np.asarray(encoder.transform(labels), dtype=np.int64), classes


def table_and_targets(estimator: Any, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Training rows `(n, columns)`, float32, and targets `(n,)` or `(n, outputs)`, float64.

    Raises:
        ValueError: as `table`; targets that are no finite numbers.
        TypeError: a sparse matrix.
    """
    x, targets = _together(estimator, X, y, multi_output=True, y_numeric=True)
    return x, targets.astype(np.float64)


def _together(estimator: Any, X: Any, y: Any, **rules: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two rows at least, since some are held out."""
    found = _checked(estimator, X, y, ensure_min_samples=2, **rules)
    return cast(tuple[np.ndarray, np.ndarray], found)


def _checked(estimator: Any, X: Any, *y: Any, **rules: Any) -> Any:
    """What scikit-learn says of it; numbers too large for float32 are an error there."""
    _refuse_text(X)
    with np.errstate(over="ignore"):
        return validate_data(estimator, X, *y, dtype=np.float32, **rules)


def _refuse_text(X: Any) -> None:
    """Name the columns of a data frame that hold no numbers.

    Raises:
        ValueError: says which.
    """
    if is_frame(X) and hasattr(X, "columns") and (bad := without_numbers(X)):
        raise ValueError(
            f"X: every column must hold numbers, got {', '.join(bad)}; encode such columns first, "
            "by OneHotEncoder in a ColumnTransformer for example"
        )
