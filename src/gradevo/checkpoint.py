"""State on disk: one file of plain tensors and numbers, replaced whole or not at all.

A checkpoint is one safetensors file; its header carries, as JSON, everything that is not a
tensor. Nothing is pickled. It is written beside the old one and renamed over it, so a kill
at any instant leaves a good file.
"""

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Generator, Tensor

from gradevo.errors import CheckpointError

FORMAT = 1
_CLASSES: dict[str, type] = {}
T = TypeVar("T", bound=type)


def storable(cls: T) -> T:
    """Class decorator: a dataclass of tensors, numbers and generators may go on disk."""
    _CLASSES[cls.__name__] = cls
    return cls


# --- between objects and (tensors, JSON) ---------------------------------------------------


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for a tree of plain values; its tensors go to `tensors` and leave their key.

    Raises:
        TypeError: a value that is neither plain nor `storable`.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach()
        return {"tensor": key}
    if isinstance(value, Generator):
        return {"generator": pack(value.get_state(), tensors)}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [pack(item, tensors) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[pack(k, tensors), pack(v, tensors)] for k, v in value.items()]}
    if type(value).__name__ in _CLASSES:
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, "fields": pack(fields, tensors)}
    raise TypeError(f"state: must be plain values and tensors, got {type(value).__name__}")


def unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree that `pack` took apart."""
    if not isinstance(node, dict):
        return node
    if "class" in node:
        return _CLASSES[node["class"]](**unpack(node["fields"], tensors))
    ((kind, inner),) = node.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "generator":
        generator = torch.Generator()
        generator.set_state(unpack(inner, tensors))
        return generator
    if kind == "dict":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in inner}
    items = [unpack(item, tensors) for item in inner]
    return tuple(items) if kind == "tuple" else items


# --- between (tensors, JSON) and the disk --------------------------------------------------


def write(path: Path, value: Any) -> None:
    """Write a tree to one file, atomically.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; what was at `path`
            is untouched.
    """
    tensors: dict[str, Tensor] = {}
    header = {"format": FORMAT, "value": pack(value, tensors)}
    plain = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
    write_bytes(path, save(plain, metadata={"gradevo": json.dumps(header)}))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file whole: write beside it, flush to the disk, rename."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise CheckpointError(
            f"checkpoint: must be writable, got {error.strerror or error} for {path}; "
            "the last good one is kept"
        ) from error


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> Any:
    """The tree that `write` left at `path`.

    Raises:
        CheckpointError: no file, a truncated or foreign one, or one of another version.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint: must be an existing file, got {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["gradevo"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint: must be a whole gradevo file, got {path} ({error}); "
            "it is truncated, damaged or something else"
        ) from error
    if header["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint: must be of format {FORMAT}, got format {header['format']} in {path}; "
            "it was written by another version of gradevo"
        )
    return unpack(header["value"], tensors)
