"""The numbers of a front between density and loss, and what to pick from it."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradevo import validation
from gradevo.operators import pareto

PICKS = ("knee", "best", "sparsest")


@dataclass(frozen=True, eq=False, repr=False)
class Tradeoff:
    """Networks of one architecture by what they weigh and what they lose.

    Picks are indices here; `Front` has the same ones as networks.

    Attributes:
        weights: of one network, zero or not; at least 1.
        nonzeros: how many of them are not zero, `(n,)`, int64; n at least 1.
        losses: on validation rows, `(n,)`, float64, finite.
        accuracies: share of validation rows that are right, `(n,)`; None where targets are no
            class labels.
        others: further objectives by name, `(n,)` each.

    Example:
        >>> points = Tradeoff(100, torch.tensor([5, 20, 100]), torch.tensor([1.0, 0.2, 0.1]))
        >>> points.knee, points.sparsest(max_loss=0.15), points.best(min_sparsity=0.9)
        (1, 2, 0)
    """

    weights: int
    nonzeros: Tensor
    losses: Tensor
    accuracies: Tensor | None = None
    others: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.losses)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.ranges})"

    @property
    def ranges(self) -> str:
        """How many networks there are, and between which sparsities and losses."""
        sparsities, losses = self.sparsities, self.losses
        return (
            f"networks: {len(self)}, sparsity {float(sparsities.min()):.2%} to "
            f"{float(sparsities.max()):.2%}, losses {float(losses.min()):.4g} to "
            f"{float(losses.max()):.4g}"
        )

    @property
    def densities(self) -> Tensor:
        """Share of the weights that are not zero, `(n,)`, float64."""
        return self.nonzeros.double() / self.weights

    @property
    def sparsities(self) -> Tensor:
        """Share of the weights that are zero, `(n,)`, float64."""
        return (self.weights - self.nonzeros).double() / self.weights

    def take(self, indices: Tensor) -> "Tradeoff":
        """Some of the points, in that order."""
        right = self.accuracies
        return Tradeoff(
            self.weights,
            self.nonzeros[indices],
            self.losses[indices],
            None if right is None else right[indices],
            {name: values[indices] for name, values in self.others.items()},
        )

    def front(self) -> Tensor:
        """Indices of what no other point dominates and is finite, sparsest first.

        A point dominates another if it is nowhere worse, in non-zeros, loss and the other
        objectives, and somewhere better.
        """
        columns = [self.nonzeros.double(), self.losses, *self.others.values()]
        rows = torch.stack([column.double() for column in columns], dim=1)
        finite = self.losses.isfinite()
        rows = torch.where(finite.unsqueeze(1), rows, torch.nan)
        order = self.losses.argsort(stable=True)
        order = order[self.nonzeros[order].argsort(stable=True)]
        return order[((pareto.fronts(rows) == 0) & finite)[order]]

    def rows(self) -> list[dict[str, Any]]:
        """Plain numbers of each point, by name.

        Example:
            >>> Tradeoff(10, torch.tensor([1]), torch.tensor([0.5])).rows()
            [{'sparsity': 0.9, 'density': 0.1, 'nonzeros': 1, 'loss': 0.5, 'accuracy': None}]
        """
        columns = {
            "sparsity": self.sparsities,
            "density": self.densities,
            "nonzeros": self.nonzeros,
            "loss": self.losses,
            "accuracy": self.accuracies,
            **self.others,
        }
        lists = {
            name: [None] * len(self) if values is None else values.tolist()
            for name, values in columns.items()
        }
        return [{name: values[i] for name, values in lists.items()} for i in range(len(self))]

    # --- picks -------------------------------------------------------------------------

    @property
    def knee(self) -> int:
        """The point furthest below the line from the sparsest to the best one.

        Density and loss count as shares of their ranges between these two. Where no point is
        below the line, the sparsest one.
        """
        densities, losses = self.densities.tolist(), self.losses.tolist()
        first, last = self.sparsest(), self.best()
        width, height = densities[last] - densities[first], losses[first] - losses[last]
        if not width or not height:
            return first

        def below(i: int) -> float:  # 0 on the line; rounded, so that a straight front is one
            across = (densities[i] - densities[first]) / width
            down = (losses[first] - losses[i]) / height
            return round(down - across, 12)

        return max(range(len(self)), key=lambda i: (below(i), -densities[i]))

    def best(self, min_sparsity: float = 0.0) -> int:
        """The lowest loss among points of at least this sparsity.

        Raises:
            ValueError: `min_sparsity` is not in [0, 1], or no point is as sparse.
        """
        validation.share("min_sparsity", min_sparsity)
        sparsities, losses = self.sparsities.tolist(), self.losses.tolist()
        found = [i for i, sparsity in enumerate(sparsities) if sparsity >= min_sparsity]
        if not found:
            raise ValueError(
                "min_sparsity: must be at most that of the sparsest network, "
                f"{max(sparsities):.6g}, got {min_sparsity!r}"
            )
        return min(found, key=lambda i: (losses[i], -sparsities[i]))

    def sparsest(self, max_loss: float = math.inf) -> int:
        """The fewest non-zeros among points of at most this loss.

        Raises:
            ValueError: no point has so low a loss.
        """
        nonzeros, losses = self.nonzeros.tolist(), self.losses.tolist()
        found = [i for i, loss in enumerate(losses) if loss <= max_loss]
        if not found:
            raise ValueError(
                "max_loss: must be at least the lowest loss of the front, "
                f"{min(losses):.6g}, got {max_loss!r}"
            )
        return min(found, key=lambda i: (nonzeros[i], losses[i]))

    def pick(
        self,
        name: str | None = None,
        *,
        max_loss: float | None = None,
        min_sparsity: float | None = None,
    ) -> int:
        """A pick by name: "knee", "best" or "sparsest"; None: the one that the limit belongs to.

        Raises:
            ValueError: another name, a limit that is not the pick's, or nothing within it.

        Example:
            >>> points = Tradeoff(10, torch.tensor([1, 9]), torch.tensor([1.0, 0.1]))
            >>> points.pick("knee"), points.pick(max_loss=0.5), points.pick(min_sparsity=0.5)
            (0, 1, 0)
        """
        name = name or implied(max_loss, min_sparsity)
        validation.one_of("pick", name, PICKS)
        for limit, value, owner in (
            ("max_loss", max_loss, "sparsest"),
            ("min_sparsity", min_sparsity, "best"),
        ):
            if value is not None and name != owner:
                raise ValueError(f"{limit}: must go with the pick {owner}, got {name}")
        if name == "sparsest":
            return self.sparsest(math.inf if max_loss is None else max_loss)
        return self.best(min_sparsity or 0.0) if name == "best" else self.knee


def implied(max_loss: float | None, min_sparsity: float | None) -> str:
    """The pick that a limit belongs to; without one the knee.

    Example:
        >>> implied(0.1, None), implied(None, 0.9), implied(None, None)
        ('sparsest', 'best', 'knee')
    """
    limited = "best" if min_sparsity is not None else "knee"
    return "sparsest" if max_loss is not None else limited
