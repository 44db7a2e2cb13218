"""What can happen to a file: by chance, and by a tool that writes the right checksum.

A damage takes a random generator and a file, changes the file, and says what it did; None: it does
not apply to such a file.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradevo import sealed

Damage = Callable[[random.Random, Path, Path], str | None]  # with a file of another run's


# --- by chance -----------------------------------------------------------------------------


def flip(draw: random.Random, path: Path, other: Path) -> str:
    """One bit."""
    content = bytearray(path.read_bytes())
    at, bit = draw.randrange(len(content)), draw.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at}"


def flip_in_header(draw: random.Random, path: Path, other: Path) -> str:
    """One bit near the front, where lengths, names and the checksum are."""
    content = bytearray(path.read_bytes())
    at, bit = draw.randrange(min(len(content), 200)), draw.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at}"


def scribble(draw: random.Random, path: Path, other: Path) -> str:
    """Some bytes in a row, by zeros or noise."""
    content = bytearray(path.read_bytes())
    at, count = draw.randrange(len(content)), draw.choice((1, 2, 8, 64, 512))
    noise = bytes(count) if draw.random() < 0.3 else draw.randbytes(count)
    content[at : at + count] = noise[: len(content) - at]
    path.write_bytes(content)
    return f"{count} bytes at {at}"


def cut(draw: random.Random, path: Path, other: Path) -> str:
    size = draw.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"cut to {size} bytes"


def insert(draw: random.Random, path: Path, other: Path) -> str:
    content = path.read_bytes()
    at, noise = draw.randrange(len(content) + 1), draw.randbytes(draw.choice((1, 8, 100)))
    path.write_bytes(content[:at] + noise + content[at:])
    return f"{len(noise)} bytes more at {at}"


def delete(draw: random.Random, path: Path, other: Path) -> str:
    content = path.read_bytes()
    at, count = draw.randrange(len(content)), draw.choice((1, 8, 100))
    path.write_bytes(content[:at] + content[at + count :])
    return f"{count} bytes fewer at {at}"


def length(draw: random.Random, path: Path, other: Path) -> str | None:
    """Another length of the header."""
    if path.suffix != ".safetensors":
        return None
    content = path.read_bytes()
    size = draw.choice((0, 1, len(content), 2**31, 2**63, 2**64 - 1, draw.randrange(len(content))))
    path.write_bytes(size.to_bytes(8, "little") + content[8:])
    return f"a header of {size} bytes"


def replaced(draw: random.Random, path: Path, other: Path) -> str:
    """Something else in the file's place."""
    path.unlink()
    kind = draw.choice(("nothing", "empty", "folder", "pipe", "loop", "text", "null device"))
    if kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "text":
        path.write_text("[" * draw.choice((5, 100_000)))
    elif kind == "null device":
        path.symlink_to("/dev/zero")
    return kind


def swapped(draw: random.Random, path: Path, other: Path) -> str:
    """The file of that name of another run."""
    shutil.copyfile(other, path)
    return "of another run"


# --- with the right checksum ---------------------------------------------------------------


def another_tensor(draw: random.Random, path: Path, other: Path) -> str | None:
    """A tensor of another shape or type, or with NaN."""
    if path.suffix != ".safetensors":
        return None
    tensors = sealed.load(path)[0]
    name = draw.choice([name for name in tensors if name != "json"])
    made = [make for make in TENSORS if TENSORS[make](tensors[name]) is not None]
    kind = draw.choice(made)
    old, new = tensors[name], TENSORS[kind](tensors[name])
    assert new is not None
    sealed.save(path, {**tensors, name: new})
    return f"tensor {name}, {old.dtype} {tuple(old.shape)}: {kind}"


