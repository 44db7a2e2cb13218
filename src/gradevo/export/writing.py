"""One function for all formats."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gradevo.export import batches, onnxfile, tracing, weights
from gradevo.export.facts import noted
from gradevo.export.several import traceable
from gradevo.validation import one_of

FORMATS = {
    "onnx": (".onnx",),
    "torch-export": (".pt2",),
    "safetensors": (".safetensors",),
    "state-dict": (".pt", ".pth"),
}
WEIGHTS = ("safetensors", "state-dict")  # which need no example


@dataclass(frozen=True)
class Written:
    """What `write` left on the disk.

    Attributes:
        path: the file.
        to: its format.
        bytes: its size.
        error: the largest difference between an output of the file and of the module, as a share
            of the largest output or of 1, whichever is larger; None where a file holds weights
            only.
    """

    path: Path
    to: str
    bytes: int
    error: float | None


def write(
    module: nn.Module,
    path: str | Path,
    *,
    example: Any = None,
    to: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Written:
    """Write a network to one file that other programs read, whole or not at all.

    "onnx" and "torch-export" hold the computation, in eval mode, for batches of any number of
    rows. The file is run (by onnxruntime, or by torch after reading it back) on the example, on
    one of its rows and on more rows than it has, and what differs by more than 1e-5 of the scale
    of the outputs (half precision: by more than it rounds) is an error. No value of the example
    and no path of this machine is in the file. "safetensors" and "state-dict" hold the
    state dict only: the module's own class loads it.

    An ensemble is one file too: its members one after another and their average; its state dict
    is that of a `ModuleList` of the members.

    In an ONNX file a single input is called "input" and a single output "output"; several have
    the names in the forward and in the mapping returned, or "output_0", "output_1" in a tuple.
    Axis 0 is "batch".

    Args:
        module: any module, `result.best` or `result.ensemble` for example; it is not altered.
        path: the file; what was there is replaced once the new one is whole and right.
        example: a small batch of inputs, batch axis first, which the first two formats need: a
            tensor; a mapping, for modules called as `module(**example)`; a tuple, for
            `module(*example)`.
        to: "onnx", "torch-export", "safetensors" or "state-dict"; default: by the ending of
            `path`: .onnx, .pt2, .safetensors, .pt or .pth.
        about: what else to note in the file, plain values by name; gradevo's version is always
            noted. In the metadata of ONNX and safetensors each under "gradevo.NAME", in .pt2 an
            extra file "gradevo.json"; a state dict has no room for it.

    Returns:
        The file, its size, and how far its outputs are from the module's.

    Raises:
        TypeError: not a module, or an example that is something else.
        ValueError: no such format, or an example that the module cannot compute.
        ImportError: onnx, onnxscript or onnxruntime is missing: pip install 'gradevo[onnx]'.
        ExportError: torch cannot trace the module, the format cannot hold it, or the file
            computes something else. Nothing is left at `path` that was not there.
        CheckpointError: the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = write(net, Path(folder) / "net.pt2", example=torch.randn(5, 4))
        >>> written.to, written.error < 1e-5
        ('torch-export', True)
    """
    path, facts = Path(path), noted(about or {})
    to = format_of(path, to)
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: must be an nn.Module, got {type(module).__name__}")
    error = None
    if to in WEIGHTS:
        weights.write(weights.state_of(module), path, to, facts)
    else:
        error = _write_traced(module, path, example, to, facts)
    return Written(path, to, os.path.getsize(path), error)


def format_of(path: Path, to: str | None) -> str:
    """The format asked for, or that of the file's ending.

    Raises:
        ValueError: there is no such format, or no format has this ending.
    """
    if to is not None:
        one_of("to", to, FORMATS)
        return to
    for name, endings in FORMATS.items():
        if path.suffix.lower() in endings:
            return name
    known = ", ".join(ending for endings in FORMATS.values() for ending in endings)
    raise ValueError(f"path: must end in one of {known} unless `to` is given, got {path.name!r}")


def _write_traced(
    module: nn.Module, path: Path, example: Any, to: str, facts: dict[str, str]
) -> float:
    if to == "onnx":
        onnxfile.check_installed()
        onnxfile.check_size(module)
    tries = batches.of(module, batches.checked(example, to))
    program = tracing.traced(traceable(module), tries[0].inputs, to)
    write_program = onnxfile.write if to == "onnx" else tracing.write
    return write_program(program, path, tries, facts)
