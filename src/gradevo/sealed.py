"""Files with a checksum over all of their bytes, so that none can change unnoticed.

Tensors are in a safetensors file whose header begins with the metadata: the format, and XXH3 of
the file as it is with zeros where the checksum stands. A JSON document has it as its first entry.
A file is read once, from the front, and nothing of it is handed over before its checksum is known
to be right. It is read, not mapped: a mapped file that is cut short meanwhile ends the process.
"""

import json
import os
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_128

from gradevo.disk import BUFFER, opened, replacing, text_of
from gradevo.errors import CheckpointError

FORMAT = 2
ZEROS = "0" * 32
PLACE = 8 + len('{"__metadata__":{"xxh3":"')  # of the checksum in a file of tensors
LONGEST = 10**8  # bytes of a header, as safetensors has it
DEEPEST = 256  # nested lists and objects of JSON: parsers are recursive
WHOLE = "be a whole gradevo file (this one is missing, truncated, damaged or foreign)"
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in TYPES.items()}


# --- tensors -------------------------------------------------------------------------------


def save(path: Path, tensors: Mapping[str, Tensor], **about: str) -> str:
    """Write tensors, one after another and without a copy of all; returns the checksum.

    Args:
        path: the file.
        tensors: by name.
        about: further entries of the metadata.

    Raises:
        OSError: the disk is full, or `path` cannot be written.
        TypeError: a tensor of a type that safetensors does not store.
    """
    names = sorted(tensors, key=lambda name: -tensors[name].element_size())  # keeps them aligned
    header = _header({name: tensors[name] for name in names}, about)
    digest = xxh3_128()
    with open(path, "wb") as file:
        for part in (header, *(_bytes(tensors[name]) for name in names)):
            for start in range(0, len(part), BUFFER):
                chunk = part[start : start + BUFFER]
                digest.update(chunk)
                file.write(chunk)
        file.seek(PLACE)
        file.write(digest.hexdigest().encode())
    return digest.hexdigest()


