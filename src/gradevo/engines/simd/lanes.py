"""Members' tensors in lanes: sixteen members' numbers side by side, and back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from gradevo.engines.simd.chain import Link
from gradevo.engines.simd.layout import Kind
from gradevo.engines.simd.vector import LANES


@dataclass(frozen=True)
class Place:
    """Where a tensor of the members lies within a block, in vectors.

    Attributes:
        name: of the tensor.
        start: of its first number.
        rows: of a matrix `(rows, columns)`, the transposed one of a linear layer.
        columns: numbers of a row.
        stride: from row to row.
        trainable: whether it has a gradient.
    """

    name: str
    start: int
    rows: int
    columns: int
    stride: int
    trainable: bool

    @property
    def end(self) -> int:
        return self.start + self.rows * self.stride

    def of(self, block: Tensor) -> Tensor:
        """The tensor's numbers in a block `(size, lanes)`: `(lanes, columns, rows)`."""
        region = block[self.start : self.end].view(self.rows, self.stride, -1)
        return region[:, : self.columns].permute(2, 1, 0)


def blocks_of(members: int) -> int:
    """Blocks of as many members as a vector has lanes; the last may have some to spare."""
    return -(-members // LANES)


def odd(count: int) -> int:
    """A stride that no power of two divides, so that rows do not share cache lines' places."""
    return count if count < 24 else count | 1


def places_of(links: list[Link], stacked: nn.Module) -> tuple[list[Place], dict[int, int], int]:
    """Places of weights, then those of statistics.

    Returns:
        The places; by a link's number where its weights (and, negative, its statistics)
        start; and how many vectors are weights.
    """
    names = {id(t): n for n, t in [*stacked.named_parameters(), *stacked.named_buffers()]}
    places: list[Place] = []
    starts: dict[int, int] = {}
    end = 0

    def put(tensor: Tensor | None, rows: int, columns: int, stride: int) -> None:
        nonlocal end
        if tensor is not None:
            name = names[id(tensor)]
            places.append(Place(name, end, rows, columns, stride, tensor.requires_grad))
        end += rows * stride

    for i, link in enumerate(links):
        starts[i] = end
        if isinstance(link.module, nn.Linear):
            put(link.module.weight, link.ins, link.outs, odd(link.outs))
            put(link.module.bias, 1, link.outs, odd(link.outs))
        elif isinstance(link.module, nn.BatchNorm1d):
            put(link.module.weight, 1, link.outs, link.outs)
            put(link.module.bias, 1, link.outs, link.outs)
    weights = end
    for i, link in enumerate(links):
        if link.kind == Kind.NORM and isinstance(link.module, nn.BatchNorm1d):
            starts[-1 - i] = end
            put(link.module.running_mean, 1, link.outs, link.outs)
            put(link.module.running_var, 1, link.outs, link.outs)
    return places, starts, weights


def segments_of(places: list[Place]) -> list[tuple[int, int]]:
    """Ranges of vectors that learn."""
    ranges = [(place.start, place.end) for place in places if place.trainable]
    merged: list[tuple[int, int]] = []
    for start, end in ranges:
        if merged and start == merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def parts(places: list[Place], tensors: Mapping[str, Tensor], lanes: Tensor
          ) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Every tensor's rows of a block and the same numbers in lanes, for all blocks.

    Args:
        places: whose tensors.
        tensors: by name, `(g, ...)`; those that are not here are left out.
        lanes: `(blocks, size, lanes)`.
    """
    for place in places:
        if (tensor := tensors.get(place.name)) is None:
            continue
        rows = tensor.view(len(tensor), place.columns, place.rows)
        for b, block in enumerate(lanes):
            mine = rows[b * LANES : (b + 1) * LANES]
            yield mine, place.of(block)[: len(mine)]


def pack(places: list[Place], tensors: Mapping[str, Tensor], lanes: Tensor) -> None:
    """Copy tensors into lanes."""
    for mine, region in parts(places, tensors, lanes):
        region.copy_(mine)


def unpack(places: list[Place], lanes: Tensor, tensors: Mapping[str, Tensor]) -> None:
    """Copy lanes into tensors."""
    for mine, region in parts(places, tensors, lanes):
        mine.copy_(region)


def add(places: list[Place], lanes: Tensor, tensors: Mapping[str, Tensor]) -> None:
    """Add lanes to tensors."""
    for mine, region in parts(places, tensors, lanes):
        mine.add_(region)
