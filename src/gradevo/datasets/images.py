"""Grey images with labels: standardised pixels, and the .npz files that hold them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradevo.datasets.files import File, read_bytes
from gradevo.datasets.names import DataError
from gradevo.datasets.preparation import Preparation
from gradevo.datasets.sources import Encoder, Rows
from gradevo.disk import TooLarge, check_archive

_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class Images:
    """Grey images of shape (rows, height, width) in uint8 with labels; a `Source`.

    >>> images = Images(np.array([[[0]], [[255]]], dtype=np.uint8), ("dark", "light"))
    >>> images.fit(np.array([0, 1]))(np.array([0, 1])).ravel().tolist()
    [-1.0, 1.0]
    """

    pixels: NDArray[np.uint8]
    labels: tuple[str, ...]
    own_test: int = 0

    def fit(self, train: Rows) -> Encoder:
        """Learn the mean and deviation of a pixel from some images only.

        Args:
            train: The numbers of the images to learn from.

        Returns:
            The function that encodes images as float32 of shape (rows, 1, height, width).
        """
        mean, scale = _moments(self.pixels[train])
        levels = ((np.arange(256) / 255 - mean) / scale).astype(np.float32)  # of each grey value
        preparation = Preparation((0.0,), (255 * mean,), (255 * scale,))
        return Encoder(lambda rows: levels[self.pixels[rows]][:, np.newaxis], preparation)


def _moments(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean and deviation of a pixel in [0, 1]; 1 where all are the same."""
    chunks = range(0, len(pixels), _CHUNK)
    counts = sum(np.bincount(pixels[i : i + _CHUNK].ravel(), minlength=256) for i in chunks)
    values = np.arange(256) / 255
    mean = np.average(values, weights=counts)
    deviation = np.sqrt(np.average((values - mean) ** 2, weights=counts))
    return float(mean), float(deviation) or 1.0


def read_npz(path: Path, most: int | None = None) -> Images:
    """Read an .npz file with the arrays `images` (rows, height, width; uint8) and `labels` (rows).

    Args:
        path: The file.
        most: Bytes that its arrays may hold; None: a hundred times its own, and 256 MB.

    Returns:
        The images.

    Raises:
        DataError: The file is missing or damaged, or an array has another shape or type.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.npz"
    ...     np.savez(path, images=np.zeros((2, 3, 3), np.uint8), labels=np.array([0, 1]))
    ...     read_npz(path).labels
    ('0', '1')
    """
    file = File(path, most=most)
    content = read_bytes(file)
    try:
        check_archive(io.BytesIO(content), file.limit(len(content)))
    except TooLarge:
        raise file.too_large(file.limit(len(content))) from None
    except Exception as error:  # zipfile, likewise
        raise _damaged(path) from error
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except ValueError as error:
        raise DataError(f"data: file '{path}' cannot be read: {error}") from error
    except Exception as error:  # numpy raises whatever a damaged archive makes it raise
        raise _damaged(path) from error
    return _images(path, found)


def _damaged(path: Path) -> DataError:
    return DataError(f"data: file '{path}' must be an .npz file, but is damaged")


def _images(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Images:
    if not {"images", "labels"} <= set(arrays):
        found = ", ".join(arrays) or "nothing"
        raise DataError(f"data: '{path}' must hold 'images' and 'labels', but holds {found}")
    pixels, labels = arrays["images"], arrays["labels"]
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise DataError(
            f"data: 'images' in '{path}' must be uint8 of shape (rows, height, width), but is "
            f"{pixels.dtype} of shape {pixels.shape}"
        )
    if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iuU":
        raise DataError(
            f"data: 'labels' in '{path}' must be {len(pixels)} whole numbers or words, but is "
            f"{labels.dtype} of shape {labels.shape}"
        )
    return Images(pixels, tuple(map(str, labels.tolist())))