def _header(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> memoryview:
    entries: dict[str, Any] = {"__metadata__": {"xxh3": ZEROS, "gradevo": str(FORMAT), **about}}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise TypeError(f"state: must be tensors that safetensors stores, got {tensor.dtype}")
        start, end = end, end + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        entries[name] = {"dtype": NAMES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return memoryview(len(text).to_bytes(8, "little") + text)


def _bytes(tensor: Tensor) -> memoryview:
    """A tensor's memory, on the CPU and in order; the tensor's own where it is so."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return memoryview(plain.reshape(-1).view(torch.uint8).numpy().data)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file that `save` wrote, in memory of their own, and its metadata.

    Raises:
        CheckpointError: a file of another kind or version, or a damaged one.
        OSError: there is none, or it is no regular file.
    """
    with opened(path) as file:
        return _Reading(file, path).everything()


class _Reading:
    """One pass through a file; all that a header says is held against the file's size."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path, self.digest = file, path, xxh3_128()
        self.left = os.fstat(file.fileno()).st_size

    def everything(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        about, entries = self._parsed(self._header())
        tensors, start = {}, 0
        for name, entry in entries.items():
            dtype, shape, end = self._entry(entry, start)
            tensors[name] = torch.empty(shape, dtype=dtype)
            self._fill(_bytes(tensors[name]))
            start = end
        if self.left or about["xxh3"] != self.digest.hexdigest():
            self._refuse("another checksum than its own")
        if any(t.view(torch.uint8).max() > 1 for t in tensors.values() if _truths(t)):
            self._refuse("truth values that are neither 0 nor 1")
        return tensors, about

    def _header(self) -> bytearray:
        size = bytearray(8)
        self._fill(memoryview(size))
        length = int.from_bytes(size, "little")
        if not 0 < length <= min(self.left, LONGEST):
            self._refuse(f"a header of {length} bytes")
        text = bytearray(length)
        self._read(memoryview(text))
        return text

    def _parsed(self, text: bytearray) -> tuple[dict[str, Any], dict[str, Any]]:
        """The metadata that a header has, and its other entries."""
        try:
            entries = parsed(bytes(text))
            about = entries.pop("__metadata__", {})
            _check_format(about.get("gradevo"), self.path)
        except (AttributeError, TypeError, ValueError):
            self._refuse("a header that is none")
        start, said = PLACE - 8, about.get("xxh3")
        if text[start : start + len(ZEROS)] != str(said).encode():
            self._refuse("no checksum in its place")
        text[start : start + len(ZEROS)] = ZEROS.encode()
        self.digest.update(text)
        return about, entries

    def _entry(self, entry: Any, start: int) -> tuple[torch.dtype, list[int], int]:
        """Type, shape and end of the tensor that begins at `start`."""
        try:
            dtype, shape = TYPES[entry["dtype"]], entry["shape"]
            first, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            self._refuse("an entry that is no tensor")
        numbers = [*shape, first, end] if isinstance(shape, list) else [None]
        if not all(type(number) is int and number >= 0 for number in numbers):
            self._refuse("a tensor of no shape")
        if first != start or end - start != prod(shape) * dtype.itemsize or end - start > self.left:
            self._refuse("a tensor that is not where it should be")
        return dtype, shape, end

    def _fill(self, target: memoryview) -> None:
        self._read(target, self.digest.update)

    def _read(self, target: memoryview, told: Any = None) -> None:
        at = 0
        while at < len(target):
            part = target[at : at + BUFFER]
            count = self.file.readinto(part)  # pyright: ignore[reportAttributeAccessIssue]
            if not count:
                self._refuse("fewer bytes than its header says")
            if told is not None:
                told(part[:count])
            at += count
        self.left -= at

    def _refuse(self, found: str) -> NoReturn:
        raise CheckpointError(f"checkpoint: must {WHOLE}, got {found} for {self.path}")


def _truths(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bool and tensor.numel() > 0


def _check_format(found: Any, path: Path) -> None:
    if found is None:
        raise CheckpointError(f"checkpoint: must be a gradevo file, got another one in {path}")
    if found != str(FORMAT):
        raise CheckpointError(
            f"checkpoint: must be of format {FORMAT}, got format {found} in {path}; "
            "it was written by another version of gradevo"
        )


# --- JSON ----------------------------------------------------------------------------------


def parsed(text: bytes) -> Any:
    """A JSON document that is not nested too deep.

    Raises:
        ValueError: it is none, or it is.

    Example:
        >>> parsed(b'{"a": [1]}')
        {'a': [1]}
        >>> parsed(b"[" * 1000 + b"]" * 1000)
        Traceback (most recent call last):
        ValueError: JSON nested deeper than 256
    """
    if _depth(text) > DEEPEST:
        raise ValueError(f"JSON nested deeper than {DEEPEST}")
    try:
        return json.loads(text)
    except RecursionError:  # in a caller that is deep itself
        raise ValueError("JSON nested too deep") from None


def _depth(text: bytes) -> int:
    """How deep brackets are nested; those within strings count where it is not too deep anyway."""
    found = _nested(text)
    return found if found <= DEEPEST else _nested(re.sub(rb'"(?:[^"\\]|\\.)*"', b"", text))


def _nested(text: bytes) -> int:
    codes = np.frombuffer(text, np.uint8) & 0xDF  # "[" and "{" are one bit apart, as are "]", "}"
    steps = (codes == ord("[")).astype(np.int8) - (codes == ord("]")).astype(np.int8)
    return int(steps.cumsum(dtype=np.int32).max(initial=0))


def save_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object for people to read, atomically, with a checksum as its first entry.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    text = json.dumps({"xxh3": ZEROS, **value}, indent=1) + "\n"
    with replacing(path) as new:
        new.write_bytes(text.replace(ZEROS, xxh3_128(text.encode()).hexdigest(), 1).encode())


def load_json(path: Path) -> dict[str, Any] | None:
    """What `save_json` wrote, without the checksum; None where there is no file.

    Raises:
        CheckpointError: the file cannot be read, is damaged or was changed by hand.
    """
    text = text_of(path)
    if text is None:
        return None
    try:
        found = parsed(text.encode())
        said = str(found.pop("xxh3"))
    except (AttributeError, LookupError, TypeError, ValueError):
        found, said = {}, ""
    plain = text.replace(f'"xxh3": "{said}"', f'"xxh3": "{ZEROS}"', 1)
    if not said or xxh3_128(plain.encode()).hexdigest() != said:
        raise CheckpointError(
            f"checkpoint: must be a JSON object as gradevo wrote it, got a damaged file {path}"
        )
    return found
