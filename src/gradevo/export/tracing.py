"""Modules as programs, by torch.export: traced, written and run again."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from gradevo.disk import replacing
from gradevo.errors import ExportError
from gradevo.export.batches import Batch, checked_error
from gradevo.export.named import is_open, with_names
from gradevo.randomness import generator_from, isolated
from gradevo.trees import arguments, call, tensors

INSTEAD = "safetensors and state-dict still keep its weights"
FACTS = "gradevo.json"  # in a .pt2 file


def traced(module: nn.Module, inputs: Any, to: str) -> ExportedProgram:
    """The program of a module, for any number of rows.

    Args:
        module: in eval mode, on the CPU; tracing may alter it.
        inputs: a batch of two rows or more.
        to: the format, for the error.

    Raises:
        ExportError: torch cannot trace the module, or only for a fixed number of rows.
    """
    given, named = arguments(inputs)
    if is_open(module):
        module = with_names(module, list(named))
    shapes = ShapesCollection()
    for tensor in tensors(inputs):
        shapes[tensor] = {0: Dim.DYNAMIC}
    with explained(to), torch.no_grad(), isolated(generator_from(0), torch.device("cpu")):
        program = torch.export.export(module, given, named, dynamic_shapes=cast(Any, shapes))
    program.example_inputs = None  # rows may be private
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def write(
    program: ExportedProgram, path: Path, tries: Sequence[Batch], facts: dict[str, str]
) -> float:
    """Write a program as torch does, read it back and run it.

    Returns:
        How far it is from the module, as `checked_error` says.

    Raises:
        ExportError: it computes something else.
        CheckpointError: the file cannot be written.
    """
    to = "torch-export"
    with replacing(path) as new, explained(to):
        torch.export.save(program, new, extra_files={FACTS: json.dumps(facts)})
        back = torch.export.load(new).module()
        with torch.no_grad():
            return max(checked_error(batch, tensors(_run(back, batch)), to) for batch in tries)


def _run(module: nn.Module, batch: Batch) -> Any:
    return call(module, batch.inputs)


# --- torch's own words ---------------------------------------------------------------------


@contextmanager
def explained(to: str) -> Iterator[None]:
    """What torch prints, logs and warns of is left out; what it raises becomes one line."""
    try:
        with _quiet():
            yield
    except (ExportError, OSError):
        raise
    except Exception as error:  # of any kind: exporters have no common one
        raise ExportError(f"{to}: cannot hold this module: {reason(error)}; {INSTEAD}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def reason(error: BaseException) -> str:
    """One line of what is pages in torch."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("specialized it to be a constant" in line for line in lines):
        return "its forward fixes the number of rows"
    if any("data-dependent" in line for line in lines):
        code = _after(lines, "The following call raised this error:")
        return "what its forward does depends on values" + (f", at `{code}`" if code else "")
    return lines[0].rstrip(".") if lines else type(error).__name__


def _after(lines: Sequence[str], head: str) -> str:
    """The line of code that torch shows after a head line and the file's name."""
    place = lines.index(head) + 2 if head in lines else len(lines)
    return lines[place] if place < len(lines) else ""
