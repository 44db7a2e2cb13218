"""A population: g members of one architecture, their tensors stacked on a leading axis."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from gradevo import engines, trees
from gradevo.randomness import generator_from, isolated
from gradevo.share import Share, mixed
from gradevo.structure import (
    Structure,
    Tensors,
    check_members,
    stack,
    structure_of,
    tensors_of,
    with_tensors,
)
from gradevo.validation import at_least, one_of

Build = Callable[[], nn.Module]
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
        modules = _built(build, range(size), generator or generator_from(0))
        check_members(modules)
        self._adopt(with_tensors(modules[0], stack(modules)), size, engine, precision)

    @classmethod
    def of_share(
        cls, build: Build, share: Share, *, generator: Generator, engine: str, precision: str
    ) -> Self:
        """Some members of a larger population, as they would be in it."""
        modules = _built(build, share.ids, generator)
        check_members(modules)
        population = cls.__new__(cls)
        stacked = with_tensors(modules[0], stack(modules))
        population._adopt(stacked, len(modules), engine, precision)
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
        check_members(modules, "modules")
        population = cls.__new__(cls)
        population._adopt(with_tensors(modules[0], stack(modules)), len(modules), engine)
        return population

    def _adopt(self, stacked: nn.Module, size: int, engine: str, precision: str = "full") -> None:
        super().__init__()
        one_of("precision", precision, PRECISIONS)
        self.precision = precision
        self.size = size
        self.structure: Structure = structure_of(stacked)
        self.stacked = stacked
        self.training = stacked.training
        self.choice = engines.Choice.of(engine)
        self.register_load_state_dict_post_hook(_rejoin)
        self._flatten()

    # --- the tensors -------------------------------------------------------------------

    def _flatten(self) -> None:
        """Move the trainable leaves into one buffer, one contiguous block each."""
        self.leaves = {n: self.stacked.get_parameter(n) for n in self.structure.trainable}
        leaves = list(self.leaves.values())
        self._flat = torch.cat([leaf.detach().reshape(-1) for leaf in leaves])  # (g * P,)
        for leaf, block in zip(leaves, self._split(self._flat), strict=True):
            leaf.data = block
            leaf.grad = None

    def _split(self, flat: Tensor) -> list[Tensor]:
        """One buffer as the leaves' blocks, `(g, ...)` each and contiguous."""
        leaves = list(self.leaves.values())
        blocks = flat.split([leaf.numel() for leaf in leaves])
        return [block.view(leaf.shape) for leaf, block in zip(leaves, blocks, strict=True)]

    def _rejoin(self) -> None:
        """After torch may have moved tensors: one buffer again, and engines made anew."""
        storage = self._flat.untyped_storage().data_ptr()
        for name, leaf in self.leaves.items():
            current = self.stacked.get_parameter(name)
            if current is not leaf or leaf.untyped_storage().data_ptr() != storage:
                self._flatten()
                break
        for part in self.stacked.modules():  # torch reads statistics as if they lay in a row
            for name, buffer in part.named_buffers(recurse=False):
                part._buffers[name] = buffer.contiguous()
        self.choice.forget()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """`.to(device, dtype)`, `.double()` and friends; keeps the one buffer."""
        super()._apply(fn, recurse)
        self._rejoin()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and unpickled populations have a buffer of their own."""
        super().__setstate__(state)
        self._rejoin()

    @property
    def flat(self) -> Tensor:
        """All trainable numbers, `(g * P,)`: leaf after leaf, each `(g, ...)` and contiguous."""
        return self._flat

    @property
    def tensors(self) -> Tensors:
        """All stacked tensors, `(g, ...)` each, by the names a member gives them; not copies."""
        return tensors_of(self.stacked)

    @property
    def device(self) -> torch.device:
        return self._flat.device

    def gradient(self) -> Tensor:
        """A new gradient buffer, `(g * P,)`, laid out like `flat`; leaves' `grad` are its views."""
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
        theirs = tensors_of(module)
        for name, mine in self.tensors.items():
            mine[i].copy_(theirs[name])

    # --- the members -------------------------------------------------------------------

    def _check_index(self, i: int, argument: str = "i") -> None:
        if not -self.size <= i < self.size:
            raise IndexError(f"{argument}: must be a member of 0..{self.size - 1}, got {i}")

    def view(self, i: int) -> nn.Module:
        """Member `i` as a module whose tensors are views: training it trains the population."""
        self._check_index(i)
        return with_tensors(self.stacked, {name: t[i] for name, t in self.tensors.items()})

    def member(self, i: int) -> nn.Module:
        """Member `i` as an ordinary module of its own, with the state-dict keys of `build`'s.

        Example:
            >>> pop = Population(lambda: nn.Linear(2, 1), size=3)
            >>> sorted(pop.member(0).state_dict())
            ['bias', 'weight']
        """
        self._check_index(i)
        return with_tensors(self.stacked, {name: t[i].clone() for name, t in self.tensors.items()})

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
        population = type(self).__new__(type(self))
        stacked, engine = with_tensors(self.stacked, rows), self.choice.requested
        population._adopt(stacked, len(chosen), engine, self.precision)
        return population

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
        x = trees.opened(x)
        with self.computing():
            return self.choice.compute(self, "forward", x, per_member)

    def losses(self, loss: Loss, x: Any, y: Any, *, per_member: bool = False) -> Tensor:
        """Loss of every member on a batch, `(g,)`, ready for `.sum().backward()`.

        Args:
            loss: `loss(output, target)` returns a scalar for one member's batch.
            x: inputs, `(B, ...)` shared, or `(g, B, ...)`, as for `forward`.
            y: targets, a tensor or a tree of tensors, with a member axis exactly if `x` has one.
            per_member: whether `x` and `y` have the leading member axis.

        Raises:
            ValueError: the loss is not a scalar.
            EngineError: the engine that was asked for cannot compute the module.
        """
        x = trees.opened(x)
        with self.computing():
            self.choice.settle(self, loss, x, y, per_member)
            return self.choice.compute(self, "losses", loss, x, y, per_member)

    def accumulate(self, loss: Loss, x: Any, y: Any, *, per_member: bool = False) -> Tensor:
        """Add every member's gradient to its leaves' `grad`, as `losses(...).sum().backward()`.

        The engine may do it member by member, which needs less memory. Returns the losses,
        `(g,)`, detached. `gradient()` must have been called once before.
        """
        self.gradients()
        x = trees.opened(x)
        with self.computing():
            self.choice.settle(self, loss, x, y, per_member)
            return self.choice.compute(self, "accumulate", loss, x, y, per_member)

    def computing(self) -> AbstractContextManager[Any]:
        """A block that computes in the population's precision."""
        if self.precision == "full":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def extra_repr(self) -> str:
        return f"size={self.size}, engine={self.engine}"


def _built(build: Build, ids: Sequence[int], generator: Generator) -> list[nn.Module]:
    """Members by their numbers, each from a stream of its own."""
    key, modules = int(torch.randint(2**62, (), generator=generator)), []
    for i in ids:
        with isolated(generator_from(mixed(key, i))):
            modules.append(build())
    return modules


def _rejoin(population: nn.Module, _keys: Any) -> None:
    """After `load_state_dict`, which may put other tensors in place (`assign=True`)."""
    if isinstance(population, Population):
        population._rejoin()
