"""What a run with several objectives hands over: networks from sparse to dense, to pick from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from gradevo import objectives as measures
from gradevo import showing
from gradevo.errors import DivergedError
from gradevo.fitness import evaluations
from gradevo.frontfile import FrontFile, keys_of
from gradevo.objectives import Objective
from gradevo.operators import masks as masking
from gradevo.population import Build, Population
from gradevo.problem import Problem
from gradevo.result import restored
from gradevo.structure import Tensors
from gradevo.tradeoff import Tradeoff


@dataclass
class Front:
    """The outcome of `fit` with `GEMONN`: the networks that no other of the run dominates.

    Their losses are on all validation rows, their densities counted from the weights that are
    not zero. A picked network is an ordinary module in eval mode, a copy, its zeros in place;
    `gradevo.shrink.compact` makes it smaller and `gradevo.shrink.save` its file.

    Attributes:
        members: the networks, sparsest first, in eval mode.
        points: their numbers; it has the picks as indices, too.
        history: one dict of numbers a generation.
        member_steps: forward-backward passes of one network, summed over the members.
        engine: what computed them.

    Example:
        >>> import gradevo as ge
        >>> x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
        >>> algorithm = ge.GEMONN(population=4, generations=6, steps=5, batch_size=16)
        >>> net = lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> front = ge.fit(algorithm, net, nn.MSELoss(), (x, x[:, :1]))
        >>> front.knee(x).shape
        torch.Size([80, 1])
    """

    members: Population
    points: Tradeoff
    history: list[dict[str, Any]] = field(repr=False)
    member_steps: int
    engine: str

    def __len__(self) -> int:
        return len(self.points)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Each member's sparsity, density, nonzeros, loss, accuracy (None where targets are no
        class labels) and the run's other objectives, by name."""
        return self.points.rows()

    # --- picks -------------------------------------------------------------------------

    @property
    def knee(self) -> nn.Module:
        """The network furthest below the line from the sparsest to the best one.

        Density and loss count as shares of their ranges on the front.
        """
        return self._network(self.points.knee)

    def best(self, min_sparsity: float = 0.0) -> nn.Module:
        """The network with the lowest validation loss of at least this sparsity.

        Raises:
            ValueError: `min_sparsity` is not in [0, 1], or no network is as sparse.
        """
        return self._network(self.points.best(min_sparsity))

    def sparsest(self, max_loss: float = math.inf) -> nn.Module:
        """The network with the fewest non-zeros of at most this validation loss.

        Raises:
            ValueError: no network has so low a loss.
        """
        return self._network(self.points.sparsest(max_loss))

    def _network(self, i: int) -> nn.Module:
        return self.members.member(i).eval()

    # --- to look at and to keep --------------------------------------------------------

    def table(self, most: int | None = None) -> str:
        """The members' numbers as a Markdown table, a line a member.

        Args:
            most: lines, at least 4; of more members, the ends, the knee, the best and some
                between are shown.
        """
        return showing.table(self.points, most)

    def plot(self, path: str | Path) -> None:
        """A figure: loss by density, and accuracy where it is known.

        Args:
            path: the file; its ending says the format, ".png" or ".svg" for example.

        Raises:
            ImportError: matplotlib is not installed: pip install 'gradevo[plot]'.
            ValueError: matplotlib knows no such format.
            CheckpointError: the file cannot be written.
        """
        showing.plot(self.points, Path(path))

    def save(self, folder: str | Path) -> None:
        """Write the front to a folder: plain tensors and numbers, and `history.json` to read.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        numbers = self.history, self.member_steps, self.engine
        keys = keys_of(self.members.stacked)
        FrontFile(self.points, self.members.tensors, keys, *numbers).write(folder)

    @classmethod
    def load(cls, folder: str | Path, build: Build) -> Self:
        """Read what `save` wrote.

        Args:
            folder: where.
            build: returns a module of the saved architecture.

        Raises:
            CheckpointError: no front there, a damaged one, or another architecture.
        """
        file = FrontFile.read(folder)
        members = restored(build, file.tensors, file.engine, folder)
        return cls(members, file.points, file.history, file.member_steps, file.engine)


# --- from a run ----------------------------------------------------------------------------


def front_of(
    problem: Problem,
    objectives: Sequence[Objective],
    tensors: Tensors,
    history: list[dict[str, Any]],
) -> Front:
    """The members of a run that no other dominates, measured on all validation rows.

    Args:
        problem: its population is loaded with the members.
        objectives: the run's.
        tensors: of all members, stacked.
        history: the run's.

    Raises:
        DivergedError: no member's loss is finite.
    """
    population = problem.population
    points = _measured(problem, objectives, tensors)
    chosen = points.front()
    if not len(chosen):
        raise DivergedError(
            "loss: must be finite on the validation rows for at least one member, got NaN or "
            f"infinity for all {len(points)}"
        )
    population.load(tensors)
    members = population.select(chosen).eval()
    steps = history[-1]["member_steps"] if history else 0
    engine = population.engine if population.engine != "auto" else problem.alone.population.engine
    return Front(members, points.take(chosen), history, steps, engine)


def _measured(problem: Problem, objectives: Sequence[Objective], tensors: Tensors) -> Tradeoff:
    names = masking.prunable(tensors, problem.population.structure.trainable)
    masks = masking.of_values(tensors, names)
    problem.population.load(tensors)
    losses, right = evaluations(problem.population, [problem.loss, share_right], *problem.valid)
    found = measures.columns(problem, objectives, tensors, masks, losses)
    return Tradeoff(
        weights=masking.total(masks),
        nonzeros=masking.count(masks),
        losses=losses,
        accuracies=None if bool(right.isnan().all()) else right,
        others=_others(objectives, found),
    )


def _others(objectives: Sequence[Objective], found: Tensor) -> dict[str, Tensor]:
    """Columns by name but for density and loss; functions of one name are numbered."""
    others: dict[str, Tensor] = {}
    taken = {"sparsity", "density", "nonzeros", "loss", "accuracy"}
    for objective, column in zip(objectives, found.unbind(dim=1), strict=True):
        if objective in ("density", "loss"):
            continue
        known = objective if isinstance(objective, str) else getattr(objective, "__name__", "")
        name, count = known or type(objective).__name__, 2
        while name in taken | others.keys():
            name, count = f"{known} {count}", count + 1
        others[name] = column
    return others


def share_right(output: Any, target: Tensor) -> Tensor:
    """Share of labels whose output is the largest; NaN where targets are no class labels.

    Labels are whole numbers from 0 to C-1, classes are on axis 1; others, as ignored ones are,
    do not count.

    Example:
        >>> share_right(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        tensor(0.5000, dtype=torch.float64)
    """
    one_each = isinstance(output, Tensor) and output.dim() > 1 and output.shape[1] > 1
    if target.is_floating_point() or not one_each or output[:, 0].shape != target.shape:
        return torch.tensor(torch.nan, dtype=torch.float64)
    known = (target >= 0) & (target < output.shape[1])
    return (output.argmax(dim=1) == target)[known].double().mean()
