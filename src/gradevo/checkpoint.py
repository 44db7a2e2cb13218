"""State on disk: trees of plain tensors and numbers, one file each.

A checkpoint is one safetensors file with a checksum (see `sealed`); one of its tensors is the text
of a JSON document that holds everything else. Nothing is pickled.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor

from gradevo import sealed
from gradevo.disk import explaining, replacing
from gradevo.errors import CheckpointError

_CLASSES: dict[str, type] = {}
T = TypeVar("T", bound=type)
Found = dict[int, tuple[int, Tensor]]  # by identity, so that a tensor is stored once


def storable(cls: T) -> T:
    """Class decorator: a dataclass of tensors, numbers and generators may go on disk."""
    _CLASSES[cls.__name__] = cls
    return cls


# --- between objects and (tensors, JSON) ---------------------------------------------------


def pack(value: Any, tensors: Found) -> Any:
    """JSON for a tree of plain values; its tensors go to `tensors` and leave their number.

    Raises:
        TypeError: a value that is neither plain nor `storable`.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return {"tensor": tensors.setdefault(id(value), (len(tensors), value))[0]}
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
    """The tree that `pack` took apart.

    Raises:
        LookupError, RuntimeError, TypeError, ValueError: it is none.
    """
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if not isinstance(node, dict):
        raise TypeError(f"a {type(node).__name__} that is no part of a tree")
    if "class" in node:
        return _instance(_CLASSES[node["class"]], unpack(node["fields"], tensors))
    ((kind, inner),) = node.items()
    if kind == "tensor":
        return tensors[str(inner)]
    if kind == "generator":
        generator = torch.Generator()
        generator.set_state(unpack(inner, tensors))
        return generator
    if kind == "dict":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in inner}
    items = [unpack(item, tensors) for item in inner]
    return {"list": list, "tuple": tuple}[kind](items)


def _instance(cls: type, found: dict[str, Any]) -> Any:
    """An object of all its fields: a default would be another value than the one that was saved."""
    names = {field.name for field in dataclasses.fields(cls)}
    if found.keys() != names:
        raise ValueError(f"{cls.__name__} with other fields: {sorted(names ^ found.keys())}")
    return cls(**found)


def strict(value: Any) -> Any:
    """Numbers as JSON has them for readers other than Python: NaN and infinity become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    return value


# --- between (tensors, JSON) and the disk --------------------------------------------------


def write(path: Path, value: Any) -> str:
    """Write a tree to one file, atomically; returns the file's checksum.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; what was at `path`
            is untouched.
        TypeError: a value or tensor that cannot be stored.
    """
    with replacing(path) as new:
        return dump(new, value)


def dump(path: Path, value: Any) -> str:
    """As `write`, but in place: for a file that does not count yet.

    Raises:
        OSError: it cannot be written.
        TypeError: a value or tensor that cannot be stored.
    """
    found: Found = {}
    text = json.dumps(pack(value, found)).encode()
    plain = {str(number): tensor for number, tensor in found.values()}
    plain["json"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return sealed.save(path, plain)


def read(path: Path) -> Any:
    """The tree that `write` left at `path`.

    Raises:
        CheckpointError: no file, a truncated, damaged or foreign one, or one of another version.
    """
    return read_with_checksum(path)[0]


def read_with_checksum(path: Path) -> tuple[Any, str]:
    """As `read`, and the file's checksum."""
    with explaining(sealed.WHOLE, path):
        tensors, about = sealed.load(path)
    try:
        text = tensors.pop("json").numpy().tobytes()
        return unpack(sealed.parsed(text), tensors), about["xxh3"]
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint: must {sealed.WHOLE}, got {error!r} for {path}"
        ) from error
