"""Programs as ONNX files: one file each, run by onnxruntime before it counts."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from gradevo.disk import replacing
from gradevo.errors import ExportError
from gradevo.export.batches import Batch, checked_error
from gradevo.export.tracing import explained
from gradevo.trees import arguments, tensors

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 1_500_000_000  # bytes of weights; above, ONNX needs a second file
BATCH = "batch"  # the name of axis 0


def check_installed() -> None:
    """Refuse at once where a package is missing.

    Raises:
        ImportError: says which, and how to get it.
    """
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError as error:
            message = f"to: onnx needs {name}, got none; pip install 'gradevo[onnx]'"
            raise ImportError(message) from error


def check_size(module: nn.Module) -> None:
    """Refuse what would not be one file.

    Raises:
        ExportError: the weights are too many bytes.
    """
    size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    if size > LARGEST:
        raise ExportError(
            f"onnx: must have at most {LARGEST:,} bytes of weights to be one file, got {size:,}; "
            "torch-export has no such limit"
        )


def write(
    program: ExportedProgram, path: Path, tries: Sequence[Batch], facts: dict[str, str]
) -> float:
    """Write a program as an ONNX file and run it by onnxruntime.

    Returns:
        How far it is from the module, as `checked_error` says.

    Raises:
        ExportError: ONNX has not all operations of the program, or the file computes something
            else.
        CheckpointError: the file cannot be written.
    """
    model = _model(program, tries[0])
    for name, text in facts.items():
        model.metadata_props.add(key=name, value=text)
    with replacing(path) as new:
        new.write_bytes(model.SerializeToString())
        with explained("onnx"):
            session = _session(new)
            return max(checked_error(batch, _run(session, batch), "onnx") for batch in tries)


def _model(program: ExportedProgram, example: Batch) -> Any:
    """The program as ONNX has it, an `onnx.ModelProto`."""
    with explained("onnx"):
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            input_names=["input"] if len(tensors(example.inputs)) == 1 else None,
            output_names=_names(example.outputs),
        )
        assert exported is not None
        model = exported.model_proto
    _forget(model)
    _name_batches(model.graph)
    return model


def _names(outputs: Any) -> list[str]:
    """Names of outputs, by their places in what the module returns.

    Example:
        >>> x = torch.ones(1)
        >>> _names(x), _names((x, x)), _names({"logits": x, "states": (x, x)})
        (['output'], ['output_0', 'output_1'], ['logits', 'states_0', 'states_1'])
    """
    named = []
    for path, leaf in pytree.tree_flatten_with_path(outputs)[0]:
        if isinstance(leaf, Tensor):
            keys = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
            named.append("_".join(["output"] * (not keys or keys[0].isdigit()) + keys))
    return named


def _forget(model: Any) -> None:
    """Remove what the exporter notes of its way: code, and paths of this machine."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *values, *graph.node, *model.functions):
        del part.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]


def _name_batches(graph: Any) -> None:
    """Call axis 0 of the inputs what it is, wherever it comes back."""
    symbols = {value.type.tensor_type.shape.dim[0].dim_param for value in graph.input} - {""}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_param = BATCH


# --- running -------------------------------------------------------------------------------


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session: Any, batch: Batch) -> list[Tensor]:
    names = [given.name for given in session.get_inputs()]
    leaves = tensors(arguments(batch.inputs))
    feed = {name: leaf.numpy() for name, leaf in zip(names, leaves, strict=True)}
    return [torch.as_tensor(output) for output in session.run(None, feed)]