TENSORS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "a row more": lambda t: torch.cat([t, t[:1]]) if t.dim() and len(t) else None,
    "a row fewer": lambda t: t[1:].clone() if t.dim() and len(t) else None,
    "an axis more": lambda t: t.unsqueeze(-1).clone(),
    "flat": lambda t: t.flatten().clone() if t.dim() != 1 else None,
    "none": lambda t: t.new_zeros(0) if t.numel() else None,
    "one number": lambda t: t.new_zeros(()) if t.dim() else None,
    "double": lambda t: t.double() if t.dtype == torch.float32 else None,
    "half": lambda t: t.half() if t.is_floating_point() else None,
    "whole": lambda t: t.nan_to_num(0.0, 0.0, 0.0).long() if t.is_floating_point() else None,
    "bytes": lambda t: t.to(torch.uint8) if t.dtype == torch.int64 else None,
    "negative": lambda t: -t.abs() - 1 if t.dtype == torch.int64 and t.numel() else None,
    "NaN": lambda t: torch.full_like(t, torch.nan) if t.is_floating_point() else None,
    "one NaN": lambda t: with_nan(t) if t.is_floating_point() and t.numel() else None,
}


def with_nan(t: Tensor) -> Tensor:
    t = t.clone()
    t.view(-1)[0] = torch.nan
    return t


def another_value(draw: random.Random, path: Path, other: Path) -> str | None:
    """A plain value of another type or out of its range."""
    if path.suffix != ".safetensors":
        return None
    tensors = sealed.load(path)[0]
    tree = json.loads(tensors["json"].numpy().tobytes())
    places = list(leaves(tree, ()))
    place, old = draw.choice(places)
    new = draw.choice(wrong(old))
    parent = tree
    for step in place[:-1]:
        parent = parent[step]
    parent[place[-1]] = new
    text = bytearray(json.dumps(tree).replace('"DEEP"', "[" * 5000 + "]" * 5000).encode())
    sealed.save(path, {**tensors, "json": torch.frombuffer(text, dtype=torch.uint8)})
    return f"{'/'.join(map(str, place))}: {str(old)[:40]} becomes {str(new)[:40]}"


def leaves(node: Any, place: tuple[Any, ...]) -> Any:
    """Plain values in a document, with where they stand."""
    if isinstance(node, dict) and list(node) == ["tensor"]:
        return
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            yield from leaves(value, (*place, key))
    elif place:
        yield place, node


def wrong(value: Any) -> list[Any]:
    """What may not stand for a value."""
    deep: list[Any] = ["DEEP", {"dict": []}, {"tensor": 10**6}, {"class": "Nobody", "fields": {}}]
    if value is None:
        return [*deep, "text", -1, {"list": [None]}]
    if isinstance(value, bool):
        return [*deep, "text", 2, None]
    if isinstance(value, int):
        return [*deep, "text", -1 - abs(value), 10**30, 1.5, None]
    if isinstance(value, float):
        return [*deep, "text", True]
    return [*deep, value + "?", 7, None]


def fewer_names(draw: random.Random, path: Path, other: Path) -> str | None:
    """A field that is not there."""
    if path.suffix != ".safetensors":
        return None
    tensors = sealed.load(path)[0]
    tree = json.loads(tensors["json"].numpy().tobytes())
    dicts = [d for d in inner_dicts(tree) if d]
    pairs = draw.choice(dicts)
    gone = pairs.pop(draw.randrange(len(pairs)))
    text = bytearray(json.dumps(tree).encode())
    sealed.save(path, {**tensors, "json": torch.frombuffer(text, dtype=torch.uint8)})
    return f"without {str(gone)[:40]}"


def inner_dicts(node: Any) -> Any:
    """The dicts of names in a document, as lists of pairs."""
    if isinstance(node, dict):
        if list(node) == ["dict"] and all(isinstance(pair[0], str) for pair in node["dict"]):
            yield node["dict"]
        for value in node.values():
            yield from inner_dicts(value)
    elif isinstance(node, list):
        for value in node:
            yield from inner_dicts(value)


def another_number(draw: random.Random, path: Path, other: Path) -> str | None:
    """A generation under another number, and beside it an empty newer one."""
    if not path.parent.name.startswith("generation-"):
        return None
    root, old = path.parent.parent, path.parent
    if draw.random() < 0.5:
        (root / "generation-000009").mkdir()
        return "an empty newer generation"
    old.rename(root / "generation-000007")
    return "another number in the folder's name"


DAMAGES: list[Damage] = [
    flip, flip, flip_in_header, scribble, cut, insert, delete, length, replaced, swapped,
    another_tensor, another_tensor, another_value, another_value, fewer_names, another_number,
]  # fmt: skip
