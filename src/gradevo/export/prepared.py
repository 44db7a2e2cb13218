"""A network with the preparation of its data in front: it takes rows as the data have them."""

import torch
from torch import Tensor, nn

from gradevo.datasets.preparation import Preparation
from gradevo.randomness import generator_from


class Prepared(nn.Module):
    """Fills in and standardises numbers, then computes a network.

    In double precision, as it was done for training: a number like a year is large beside its
    deviation.

    Args:
        network: takes prepared rows.
        preparation: of numbers only; see `Preparation.numeric`.

    Example:
        >>> raw = Prepared(nn.Identity(), Preparation((2.0,), (1.0,), (4.0,)))
        >>> raw(torch.tensor([[5.0], [torch.nan]])).flatten().tolist()
        [1.0, 0.25]
    """

    fill: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, preparation: Preparation) -> None:
        super().__init__()
        self.network = network
        for name in ("fill", "mean", "scale"):
            values = torch.tensor(getattr(preparation, name), dtype=torch.float64)
            self.register_buffer(name, values)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for float32 rows, `(B, columns)` or `(B, 1, height, width)`; NaN: missing."""
        return self.network(self.prepared(x))

    def prepared(self, x: Tensor) -> Tensor:
        """What the network is given for such rows."""
        rows = x.double()
        rows = torch.where(rows.isnan(), self.fill, rows)
        return ((rows - self.mean) / self.scale).float()

    def example(self, x: Tensor) -> Tensor:
        """Rows of the data that are prepared as these are; one number is missing."""
        raw = (x.double() * self.scale + self.mean).float()
        raw[(0,) * raw.dim()] = torch.nan
        return raw


def drawn(shape: tuple[int, ...], dtype: torch.dtype, rows: int = 8) -> Tensor:
    """A batch of prepared rows to try a network on: standard normal, always the same."""
    return torch.randn(rows, *shape, generator=generator_from(0), dtype=dtype)
