"""A front on disk: read, picked from and written as state dicts without its networks' code."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors.torch import save_file
from torch import Tensor

from gradevo import disk, kept
from gradevo.errors import CheckpointError
from gradevo.structure import Tensors
from gradevo.tradeoff import Tradeoff


@dataclass
class FrontFile:
    """What the folder of a front holds.

    Attributes:
        points: the members' numbers.
        tensors: the members', stacked, `(n, ...)` each, each once.
        keys: the tensor's name for every key of a network's state dict; tied ones share it.
        history: one dict of numbers a generation.
        member_steps: forward-backward passes of one network, summed over the members.
        engine: what computed them.
    """

    points: Tradeoff
    tensors: Tensors
    keys: dict[str, str]
    history: list[dict[str, Any]]
    member_steps: int
    engine: str

    def write(self, folder: str | Path) -> None:
        """Write the tensors and numbers, and `history.json` to read.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        kept.put_away(Path(folder), {**vars(self), "points": vars(self.points)})

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read what `write` wrote.

        Raises:
            CheckpointError: no front there, or a damaged one.
        """
        value = kept.read(folder)
        if "points" not in value:
            raise CheckpointError(
                f"checkpoint: must hold a front, got the result of another method in {folder}"
            )
        return cls(**{**value, "points": Tradeoff(**value["points"])})

    def state_dict(self, i: int) -> dict[str, Tensor]:
        """State dict of member `i`, as its module would give it; no two tensors share memory."""
        return {key: self.tensors[name][i].clone() for key, name in self.keys.items()}

    def write_network(self, i: int, path: Path) -> None:
        """Write the state dict of member `i` to a safetensors file, which `load_file` reads.

        Raises:
            CheckpointError: the file cannot be written.
        """
        tensors = {key: tensor.contiguous() for key, tensor in self.state_dict(i).items()}
        with disk.replacing(path) as new:
            save_file(tensors, new, metadata={"format": "pt"})
