"""What a run hands over: the best network, the ensemble, the soup, all members, the history."""

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from gradevo import checkpoint, trees
from gradevo.engines import known
from gradevo.errors import CheckpointError
from gradevo.population import Build, Population
from gradevo.structure import Tensors, keys_of, with_tensors

FILE = "result.safetensors"


class Ensemble(nn.Module):
    """A module that averages its members' predictions.

    Args:
        members: the networks' population.
        probabilities: average softmax probabilities and return their logarithm, which
            cross-entropy and argmax take as logits; otherwise outputs are averaged as they are.

    It is called as a member is. Of outputs that are mappings or tuples every floating tensor is
    averaged, probabilities are those of the prediction (a mapping's `logits`, else the first
    tensor), and whole numbers are the best member's.
    """

    def __init__(self, members: Population, *, probabilities: bool) -> None:
        super().__init__()
        self.members = members
        self.probabilities = probabilities

    def forward(self, *inputs: Any, **named: Any) -> Any:
        outputs = self.members(self._batch(inputs, named))
        predicted = trees.prediction(outputs)
        return trees.each(lambda t: self._average(t) if t is predicted else _mean(t), outputs)

    def _batch(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What the call was given, as populations take it."""
        one = inputs[0] if len(inputs) == 1 else None
        if isinstance(one, Tensor) and not named:
            return one
        if inputs and named:
            own = inspect.signature(self.members.stacked.forward)
            return dict(own.bind(*inputs, **named).arguments)
        if isinstance(one, Mapping):  # a batch, or the only input
            return one if _takes(self.members.stacked, one) else inputs
        return inputs or named

    def _average(self, outputs: Tensor) -> Tensor:
        """`(g, B, ...)` to `(B, ...)`; classes are on axis 1 of a member's output."""
        if not self.probabilities:
            return outputs.mean(dim=0)
        logs = torch.log_softmax(outputs, dim=2)
        return torch.logsumexp(logs, dim=0) - math.log(len(outputs))


def _takes(module: nn.Module, named: Mapping[str, Any]) -> bool:
    """Whether a module's forward has inputs of these names."""
    try:
        inspect.signature(module.forward).bind(**named)
    except TypeError:
        return False
    return True


def _mean(outputs: Tensor) -> Tensor:
    """Of members' outputs `(g, ...)` that are no predictions; the first's whole numbers."""
    return outputs.mean(dim=0) if outputs.is_floating_point() else outputs[0]


@dataclass
class Result:
    """The outcome of `fit`.

    Attributes:
        members: the survivors, best first, in eval mode.
        losses: their validation losses, `(g,)`, float64.
        history: one dict of numbers a generation.
        member_steps: forward-backward passes of one network, summed over the members.
        engine: what computed them.
        probabilities: how `ensemble` averages.
        soup_tensors: weights of `soup`.
    """

    members: Population
    losses: Tensor
    history: list[dict[str, Any]]
    member_steps: int
    engine: str
    probabilities: bool
    soup_tensors: Tensors

    @property
    def best(self) -> nn.Module:
        """The member with the lowest validation loss, an ordinary module in eval mode."""
        return self.members.member(0).eval()

    @property
    def ensemble(self) -> nn.Module:
        """A module that averages the survivors' predictions, at g times the cost of `best`."""
        return Ensemble(self.members, probabilities=self.probabilities).eval()

    @property
    def soup(self) -> nn.Module:
        """One module, the mean of aligned survivors' weights.

        It is never worse than `best` on validation, since a survivor joins only if that does
        not raise the loss.
        """
        tensors = {name: tensor.clone() for name, tensor in self.soup_tensors.items()}
        return with_tensors(self.members.member(0), tensors).eval()

    def gather(self) -> "Result":
        """The result with all members in this process, as it is unless there are several."""
        return self

    def save(self, folder: str | Path) -> None:
        """Write the result to a folder: plain tensors and numbers, and `history.json` to read.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        value = {
            "tensors": self.members.tensors,
            "keys": keys_of(self.members.stacked),
            "losses": self.losses,
            "history": self.history,
            "member_steps": self.member_steps,
            "engine": self.engine,
            "probabilities": self.probabilities,
            "soup": self.soup_tensors,
        }
        put_away(Path(folder), value)

    @classmethod
    def load(cls, folder: str | Path, build: Build) -> Self:
        """Read what `save` wrote.

        Args:
            folder: where.
            build: returns a module of the saved architecture.

        Raises:
            CheckpointError: no result there, a damaged one, or another architecture.
        """
        value = checkpoint.read(Path(folder) / FILE)
        if "soup" not in value:
            raise CheckpointError(
                f"checkpoint: must hold a Result, got another in {folder}; a front is read by "
                "Front.load"
            )
        return cls(
            members=restored(build, value["tensors"], value["engine"], folder),
            losses=value["losses"],
            history=value["history"],
            member_steps=value["member_steps"],
            engine=value["engine"],
            probabilities=value["probabilities"],
            soup_tensors=value["soup"],
        )


# --- on the disk ---------------------------------------------------------------------------


def put_away(folder: Path, value: dict[str, Any]) -> None:
    """Write a tree of tensors and numbers, and its history once more for people to read."""
    checkpoint.write(folder / FILE, value)
    with checkpoint.replacing(folder / "history.json") as new:
        new.write_text(json.dumps(checkpoint.strict(value["history"]), indent=1))


def restored(build: Build, tensors: Tensors, engine: str, folder: str | Path) -> Population:
    """Members of stacked tensors that were saved in `folder`, in eval mode.

    Raises:
        CheckpointError: `build` returns another architecture.
    """
    first = next(iter(tensors.values()))
    members = Population(build, len(first), engine=engine if known(engine) else "auto")
    mine = {name: tuple(t.shape) for name, t in members.tensors.items()}
    theirs = {name: tuple(t.shape) for name, t in tensors.items()}
    if mine != theirs:
        raise CheckpointError(
            f"build: must return the architecture saved in {folder}, got tensors that "
            f"differ in {sorted(set(mine.items()) ^ set(theirs.items()))[:4]}"
        )
    if first.is_floating_point():
        members.to(first.dtype)
    members.load(tensors)
    return members.eval()
