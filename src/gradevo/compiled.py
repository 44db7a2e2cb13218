"""Steps of a phase by the simd engine's kernel, many a call: batches, optimiser, mean and all."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from gradevo.batches import Position, TensorSource
from gradevo.engines.check import Declined
from gradevo.engines.simd import Simd, missing
from gradevo.optimisers import MemberOptimiser
from gradevo.phase import Phase, Recipe, Streams, schedule_of
from gradevo.problem import Problem
from gradevo.structure import Tensors

if TYPE_CHECKING:
    from gradevo.engines.simd.layout import Loss


class Compiled:
    """A phase whose weights, moments and mean live in lanes until they are asked for.

    Give the same bits however the steps are dealt out to calls.

    Args:
        problem: its source holds all rows as tensors.
        recipe: how members learn.
        phase: goes on in place.
        streams: likewise.
        optimiser: what it carries is taken over, and given back by `leave`.
    """

    def __init__(
        self, problem: Problem, recipe: Recipe, phase: Phase, streams: Streams,
        optimiser: MemberOptimiser,
    ) -> None:  # fmt: skip
        from gradevo.engines.simd.program import Program
        from gradevo.engines.simd.rules import rule_of

        self.recipe, self.phase, self.streams = recipe, phase, streams
        self.optimiser, self.population = optimiser, problem.population
        self.source = cast(TensorSource, problem.source)
        engine = _simd(problem)
        self.kind = cast("Loss", _loss(problem))
        targets = self.source.y[0].numel()
        links, size = engine.chain().links, problem.population.size
        stacked, batch = problem.population.stacked, self.source.batch_size
        self.program = Program(links, stacked, size, batch, targets)
        self.program.draws_for(phase.share.ids)
        self.table = engine.table(self.program, self.source.x, self.source.y)
        self.rule = rule_of(optimiser, self.program.blocks)
        self.counted = 0
        self._take_over()

    @staticmethod
    def goes_on(problem: Problem, phase: Phase, optimiser: MemberOptimiser) -> bool:
        """Whether the kernel may take the next steps: not once a member has skipped one.

        It steps all members alike, and does not look at single gradients.
        """
        sound = not bool(phase.lost.any()) and bool(problem.population.flat.isfinite().all())
        return sound and optimiser.taken() is not None and Compiled.serves(problem, optimiser)

    @staticmethod
    def serves(problem: Problem, optimiser: MemberOptimiser) -> bool:
        """Whether the kernel has this optimiser, this loss and data of this kind."""
        from gradevo.engines.batched.graph import Untraceable

        if missing() is not None:
            return False
        from gradevo.engines.simd.rules import knows

        source = problem.source
        if not isinstance(source, TensorSource) or not torch.is_tensor(source.x):
            return False
        if source.x.dtype != torch.float32:
            return False
        try:
            few = source.batch_size < 2 and any(k.active for k in _simd(problem).chain().links)
            on_cpu = source.x.device.type == "cpu"
            return on_cpu and not few and knows(optimiser) and _loss(problem) is not None
        except (Declined, Untraceable):  # an earlier run could, with another installation
            return False

    @torch.no_grad()
    def _take_over(self) -> None:
        from gradevo.engines.simd.lanes import pack

        program, phase = self.program, self.phase
        pack(program.places, phase.tensors, program.state)
        self.moments = {name: program.vectors() for name in self.rule.moments}
        for name, lanes in self.moments.items():
            pack(program.places, self.optimiser.stacked(name), lanes)
        self.mean = None if phase.mean is None else torch.zeros_like(program.state)
        if phase.mean is not None and self.mean is not None:
            pack(program.places, phase.mean, self.mean)
        first, second = (*self.moments.values(), None, None)[:2]
        program.points_to(DATA=self.table, FIRST=first, SECOND=second, MEAN=self.mean)
        program.points_to(MASK=self._mask(), GRADIENT=None, OUTPUT=None, LOSS=None)
        program.says(SAME=int(self.rule.same))
        program.clips(self.recipe.clip)

    def _mask(self) -> Tensor | None:
        """Which weights are there, in lanes; the others are zero from now on."""
        from gradevo.engines.simd.lanes import pack

        if self.phase.masks is None:
            return None
        there = self.program.vectors() + 1
        pack(self.program.places, self.phase.masks, there)
        self.program.state[:, : self.program.weights] *= there
        return there

    def advance(self, most: int) -> int:
        """Take so many steps."""
        recipe, step, program = self.recipe, self.phase.step, self.program
        schedule = schedule_of(recipe.schedule)
        factors = [schedule((step + k) / recipe.steps) for k in range(most)]
        program.points_to(RULE=self.rule.table(factors), SEEDS=self._seeds(most))
        if self.mean is not None:
            rates = [recipe.average_rate(step + k) for k in range(most)]
            program.points_to(RATES=torch.tensor(rates, dtype=torch.float32, device="cpu"))
        program.run(self._indices(most), most, update=self.rule.update, loss=self.kind)
        self.counted += most
        self.phase.passes += most * self.population.size
        return most

    # --- back again ------------------------------------------------------------------------

    def kept(self) -> "Before":
        """Where everything stands, to go back to."""
        lanes = [self.program.state, *self.moments.values()]
        lanes += [] if self.mean is None else [self.mean]
        numbers = self.rule.taken, self.counted, self.phase.passes
        data = replace(self.streams.data)
        return Before(lanes, [t.clone() for t in lanes], numbers, data, self._noise())

    def _noise(self) -> Tensor:
        return self.streams.noise.get_state()

    def is_sound(self, before: "Before") -> bool:
        """Whether nothing has become NaN or infinite since, as after such a gradient it would."""
        return all(
            bool(now.isfinite().all()) or torch.equal(now.isfinite(), then.isfinite())
            for now, then in zip(before.lanes, before.numbers, strict=True)
        )

    def go_back(self, before: "Before") -> None:
        """Undo the steps since."""
        for now, then in zip(before.lanes, before.numbers, strict=True):
            now.copy_(then)
        self.rule.taken, self.counted, self.phase.passes = before.counts
        self.streams.data.epoch, self.streams.data.taken = before.data.epoch, before.data.taken
        self.streams.noise.set_state(before.noise)

    def _indices(self, steps: int) -> Tensor:
        """Rows of every lane, one batch after another, `(blocks * lanes, steps * batch)`."""
        from gradevo.engines.simd.program import index_table
        from gradevo.engines.simd.vector import LANES

        size = self.population.size
        indices = index_table(self.program.blocks * LANES, steps * self.source.batch_size)
        if self.recipe.shared_batch:
            self.source.fill(indices[:1], self.streams.data, (0,))
            indices[1:size] = indices[0]
        else:
            self.source.fill(indices[:size], self.streams.data, self.phase.share.ids)
        return indices

    def _seeds(self, steps: int) -> Tensor:
        """What dropout draws from in each step."""
        if not self.program.draws:
            return torch.zeros(steps, dtype=torch.int64, device="cpu")
        return torch.randint(2**62, (steps,), generator=self.streams.noise, device="cpu")

    @torch.no_grad()
    def show(self) -> None:
        """Weights and mean from lanes to the population and the phase."""
        from gradevo.engines.simd.lanes import unpack

        unpack(self.program.places, self.program.state, self.phase.tensors)
        if self.mean is not None and self.phase.mean is not None:
            unpack(self.program.places, self.mean, self.phase.mean)
        for norm in self.program.norms:
            cast(Tensor, norm.num_batches_tracked).add_(self.counted)
        self.counted = 0
        for name, tensor in (self.phase.mean or {}).items():
            if not tensor.is_floating_point():
                tensor.copy_(self.phase.tensors[name])

    @torch.no_grad()
    def leave(self) -> None:
        """Everything from lanes to where torch has it."""
        from gradevo.engines.simd.lanes import unpack

        self.show()
        if self.rule.taken == 0:
            return
        for name, lanes in self.moments.items():
            stacked: Tensors = {n: torch.empty_like(t) for n, t in self.population.leaves.items()}
            unpack(self.program.places, lanes, stacked)
            self.optimiser.put(name, stacked, self.rule.count)
        self.phase.optimizer = self.optimiser.state()


@dataclass(frozen=True)
class Before:
    """A phase in lanes at some step.

    Attributes:
        lanes: the tensors that steps change.
        numbers: what was in them.
        counts: steps of the rule, of norms, passes.
        data: the position in the data.
        noise: state of the generator.
    """

    lanes: list[Tensor]
    numbers: list[Tensor]
    counts: tuple[int, int, int]
    data: Position
    noise: Tensor


def _simd(problem: Problem) -> Simd:
    return cast(Simd, problem.population.choice.engine(problem.population, "simd"))


def _loss(problem: Problem) -> "Loss | None":
    """The kernel's own form of the problem's loss on its targets."""
    y = cast(TensorSource, problem.source).y
    return _simd(problem).loss_kind(problem.loss, y, len(cast(TensorSource, problem.source).x))
