"""State dicts on disk: a safetensors file, or torch's own format without code in it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gradevo.disk import replacing
from gradevo.errors import ExportError
from gradevo.export.several import members_of
from gradevo.result import Ensemble


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a module on the CPU; of an ensemble, that of a list of its members.

    No two tensors share memory, tied ones neither: safetensors refuses that, and torch would
    write the whole population that a view is part of.

    Raises:
        ExportError: the state dict holds something else than tensors.
    """
    if isinstance(module, Ensemble):
        module = nn.ModuleList(members_of(module))
    state = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ExportError(
                f"module: must have a state dict of tensors, got {type(value).__name__} as {name}"
            )
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def write(state: Mapping[str, Tensor], path: Path, to: str, facts: dict[str, str]) -> None:
    """Write a state dict, whole or not at all.

    Args:
        state: tensors that share no memory.
        path: the file.
        to: "safetensors" or "state-dict"; the second has no room for `facts`.
        facts: text by name.

    Raises:
        CheckpointError: the file cannot be written.
    """
    with replacing(path) as new:
        if to == "safetensors":
            save_file(dict(state), new, metadata={"format": "pt", **facts})
        else:
            torch.save(dict(state), new)
