"""What a run hands over: the best network, the ensemble, the soup, all members, the history."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from gradevo import kept, trees
from gradevo.errors import CheckpointError
from gradevo.population import Build, Population
from gradevo.structure import Tensors, keys_of, with_tensors


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


def described(kind: str, members: str, network: nn.Module, run: str) -> str:
    """What came of a run in five lines.

    Args:
        kind: of the outcome.
        members: on their losses.
        network: one of them, or all of them stacked.
        run: what it took.
    """
    name, count = type(network).__name__, sum(p.numel() for p in network.parameters())
    lines = f"  {members}", f"  network: {name}, {count:,} parameters", f"  run: {run}"
    return "\n".join([f"{kind}(", *lines, ")"])


@dataclass(repr=False)
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

    def __repr__(self) -> str:
        low, high = float(self.losses.min()), float(self.losses.max())
        return described(
            type(self).__name__,
            f"members: {len(self.losses)}, losses {low:.4g} to {high:.4g}",
            self.members.view(0),
            f"{len(self.history)} generations, {self.member_steps:,} member-steps, "
            f"engine {self.engine}",
        )

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
        kept.put_away(Path(folder), value)

    @classmethod
    def load(cls, folder: str | Path, build: Build) -> Self:
        """Read what `save` wrote.

        Args:
            folder: where.
            build: returns a module of the saved architecture.

        Raises:
            CheckpointError: no result there, a damaged one, or another architecture.
        """
        value = kept.read(folder)
        if "soup" not in value:
            raise CheckpointError(
                f"checkpoint: must hold a Result, got another in {folder}; a front is read by "
                "Front.load"
            )
        return cls(
            members=kept.restored(build, value["tensors"], value["engine"], folder),
            losses=value["losses"],
            history=value["history"],
            member_steps=value["member_steps"],
            engine=value["engine"],
            probabilities=value["probabilities"],
            soup_tensors=value["soup"],
        )
