"""What a run with several objectives hands over: networks from sparse to dense, to pick from."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import nn

from gradevo import showing
from gradevo.frontfile import FrontFile
from gradevo.kept import restored
from gradevo.population import Build, Population
from gradevo.result import described
from gradevo.structure import keys_of
from gradevo.tradeoff import Tradeoff


@dataclass(repr=False)
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
        >>> import torch
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
    history: list[dict[str, Any]]
    member_steps: int
    engine: str

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return described(
            type(self).__name__,
            self.points.ranges,
            self.members.view(0),
            f"{len(self.history)} generations, {self.member_steps:,} member-steps, "
            f"engine {self.engine}",
        )

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

    def gather(self) -> "Front":
        """The front with all its networks in this process: as it is, unless there are several."""
        return self

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
