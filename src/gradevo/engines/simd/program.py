"""A chain of layers laid out in memory for a batch size, ready for the compiled kernel."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradevo.denormals import flushed
from gradevo.engines.simd.chain import Link
from gradevo.engines.simd.entry import entry
from gradevo.engines.simd.lanes import blocks_of, odd, places_of, segments_of
from gradevo.engines.simd.layout import Frame, Kind, Layer, Loss, Update
from gradevo.engines.simd.vector import LANES
from gradevo.share import mixed

CPU: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults are
SMALL, LARGE = 2_000, 8_192  # vectors of activations at a time, so that they stay in cache
FEW = 400  # vectors of weights of a small network
LINE = 16  # indices of a cache line
ROWS = (32, 64)  # of a batch at a time, at least and at most


class Program:
    """Memory and tables for members of one architecture and batches of one size.

    Args:
        links: the layers.
        stacked: the population's module.
        members: g.
        batch: rows of a step.
        targets: numbers of a row that the loss compares with.
    """

    def __init__(
        self, links: list[Link], stacked: nn.Module, members: int, batch: int, targets: int
    ) -> None:
        self.links, self.batch = links, batch
        self.blocks = blocks_of(members)
        self.inputs, self.outputs = links[0].ins, links[-1].outs
        self.width = -(-(self.inputs + 1 + targets) // 4) * 4
        self.places, self.starts, self.weights = places_of(links, stacked)
        self.size = max([place.end for place in self.places] + [self.weights])
        self.state = torch.zeros(self.blocks, self.size, LANES, **CPU)
        self.keep: dict[str, Any] = {}  # what the frame points to
        self.frame = np.zeros(Frame.LENGTH, np.int64)
        self.tile = self._tile()
        self._lay_out()
        threads = min(torch.get_num_threads(), self.blocks)
        self.scratch = [self._scratch() for _ in range(threads)]
        self.points_to(STATE=self.state)
        self.draws_for(range(members))
        self.says(
            SIZE=self.size, WEIGHTS=self.weights, WIDTH=self.width, BATCH=batch, TILE=self.tile,
            LAYER_COUNT=len(links), INPUTS=self.inputs, OUTPUTS=self.outputs, BLOCKS=self.blocks,
        )  # fmt: skip

    # --- what the frame says -------------------------------------------------------------

    def points_to(self, **tensors: Tensor | None) -> None:
        """Put addresses into the frame; None is 0."""
        for name, tensor in tensors.items():
            self.keep[name] = tensor
            self.frame[Frame[name]] = 0 if tensor is None else tensor.data_ptr()

    def says(self, **numbers: int) -> None:
        """Put numbers into the frame."""
        for name, number in numbers.items():
            self.frame[Frame[name]] = number

    def clips(self, largest: float | None) -> None:
        """Clip gradients, or not."""
        self.says(CLIPS=int(largest is not None))
        self.keep["NUMBERS"][0] = largest or 0.0

    def vectors(self) -> Tensor:
        """Zeros, one for every weight of every member."""
        return torch.zeros(self.blocks, self.weights, LANES, **CPU)

    def draws_for(self, ids: Sequence[int]) -> None:
        """Whose random numbers the lanes draw: members' by their numbers."""
        own = torch.zeros(self.blocks * LANES, dtype=torch.int32, device="cpu")
        words = [mixed(i) & 0xFFFFFFFF for i in ids]
        own[: len(words)] = torch.tensor(words, dtype=torch.int64).to(torch.int32)
        self.points_to(OWN=own)

    # --- memory --------------------------------------------------------------------------

    def _strides(self) -> list[int]:
        """From row to row, of the input and of every layer's output; one column holds 1."""
        return [self.width + 1, *(odd(link.outs + 1) for link in self.links)]

    def _tile(self) -> int:
        """Rows at a time; a norm in train mode needs all of a batch."""
        if any(link.active and link.kind == Kind.NORM for link in self.links):
            return self.batch
        per_row = sum(self._strides()) + 2 * max(self._strides())
        room = (SMALL if self.weights < FEW else LARGE) // per_row // 4 * 4
        return min(self.batch, max(ROWS[0], min(ROWS[1], room)))

    def _lay_out(self) -> None:
        """Places in scratch memory: gradients, inputs, outputs, extras, gradients of outputs."""
        strides = self._strides()
        table = np.zeros((len(self.links), Layer.FIELDS), np.int64)
        end = self.weights
        self.ones: list[tuple[int, int, int]] = []  # place, stride and column of the constant 1
        starts = []
        for stride, width in zip(
            strides, [self.inputs, *(k.outs for k in self.links)], strict=True
        ):
            starts.append(end)
            self.ones.append((end, stride, width))
            end += self.tile * stride
        for i, link in enumerate(self.links):
            bias = int(isinstance(link.module, nn.Linear) and link.module.bias is not None)
            table[i] = [
                link.kind, link.ins, link.outs, self.starts[i], odd(link.outs), bias, link.relu,
                starts[i], strides[i], starts[i + 1], strides[i + 1], end,
                self.starts.get(-1 - i, 0), link.active,
            ]  # fmt: skip
            end += (self.tile + 1) * link.outs if link.kind in (Kind.NORM, Kind.DROPOUT) else 0
        self.says(DELTAS=end, SPAN=self.tile * max(strides))
        self.total = end + 2 * self.tile * max(strides)
        numbers = [0.0, *(n for link in self.links for n in link.numbers)]
        segments = segments_of(self.places)
        learning = [
            i for i, k in enumerate(self.links) if k.module is not None and _learns(k.module)
        ]
        self.says(SEGMENT_COUNT=len(segments), LOWEST=min(learning, default=len(self.links)))
        self.points_to(
            LAYERS=torch.from_numpy(table), NUMBERS=torch.tensor(numbers, **CPU),
            SEGMENTS=torch.tensor(segments, dtype=torch.int64, device="cpu"),
        )  # fmt: skip

    def _scratch(self) -> Tensor:
        memory = torch.zeros(self.total, LANES, **CPU)
        for start, stride, column in self.ones:
            memory[start + column : start + self.tile * stride : stride] = 1.0
        return memory

    # --- data ----------------------------------------------------------------------------

    def rows(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Rows `(N, width)` as the kernel wants them: inputs, 1, targets, zeros."""
        table = torch.zeros(len(x), self.width, **CPU)
        table[:, : self.inputs] = x.reshape(len(x), -1)
        table[:, self.inputs] = 1.0
        if y is not None:
            wide = y.reshape(len(x), -1)
            table[:, self.inputs + 1 : self.inputs + 1 + wide.shape[1]] = wide
        return table

    # --- the run -------------------------------------------------------------------------

    @property
    def draws(self) -> bool:
        """Whether a step draws random numbers."""
        return any(link.kind == Kind.DROPOUT for link in self.links)

    @property
    def norms(self) -> list[nn.BatchNorm1d]:
        """Norms whose statistics move."""
        active = [link.module for link in self.links if link.active]
        return [module for module in active if isinstance(module, nn.BatchNorm1d)]

    def run(self, indices: Tensor, steps: int, *, update: Update, loss: Loss) -> None:
        """Run so many steps of all blocks, each thread some of them.

        Args:
            indices: int32 rows of the data, `(blocks * lanes, steps * batch)`.
            steps: how many.
            update: what to do with gradients.
            loss: which one; `Loss.NONE`: forward only.
        """
        self.points_to(INDICES=indices)
        self.says(COLUMNS=indices.stride(0), UPDATE=update, LOSS_KIND=loss)
        kernel, frame = entry(), self.frame.ctypes.data
        share = -(-self.blocks // len(self.scratch))

        def work(i: int) -> None:
            with flushed():
                kernel(frame, i * share, min((i + 1) * share, self.blocks), 0, steps,
                       self.scratch[i].data_ptr())  # fmt: skip

        in_threads(work, len(self.scratch))


def index_table(lanes: int, columns: int) -> Tensor:
    """Zeros, int32 `(lanes, columns)`, whose rows do not share places in the cache.

    Sixteen rows are read at once; a stride of whole pages would put them all in one set.
    """
    lines = -(-columns // LINE) | 1
    return torch.zeros(lanes, lines * LINE, dtype=torch.int32, device="cpu")[:, :columns]


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Call `work(0)`, `work(1)`, ..., each in a thread of its own."""
    if count == 1:
        work(0)
        return
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


def _learns(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
