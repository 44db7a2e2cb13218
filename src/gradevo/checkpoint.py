"""State on disk: one file of plain tensors and numbers, replaced whole or not at all.

A checkpoint is one safetensors file; one of its tensors is the text of a JSON document that
holds everything else. Nothing is pickled. It is written in a folder beside the old one and
renamed over it, so a kill at any instant leaves a good file.
"""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor

from gradevo.errors import CheckpointError

FORMAT = 1
UNFINISHED = ".unfinished-"  # folders in which files are written; a kill may leave one
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
    """The tree that `pack` took apart."""
    if not isinstance(node, dict):
        return node
    if "class" in node:
        return _CLASSES[node["class"]](**unpack(node["fields"], tensors))
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
    return tuple(items) if kind == "tuple" else items


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


def write(path: Path, value: Any) -> None:
    """Write a tree to one file, atomically.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; what was at `path`
            is untouched.
    """
    found: Found = {}
    text = json.dumps(pack(value, found)).encode()
    plain = {str(number): t.detach().cpu().contiguous() for number, t in found.values()}
    plain["json"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    with replacing(path) as new:
        save_file(plain, new, metadata={"gradevo": str(FORMAT)})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` once the block has ended well, whole or not at all.

    Raises:
        CheckpointError: as for `write`.
    """
    room = path.parent / f"{UNFINISHED}{os.getpid()}"
    try:
        with explaining("be writable (the last good one is kept)", path):
            room.mkdir(parents=True, exist_ok=True)
            yield room / path.name
            os.chmod(room / path.name, room.stat().st_mode & 0o666)  # as the umask has it
            flush(room / path.name)
            os.replace(room / path.name, path)
            if os.name == "posix":
                flush(path.parent)  # makes the renaming itself durable
    finally:
        shutil.rmtree(room, ignore_errors=True)


def clear_unfinished(folder: Path) -> None:
    """Remove what a kill left behind; good files are elsewhere."""
    for room in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(room, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explaining(rule: str, path: Path) -> Iterator[None]:
    """Say of what the system refuses which file it was and what is expected of it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"checkpoint: must {rule}, got {reason} for {path}") from error


def read(path: Path) -> Any:
    """The tree that `write` left at `path`.

    Raises:
        CheckpointError: no file, a truncated or foreign one, or one of another version.
    """
    whole = "be a whole gradevo file (this one is missing, truncated, damaged or foreign)"
    with explaining(whole, path), safe_open(path, framework="pt") as file:
        _check_format((file.metadata() or {}).get("gradevo"), path)
        # cloned, since older safetensors give a map of the file, aligned otherwise than it was
        names = list(file.keys())
        tensors = {name: file.get_tensor(name).clone() for name in names}
    try:
        return unpack(json.loads(bytes(tensors.pop("json").numpy())), tensors)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint: must {whole}, got {error!r} for {path}") from error


def _check_format(found: str | None, path: Path) -> None:
    if found is None:
        raise CheckpointError(f"checkpoint: must be a gradevo file, got another one in {path}")
    if found != str(FORMAT):
        raise CheckpointError(
            f"checkpoint: must be of format {FORMAT}, got format {found} in {path}; "
            "it was written by another version of gradevo"
        )
