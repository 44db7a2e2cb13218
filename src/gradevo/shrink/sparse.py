"""Modules on disk in files whose size follows the weights that are not zero.

A file is one safetensors file. A tensor is in it as it is, under `dense/name`; or as its
non-zero entries, under `values/name`, with their positions, under `gaps/name` or `mask/name`,
as `gradevo.shrink.nonzeros` has them. Format, shapes and a checksum are in the header.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gradevo import sealed
from gradevo.disk import explaining, replacing
from gradevo.errors import CheckpointError
from gradevo.shrink.nonzeros import check_parts, decoded, encoded
from gradevo.structure import Tensors, tensors_of

FORMAT = 1
_KEY = "gradevo-sparse"  # of the file's metadata
_WHOLE = "be a whole sparse gradevo file (this one is missing, truncated, damaged or foreign)"


@dataclass(frozen=True)
class _Stored:
    """A tensor as it is in a file."""

    shape: tuple[int, ...]
    parts: dict[str, Tensor]  # by kind

    @property
    def dtype(self) -> torch.dtype:
        return (self.parts["dense"] if "dense" in self.parts else self.parts["values"]).dtype


def save(module: nn.Module, path: str | Path) -> None:
    """Write the tensors of a module to one small file, atomically.

    Parameters and buffers are written, each once even if it is tied. Every bit comes back, those
    of NaN as well, but that -0.0 comes back as 0.0: masks make many of them, which should cost
    nothing. Single precision of which a twentieth is not zero takes about 6 % of a dense file,
    a hundredth 1.3 %, and a half 53 %.

    Args:
        module: on any device; what is no tensor is not written.
        path: the file; what was there is replaced, once the new one is whole.

    Raises:
        TypeError: a tensor of a type that safetensors does not store.
        CheckpointError: the disk is full or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> net = nn.Linear(1000, 1000)
        >>> _ = nn.init.sparse_(net.weight, 0.95)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(net, Path(folder) / "net")
        ...     back = load(Path(folder) / "net", lambda: nn.Linear(1000, 1000))
        ...     (Path(folder) / "net").stat().st_size < 300_000  # dense: 4,004,000
        True
        >>> torch.equal(back.weight, net.weight)
        True
    """
    entries: Tensors = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors_of(module).items():
        _check_type(name, tensor)
        shapes[name] = list(tensor.shape)
        entries |= {f"{kind}/{name}": part for kind, part in encoded(tensor).items()}
    with replacing(Path(path)) as new:
        sealed.save(new, entries, **{_KEY: str(FORMAT)}, shapes=json.dumps(shapes))


def load(path: str | Path, build: Callable[[], nn.Module]) -> nn.Module:
    """A module that `build` made, with the tensors that `save` wrote: the same bits, but for -0.0.

    Args:
        path: the file.
        build: makes a module of the architecture that was saved; its device and mode stay.

    Raises:
        TypeError: `build` gives no module.
        CheckpointError: no file, a truncated or foreign one, one of another version, or one of
            another architecture: then the message names the tensors that differ.
    """
    module = build()
    if not isinstance(module, nn.Module):
        raise TypeError(f"build: must give an nn.Module, got {type(module).__name__}")
    path, wanted = Path(path), tensors_of(module)
    found = _read(path)
    _check_same(found, wanted, path)
    with _explaining_damage(path):
        tensors = {name: decoded(stored.parts, stored.shape) for name, stored in found.items()}
    for name, tensor in wanted.items():
        tensor.copy_(tensors[name])
    return module


def _read(path: Path) -> dict[str, _Stored]:
    """What a file holds, by name of the tensor."""
    with _explaining_damage(path):
        entries, about = sealed.load(path)
        _check_format(about.get(_KEY), path)
        shapes = sealed.parsed(about["shapes"].encode())
        found = {name: _Stored(tuple(shape), {}) for name, shape in shapes.items()}
        for entry, tensor in entries.items():
            kind, _, name = entry.partition("/")
            found[name].parts[kind] = tensor
        for stored in found.values():
            check_parts(stored.parts)
    return found


def _check_format(found: str | None, path: Path) -> None:
    if found is None:
        raise CheckpointError(
            f"checkpoint: must be a sparse gradevo file, got another one in {path}"
        )
    if found != str(FORMAT):
        raise CheckpointError(
            f"checkpoint: must be of format {FORMAT}, got format {found} in {path}; "
            "it was written by another version of gradevo"
        )


def _check_same(found: dict[str, _Stored], wanted: Tensors, path: Path) -> None:
    """Raise if the file is of another architecture; say which tensors differ."""
    rule = "checkpoint: must hold the tensors of the module that build makes"
    if found.keys() != wanted.keys():
        here, there = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
        raise CheckpointError(f"{rule}, got {there} only in {path} and {here} only in the module")
    for name, tensor in wanted.items():
        theirs, mine = found[name], tuple(tensor.shape)
        if theirs.shape != mine or theirs.dtype != tensor.dtype:
            raise CheckpointError(
                f"{rule}, got {name!r} of shape {theirs.shape} ({theirs.dtype}) in {path} and "
                f"{mine} ({tensor.dtype}) in the module"
            )


def _check_type(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in sealed.NAMES:
        raise TypeError(
            "module: must hold tensors of types that safetensors stores, "
            f"got {name!r} of {tensor.dtype}"
        )


@contextmanager
def _explaining_damage(path: Path) -> Iterator[None]:
    """Say of what cannot be understood which file it was."""
    try:
        with explaining(_WHOLE, path):
            yield
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise CheckpointError(f"checkpoint: must {_WHOLE}, got {e!r} for {path}") from e
