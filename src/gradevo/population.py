"""A population: g members of one architecture, their tensors stacked on a leading axis."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from gradevo import engines, trees
from gradevo.building import Build, built, check_build
from gradevo.guards import Watch
from gradevo.randomness import generator_from
from gradevo.shells import Shells, like
from gradevo.structure import (
    Structure,
    Tensors,
    check_members,
    check_modes,
    stack,
    structure_of,
    tensors_of,
    with_tensors,
)
from gradevo.validation import at_least, function, one_of

Loss = Callable[[Any, Any], Tensor]
PRECISIONS = ("full", "bfloat16")


class Population(nn.Module):
    """Members of one architecture that live in one buffer and train as one module.

    `parameters()` are the *stacked leaves*: the tensor that is `(out, in)` in a member is one
    contiguous `(g, out, in)` tensor here, so an elementwise torch optimiser works on a
    population as it is, fused or not, and treats the members independently. All trainable
    leaves lie one after another in one buffer, `flat`; a member's tensors are views into it.

    The buffer is laid out leaf by leaf, not member by member: torch's fused optimisers
    overwrite neighbouring numbers, silently, when a parameter is not contiguous.

    Sum the members' losses before `backward` (not their mean), and each member gets the
    gradient that it would get alone.

    Args:
        build: returns a new module at every call; called `size` times.
        size: number of members g, at least 1.
        generator: where initial weights come from; global random state is left untouched.
            Default: a generator started from 0.
        engine: "loop" (one member after another, serves every module), "batched" (layer by
            layer for all members, "batched/5" for five at a time), "vmap", "simd" (chains of
            small layers, sixteen members in one vector), "loop@2" or "batched/5@2" (members
            side by side in two threads), "batched+compile" or "vmap+compile" (torch.compile),
            or "auto", which times all but the compiled ones at the first training step and
            keeps the fastest.
        precision: "full", or "bfloat16": forward passes under torch's autocast; weights,
            gradients and the optimiser stay as they are.

    Raises:
        TypeError: `build` does not return a module.
        ValueError: `build` returns one module twice or two architectures, or an argument is
            out of range.

    Example:
        >>> import torch, gradevo as ge
        >>> pop = ge.Population(lambda: torch.nn.Linear(4, 3), size=10)
        >>> optimizer = torch.optim.Adam(pop.parameters(), fused=True)
        >>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
        >>> losses = pop.losses(torch.nn.functional.cross_entropy, x, y)
        >>> losses.sum().backward(); optimizer.step()
        >>> losses.shape
        torch.Size([10])
    """

    def __init__(
        self,
        build: Build,
        size: int,
        *,
        generator: Generator | None = None,
        engine: str = "auto",
        precision: str = "full",
    ) -> None:
        at_least("size", size, 1)
        check_build(build)
        modules = built(build, range(size), generator or generator_from(0))
        self._begin(modules, "build", engine, precision)

    @classmethod
    def of_built(cls, modules: Sequence[nn.Module], *, engine: str, precision: str) -> Self:
        """A population of what `built` has returned."""
        (population := cls.__new__(cls))._begin(modules, "build", engine, precision)
        return population

    @classmethod
    def from_modules(cls, modules: Sequence[nn.Module], *, engine: str = "auto") -> Self:
        """A population of copies of existing modules, one member each.

        Args:
            modules: at least one module, all of one architecture.
            engine: as for the class.

        Returns:
            A population with `len(modules)` members; the modules are not touched again.

        Raises:
            ValueError: no module, or two architectures.

        Example:
            >>> pop = Population.from_modules([nn.Linear(2, 1), nn.Linear(2, 1)])
            >>> pop.size
            2
        """
        if not modules:
            raise ValueError("modules: must hold at least one module, got none")
        (population := cls.__new__(cls))._begin(modules, "modules", engine, "full")
        return population

    @classmethod
    def of_tensors(cls, module: nn.Module, tensors: Tensors, *, engine: str = "auto") -> Self:
        """Members of stacked tensors, `(g, ...)` each, whose types they keep.

        Args:
            module: of their architecture.
            tensors: by the names that `module` has.
            engine: as for the class.

        Example:
            >>> rows = {"weight": torch.ones(3, 1, 2), "bias": torch.zeros(3, 1)}
            >>> Population.of_tensors(nn.Linear(2, 1), rows).size
            3
        """
        own = {name: tensors[name].to(t.device) for name, t in tensors_of(module).items()}
        size, population = len(next(iter(own.values()))), cls.__new__(cls)
        stacked = with_tensors(module, own)
        population._adopt(stacked, Shells.of([module] * size, stacked), size, engine, "full")
        return population

    def _begin(
        self, modules: Sequence[nn.Module], argument: str, engine: str, precision: str
    ) -> None:
        """Take over what modules hold, and what they are besides."""
        check_members(modules, argument)
        check_modes(modules, argument)
        stacked = with_tensors(modules[0], stack(modules))
        self._adopt(stacked, Shells.of(modules, stacked), len(modules), engine, precision)

    def _adopt(
        self, stacked: nn.Module, shells: Shells, size: int, engine: str, precision: str
    ) -> None:
        super().__init__()
        one_of("precision", precision, PRECISIONS)
        self.differentiates = False  # whether forward takes gradients itself, in evaluation too
        self.size, self.precision = size, precision
        self.stacked, self.shells, self.training = stacked, shells, stacked.training
        self.choice = engines.Choice.of(engine)
        self.watch = Watch(type(stacked).__name__)
        self._live: list[nn.Module] = []
        self.register_load_state_dict_post_hook(_rejoin)
        self._flatten()

    # --- the tensors -------------------------------------------------------------------

    def _flatten(self) -> None:
        """Move the trainable leaves into one buffer, one contiguous block each."""
        self._all = list(self.stacked.parameters())
        self._learning = [parameter.requires_grad for parameter in self._all]
        self._structure = structure_of(self.stacked)
        self._leaves = {n: self.stacked.get_parameter(n) for n in self._structure.trainable}
        leaves = self._leaves.values()
        self._flat = torch.cat([leaf.detach().reshape(-1) for leaf in leaves])  # (g * P,)
        for leaf, block in zip(leaves, self._split(self._flat), strict=True):
            leaf.data, leaf.grad = block, None
        for frozen in self._structure.frozen:
            self.stacked.get_parameter(frozen).grad = None

    def _follow(self) -> None:
        """After parameters were frozen or thawed: the buffer has those that learn now.

        Where none does, it stays as it was, and `gradient` refuses.
        """
        learning = [parameter.requires_grad for parameter in self._all]
        if learning == self._learning:
            return
        self._learning = learning
        if any(learning):
            for parameter in self._all:
                parameter.data = parameter.data.clone()  # not in the former buffer any more
            self._flatten()
        self._moved()

    @property
    def structure(self) -> Structure:
        """Names of the tensors by their part in training, as it is now."""
        self._follow()
        return self._structure

    @property
    def leaves(self) -> dict[str, nn.Parameter]:
        """The stacked leaves that learn now, by name."""
        self._follow()
        return self._leaves

    def _moved(self) -> None:
        """Tensors are others now: whoever holds views of them is made anew."""
        self.choice.forget()
        self.shells, self._live = self._shells(), []

    def _shells(self) -> Shells:
        """What members are besides their tensors, as calls have left it."""
        return Shells.of(self._live, self.stacked) if self._live else self.shells

    def _split(self, flat: Tensor) -> list[Tensor]:
        """One buffer as the leaves' blocks, `(g, ...)` each and contiguous."""
        shapes = [leaf.shape for leaf in self._leaves.values()]
        blocks = flat.split([shape.numel() for shape in shapes])
        return [block.view(shape) for shape, block in zip(shapes, blocks, strict=True)]

    def _rejoin(self) -> None:
        """After torch may have moved tensors: one buffer again, and engines made anew."""
        storage = self._flat.untyped_storage().data_ptr()
        self._all = list(self.stacked.parameters())
        now = ((self.stacked.get_parameter(name), leaf) for name, leaf in self._leaves.items())
        if any(a is not b or b.untyped_storage().data_ptr() != storage for a, b in now):
            self._flatten()
        for part in self.stacked.modules():  # torch reads statistics as if they lay in a row
            for name, buffer in part.named_buffers(recurse=False):
                if buffer.layout == torch.strided:
                    part._buffers[name] = buffer.contiguous()
        self._moved()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """`.to(device, dtype)`, `.double()` and friends; keeps the one buffer."""
        super()._apply(fn, recurse)
        self._rejoin()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which make views of their own."""
        return {**self.__dict__, "_live": [], "shells": self._shells()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and unpickled populations have a buffer of their own."""
        super().__setstate__(state)
        self._rejoin()

    @property
    def flat(self) -> Tensor:
        """All trainable numbers, `(g * P,)`: leaf after leaf, each `(g, ...)` and contiguous."""
        self._follow()
        return self._flat

    @property
    def tensors(self) -> Tensors:
        """All stacked tensors, `(g, ...)` each, by the names a member gives them; not copies."""
        return tensors_of(self.stacked)

    @property
    def device(self) -> torch.device:
        return self._flat.device

    def gradient(self) -> Tensor:
        """A new gradient buffer, `(g * P,)`, laid out like `flat`; leaves' `grad` are its views.

        Raises:
            ValueError: all parameters are frozen.
        """
        if not any(parameter.requires_grad for parameter in self._all):
            raise ValueError("population: must have parameters that learn, got all of them frozen")
        gradient = torch.zeros_like(self.flat)
        for leaf, block in zip(self.leaves.values(), self._split(gradient), strict=True):
            leaf.grad = block
        return gradient

    def gradient_buffer(self) -> Tensor:
        """The buffer that `gradient` made last: leaves' `grad` are its views."""
        first = next(iter(self.gradients().values()))
        return first.as_strided(self.flat.shape, (1,), 0)

    def spread(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors laid out like `flat`, in its type; 1 where a leaf has none."""
        buffer = torch.ones_like(self.flat)
        for name, block in zip(self.leaves, self._split(buffer), strict=True):
            if name in tensors:
                block.copy_(tensors[name])
        return buffer

    def gradients(self) -> Tensors:
        """Every leaf's `grad`, by name.

        Raises:
            RuntimeError: there are none; call `gradient` once before.
        """
        gradients = {n: leaf.grad for n, leaf in self.leaves.items() if leaf.grad is not None}
        if len(gradients) < len(self.leaves):
            raise RuntimeError("gradients: must be there, got none; call gradient() once before")
        return gradients

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy stacked tensors `(g, ...)` into the members; what is already there stays."""
        for name, mine in self.tensors.items():
            theirs = tensors[name]
            if mine.data_ptr() != theirs.data_ptr() or mine.stride() != theirs.stride():
                mine.copy_(theirs)

    @torch.no_grad()
    def load_row(self, i: int, module: nn.Module) -> None:
        """Give member `i` the parameters and buffers of an ordinary module.

        Raises:
            IndexError: no member `i`.
            ValueError: `module` is of another architecture.
        """
        self._check_index(i)
        check_members([self.view(i), module], "module")
        for name, theirs in tensors_of(module).items():
            self.tensors[name][i].copy_(theirs)

    # --- the members -------------------------------------------------------------------

    def _check_index(self, i: int, argument: str = "i") -> None:
        if not -self.size <= i < self.size:
            raise IndexError(f"{argument}: must be a member of 0..{self.size - 1}, got {i}")

    def view(self, i: int) -> nn.Module:
        """Member `i` as a module whose tensors are views: training it trains the population."""
        self._check_index(i)
        return self._copied(i, {name: t[i] for name, t in self.tensors.items()})

    def _copied(self, i: int, tensors: Tensors) -> nn.Module:
        """Member `i` as it is now but for its tensors."""
        shell = self._live[i] if self._live else self.shells[i]
        return like(shell, self.stacked, tensors)

    @property
    def live(self) -> list[nn.Module]:
        """The members that the loop calls, as views: one list while tensors stay where they are."""
        if not self._live:
            self._live = [self.view(i) for i in range(self.size)]
        return self._live

    def member(self, i: int) -> nn.Module:
        """Member `i` as an ordinary module of its own, with the state-dict keys of `build`'s.

        Example:
            >>> pop = Population(lambda: nn.Linear(2, 1), size=3)
            >>> sorted(pop.member(0).state_dict())
            ['bias', 'weight']
        """
        self._check_index(i)
        return self._copied(i, {name: t[i].clone() for name, t in self.tensors.items()})

    def select(self, indices: Sequence[int] | Tensor) -> Self:
        """A new population of the members at `indices`, in that order; repeats are copies.

        Args:
            indices: member numbers, or one truth value a member.

        Raises:
            ValueError: no index.
            IndexError: no such member.
        """
        chosen = torch.as_tensor(indices)
        chosen = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen
        if not len(chosen):
            raise ValueError("indices: must name at least one member, got none")
        for i in chosen.tolist():
            self._check_index(i, "indices")
        rows = {name: t[chosen.to(t.device)] for name, t in self.tensors.items()}
        stacked, engine = with_tensors(self.stacked, rows), self.choice.requested
        shells = self._shells().select([i % self.size for i in chosen.tolist()])
        population = type(self).__new__(type(self))
        population._adopt(stacked, shells, len(chosen), engine, self.precision)
        population.differentiates = self.differentiates
        return population

    def alone(self) -> Self:
        """A population of the first member, computed by the loop as this one is computed."""
        one = type(self).of_built([self.member(0)], engine="loop", precision=self.precision)
        one.differentiates = self.differentiates
        return one

    def __len__(self) -> int:
        return self.size

    # --- computing ---------------------------------------------------------------------

    @property
    def engine(self) -> str:
        """The engine in use, which is the one asked for, or what "auto" chose once it has."""
        return self.choice.name

    def forward(self, x: Any, *, per_member: bool = False) -> Any:
        """Outputs of all members, `(g, B, ...)`.

        Args:
            x: one batch `(B, ...)` that all members see, or one a member, `(g, B, ...)`: a
                tensor; a mapping of tensors, which members get by name; or a tuple or list of
                them, which they get by position.
            per_member: whether `x` has the leading member axis.
        """
        with self.computing(), self.watch.over(self.training, trees.opened(x)) as (x,):
            return self.choice.compute(self, "forward", x, per_member)

    def losses(self, loss: Loss, x: Any, y: Any, *, per_member: bool = False) -> Tensor:
        """Loss of every member on a batch, `(g,)`, ready for `.sum().backward()`.

        Args:
            loss: `loss(output, target)` returns a scalar for one member's batch.
            x: inputs, `(B, ...)` shared, or `(g, B, ...)`, as for `forward`.
            y: targets, a tensor or a tree of tensors, with a member axis exactly if `x` has one.
            per_member: whether `x` and `y` have the leading member axis.

        Raises:
            ValueError: the loss is not a scalar; a module changes its input in place, or the loss
                its target.
            EngineError: the engine that was asked for cannot compute the module.
        """
        function("loss", loss)
        return self._computed("losses", loss, x, y, per_member)

    def accumulate(self, loss: Loss, x: Any, y: Any, *, per_member: bool = False) -> Tensor:
        """Add every member's gradient to its leaves' `grad`, as `losses(...).sum().backward()`.

        The engine may do it member by member, which needs less memory. Returns the losses,
        `(g,)`, detached. `gradient()` must have been called once before.
        """
        self.gradients()
        return self._computed("accumulate", loss, x, y, per_member)

    def _computed(self, what: str, loss: Loss, x: Any, y: Any, per_member: bool) -> Tensor:
        kind = self.training, getattr(loss, "__code__", type(loss))
        with self.computing(), self.watch.over(kind, trees.opened(x), y) as (x, y):
            self.choice.settle(self, loss, x, y, per_member)
            return self.choice.compute(self, what, loss, x, y, per_member)

    def computing(self) -> AbstractContextManager[Any]:
        """A block that computes in the population's precision."""
        low = self.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if low else nullcontext()

    def extra_repr(self) -> str:
        return f"size={self.size}, engine={self.engine}"


def _rejoin(population: nn.Module, _keys: Any) -> None:
    """After `load_state_dict`, which may put other tensors in place (`assign=True`)."""
    if isinstance(population, Population):
        population._rejoin()
