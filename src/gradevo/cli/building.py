"""What a user names on the command line: a builder of networks, an example, a shape."""

import os
import sys
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from gradevo.disk import check_archive, most_unpacked, opened


def builder(name: str) -> Callable[[], Any]:
    """The function or class that is called `package.module:name`; the working folder counts.

    Raises:
        ValueError: there is none, or it does not return a module.
    """
    from torch import nn

    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"build: must be like package.module:function, got {name!r}")
    try:
        found = getattr(_imported(module), attribute)
        made = found()
    except Exception as error:  # whatever a user's module may raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"build: must return a new module, got {reason} from {name}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"build: must return an nn.Module, got {type(made).__name__} from {name}")
    return found


def _imported(module: str) -> Any:
    """A module, of the working folder first; what others import later is not looked for there."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return import_module(module)
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)  # for what the builder itself imports when it is called


def shape(text: str) -> tuple[int, ...]:
    """Sizes separated by commas.

    Raises:
        ValueError: they are something else.

    Example:
        >>> shape("1,28,28")
        (1, 28, 28)
    """
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ValueError(f"inputs: must be sizes like 1,28,28, got {text!r}")
    return sizes


def example(path: Path) -> Any:
    """The rows in a .npy file, or the inputs by name in a .npz file, as tensors.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    import numpy as np
    import torch

    try:
        with opened(path) as file:
            if zipfile.is_zipfile(path):
                check_archive(path, most_unpacked(path.stat().st_size))
            found: Any = np.load(file, allow_pickle=False)
            named = {name: found[name] for name in found.files} if hasattr(found, "files") else None
        if named is None:
            return torch.from_numpy(found)
        return {name: torch.from_numpy(array) for name, array in named.items()}
    except Exception as error:  # numpy raises whatever a damaged archive makes it raise
        raise ValueError(f"example: must be a .npy or .npz file, got {path} ({error})") from error
