"""Small networks across the lanes of the processor's vectors: sixteen members at once.

One register holds the same weight of sixteen members, and one compiled step is forward,
backward and the optimiser. It pays where a layer is too small to fill the processor by
itself, up to some fifty thousand weights. Needs Numba: `pip install gradevo[simd]`.
"""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gradevo.engines.batched import losses as general
from gradevo.engines.check import Declined, backward, rows_of
from gradevo.randomness import draws
from gradevo.structure import Tensors

if TYPE_CHECKING:
    from gradevo.engines.simd.chain import Chain
    from gradevo.engines.simd.layout import Loss as LossKind
    from gradevo.engines.simd.program import Program
    from gradevo.population import Loss, Population

KEPT = 8  # programs: for the batch sizes and modes in use


def missing() -> str | None:
    """Why there are no compiled kernels here; None: there are."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return "it needs Numba, which is not installed: pip install 'gradevo[simd]'"
    return None


class Simd:
    """Chains of linear layers, batch norms, activations and dropout, float32 on the CPU.

    `forward` is differentiable, so any loss can follow; where the loss is one of the kernel's
    own, `accumulate` is one pass through it.
    """

    name = "simd"

    def __init__(self, population: "Population") -> None:
        self.population = population
        self.chains: dict[tuple[bool, ...], Chain] = {}
        self.programs: dict[Any, Program] = {}
        self.kept: tuple[Any, Any, Tensor] | None = None

    @property
    def startup(self) -> float:
        """Seconds until it computes: much where its kernels have yet to be compiled."""
        if missing() is not None:
            return 0.0  # it declines at once
        from gradevo.engines.simd.entry import COMPILATION, on_disk

        return 0.0 if on_disk() else COMPILATION

    # --- the engine's three methods ------------------------------------------------------

    def forward(self, x: Any, per_member: bool) -> Any:
        rows, indices = self._batch(x, per_member)
        if not torch.is_grad_enabled():
            program = self.program(indices.shape[1], 0)
            return self.outputs(program, program.rows(rows, None), indices, self._seed(program))
        leaves = tuple(self.population.leaves.values())
        return cast(Tensor, _Outputs.apply(self, rows, indices, *leaves))

    def losses(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        rows_of("y", y, self.population.size, per_member)
        output = self.forward(x, per_member)
        return general.of_members(loss, output, y, self.population.size, per_member)

    def accumulate(self, loss: "Loss", x: Any, y: Any, per_member: bool) -> Tensor:
        rows_of("y", y, self.population.size, per_member)
        rows, indices = self._batch(x, per_member)
        kind = self.loss_kind(loss, y, indices.shape[1], per_member)
        if kind is None:
            return backward(self.losses(loss, x, y, per_member))
        targets = y.flatten(0, 1) if per_member else y
        program = self.program(indices.shape[1], 1 if targets.dim() == 1 else targets.shape[1])
        table = program.rows(rows, targets)
        return self.add_gradients(program, table, indices, kind, self._seed(program))

    # --- what they are made of -----------------------------------------------------------

    def chain(self) -> "Chain":
        """The layers in the modes that the population's parts are in."""
        if (why := missing()) is not None:
            raise Declined(why)
        if torch.is_autocast_enabled("cpu"):
            raise Declined("it computes in float32, and autocast is on")
        from gradevo.engines.simd.chain import chain_of

        stacked = self.population.stacked
        modes = tuple(part.training for part in stacked.modules())
        if modes not in self.chains:
            self.chains[modes] = chain_of(self.population.member(0), stacked)
        return self.chains[modes]

    def program(self, batch: int, targets: int) -> "Program":
        """Memory and tables for batches of one size, kept for the next one."""
        from gradevo.engines.simd.program import Program

        chain = self.chain()
        key = id(chain), batch, targets, torch.get_num_threads()
        if key not in self.programs:
            while len(self.programs) >= KEPT:
                del self.programs[next(iter(self.programs))]
            size, stacked = self.population.size, self.population.stacked
            with torch.inference_mode(False):
                self.programs[key] = Program(chain.links, stacked, size, batch, targets)
        return self.programs[key]

    def table(self, program: "Program", x: Tensor, y: Tensor) -> Tensor:
        """All rows of a source as the kernel wants them, kept while the tensors are unchanged."""
        key = (x, y), (x._version, y._version, program.width)
        if self.kept is None or self.kept[1] != key[1] or any(
            mine is not theirs for mine, theirs in zip(self.kept[0], key[0], strict=True)
        ):  # fmt: skip
            self.kept = (*key, program.rows(x, y))
        return self.kept[2]

    def loss_kind(self, loss: "Loss", y: Any, rows: int, each: bool = False) -> "LossKind | None":
        """The kernel's own form of a loss, if targets are what it takes; None: it has none.

        Args:
            loss: the user's.
            y: targets, `(rows,)` or `(rows, classes)`, with a leading member axis if `each`.
            rows: of the inputs.
            each: whether targets have a member axis.
        """
        from gradevo.engines.simd.chain import loss_of
        from gradevo.engines.simd.layout import Loss

        links = self.chain().links
        kind, classes = loss_of(loss, links), links[-1].outs
        if kind is None or not torch.is_tensor(y) or y.requires_grad:
            return None
        shape = tuple(y.shape[1:] if each else y.shape)
        if kind == Loss.CROSS_ENTROPY:
            whole = shape == (rows,) and y.dtype == torch.int64
            return kind if whole and bool(((y >= 0) & (y < classes)).all()) else None
        return kind if shape == (rows, classes) and y.dtype == torch.float32 else None

    def outputs(self, program: "Program", table: Tensor, indices: Tensor, seed: Tensor) -> Tensor:
        """Outputs `(g, B, classes)`; statistics of norms in train mode move."""
        from gradevo.engines.simd.lanes import pack
        from gradevo.engines.simd.layout import Loss, Update
        from gradevo.engines.simd.vector import LANES

        pack(program.places, self.population.tensors, program.state)
        shape = program.blocks, program.batch, program.outputs, LANES
        found = torch.empty(shape, dtype=torch.float32, device="cpu")
        program.points_to(OUTPUT=found, GRADIENT=None, LOSS=None, DATA=table, SEEDS=seed)
        program.run(indices, 1, update=Update.NONE, loss=Loss.NONE)
        self._keep_statistics(program)
        members = found.permute(0, 3, 1, 2).flatten(0, 1)
        return members[: self.population.size].contiguous()

    def add_gradients(
        self, program: "Program", table: Tensor, indices: Tensor, kind: "LossKind", seed: Tensor
    ) -> Tensor:
        """Add every member's gradient to its leaves'; returns the losses, `(g,)`."""
        from gradevo.engines.simd.lanes import add

        gradient, losses = self._gradients(program, table, indices, kind, seed)
        self._keep_statistics(program)
        add(program.places, gradient, self.population.gradients())
        return losses

    def _gradients(
        self,
        program: "Program",
        table: Tensor,
        indices: Tensor,
        kind: "LossKind",
        seed: Tensor,
        tensors: Tensors | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Gradients in lanes, and losses `(g,)`; at the population's tensors or others."""
        from gradevo.engines.simd.lanes import pack
        from gradevo.engines.simd.layout import Update
        from gradevo.engines.simd.vector import LANES

        pack(program.places, tensors or self.population.tensors, program.state)
        gradient = program.vectors()
        losses = torch.empty(program.blocks, LANES, dtype=torch.float32, device="cpu")
        program.points_to(OUTPUT=None, GRADIENT=gradient, LOSS=losses, DATA=table, SEEDS=seed)
        program.run(indices, 1, update=Update.NONE, loss=kind)
        program.points_to(GRADIENT=None, LOSS=None)
        return gradient, losses.flatten()[: self.population.size]

    @torch.no_grad()
    def _keep_statistics(self, program: "Program") -> None:
        """Norms in train mode have moved theirs."""
        from gradevo.engines.simd.lanes import unpack

        if program.norms:
            buffers = dict(self.population.stacked.named_buffers())
            unpack(program.places, program.state, buffers)
            for norm in program.norms:
                cast(Tensor, norm.num_batches_tracked).add_(1)

    def _seed(self, program: "Program") -> Tensor:
        """What dropout draws from: a number of torch's own generator."""
        if program.draws:
            found = draws()
            program.draws_for(found.ids if found else range(self.population.size))
            return torch.tensor([found.key]) if found else torch.randint(2**62, (1,), device="cpu")
        return torch.zeros(1, dtype=torch.int64, device="cpu")

    def _batch(self, x: Any, per_member: bool) -> tuple[Tensor, Tensor]:
        """All rows, and which of them each lane sees in turn.

        Raises:
            Declined: the inputs are not rows that the first layer can take.
        """
        from gradevo.engines.simd.lanes import blocks_of
        from gradevo.engines.simd.program import index_table
        from gradevo.engines.simd.vector import LANES

        size = self.population.size
        if not torch.is_tensor(x):
            raise Declined("inputs are not one tensor")
        rows_of("x", x, size, per_member)
        width = self.chain().links[0].ins
        first = 1 + int(per_member)
        rows = x.dim() > first and x.dtype == torch.float32
        if not rows or x.requires_grad or x.shape[first:].numel() != width:
            raise Declined(f"inputs are not float32 rows of {width} numbers without a gradient")
        if x.dim() > first + 1 and not self.chain().flattens:
            raise Declined("rows have several axes")
        count = x.shape[first - 1]
        if count == 0 or (count == 1 and any(link.active for link in self.chain().links)):
            raise Declined("there are too few rows")
        indices = index_table(blocks_of(size) * LANES, count)
        every = torch.arange(count, dtype=torch.int32)
        offsets = torch.arange(size, dtype=torch.int32).unsqueeze(1) * count
        indices[:size] = every + offsets if per_member else every
        return (x.flatten(0, 1) if per_member else x), indices


class _Outputs(torch.autograd.Function):
    """Outputs whose gradient is taken by a second pass, with the same draws and statistics."""

    @staticmethod
    def forward(ctx: Any, engine: Simd, rows: Tensor, indices: Tensor, *leaves: Tensor) -> Tensor:
        classes = engine.chain().links[-1].outs
        program = engine.program(indices.shape[1], classes)
        seed, stacked = engine._seed(program), engine.population.stacked
        statistics = {name: buffer.clone() for name, buffer in stacked.named_buffers()}
        ctx.saved = engine, program, indices, seed, statistics
        ctx.save_for_backward(rows, *stacked.parameters())  # torch tells if they are changed
        return engine.outputs(program, program.rows(rows, None), indices, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        from gradevo.engines.simd.lanes import unpack
        from gradevo.engines.simd.layout import Loss
        from gradevo.engines.simd.program import index_table

        engine, program, indices, seed, statistics = ctx.saved
        rows = ctx.saved_tensors[0]
        size, shared = engine.population.size, len(rows) == indices.shape[1]
        given = grads[0].reshape(size * program.batch, program.outputs)
        inputs = rows.repeat(size, *[1] * (rows.dim() - 1)) if shared else rows
        offsets = torch.arange(size, dtype=torch.int32).unsqueeze(1) * program.batch
        each = index_table(len(indices), program.batch)
        each[:size] = torch.arange(program.batch, dtype=torch.int32) + offsets
        table = program.rows(inputs, given)
        tensors = {**engine.population.tensors, **statistics}
        gradient, _ = engine._gradients(program, table, each, Loss.DOT, seed, tensors)
        leaves: Tensors = {n: torch.zeros_like(p) for n, p in engine.population.leaves.items()}
        unpack(program.places, gradient, leaves)
        return None, None, None, *leaves.values()
