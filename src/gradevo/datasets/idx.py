"""Folders of MNIST-style idx files, gzipped or not."""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradevo.datasets.files import File, read_bytes
from gradevo.datasets.images import Images
from gradevo.datasets.names import DataError

_UBYTE = 8


def read_idx(path: Path, dims: int, most: int | None = None) -> NDArray[np.uint8]:
    """Read one idx file of unsigned bytes.

    Args:
        path: The file.
        dims: The number of dimensions that it must have: 3 for images, 1 for labels.
        most: Bytes that a gzipped file may hold; None: a hundred times its own, and 256 MB.

    Returns:
        The array.

    Raises:
        DataError: The file is missing or damaged, or is another kind of file.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels"
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    ...     read_idx(path, 1).tolist()
    [7, 9]
    """
    content = read_bytes(File(path, most=most))
    start = 4 + 4 * dims
    magic = bytes([0, 0, _UBYTE, dims])
    if content[:4] != magic:
        raise DataError(
            f"data: idx file '{path}' must begin with the magic number {magic.hex()}, but begins "
            f"with {content[:4].hex()}"
        )
    if len(content) < start:
        raise DataError(
            f"data: idx file '{path}' must have a header of {start} bytes, but has {len(content)}"
        )
    shape = struct.unpack(f">{dims}I", content[4:start])
    _check_size(path, shape, len(content) - start)
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _check_size(path: Path, shape: tuple[int, ...], size: int) -> None:
    if prod(shape) != size or size == 0:
        raise DataError(
            f"data: idx file '{path}' must hold {prod(shape)} bytes for its shape {shape}, and "
            f"at least 1, but holds {size}"
        )


def read_idx_folder(folder: Path, most: int | None = None) -> Images:
    """Read the training and test images of a folder of four idx files named as those of MNIST.

    Args:
        folder: Holds train-images, train-labels, t10k-images and t10k-labels, each ending in
            -idx3-ubyte or -idx1-ubyte (or .idx3-ubyte), gzipped or not.
        most: Bytes that a gzipped one may hold; None: a hundred times its own, and 256 MB.

    Returns:
        The images, with the test images at the end.

    Raises:
        DataError: A file is missing or damaged, or images and labels do not fit each other.

    >>> read_idx_folder(Path("no"))
    Traceback (most recent call last):
    gradevo.datasets.names.DataError: data: folder 'no' must hold 'train-images-idx3-ubyte[.gz]'
    """
    train, train_labels = _part(folder, "train", most)
    test, test_labels = _part(folder, "t10k", most)
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"data: training and test images in '{folder}' must have one shape, but have "
            f"{train.shape[1:]} and {test.shape[1:]}"
        )
    labels = np.concatenate([train_labels, test_labels]).tolist()
    return Images(np.concatenate([train, test]), tuple(map(str, labels)), len(test))


def _part(folder: Path, part: str, most: int | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images = read_idx(_find(folder, f"{part}-images", 3), 3, most)
    labels = read_idx(_find(folder, f"{part}-labels", 1), 1, most)
    if len(images) != len(labels):
        raise DataError(
            f"data: {part} in '{folder}' must have a label per image, but has {len(images)} "
            f"images and {len(labels)} labels"
        )
    return images, labels


def _find(folder: Path, stem: str, dims: int) -> Path:
    names = [f"{stem}{dot}idx{dims}-ubyte{zipped}" for zipped in ("", ".gz") for dot in ("-", ".")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"data: folder '{folder}' must hold '{names[0]}[.gz]'")
