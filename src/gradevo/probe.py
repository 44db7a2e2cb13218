"""A few rows through every member before a run: what would go wrong in silence shows here.

A member is a copy of what `build` returned, and is asked whether it computes the same; whether a
call changes something that later calls depend on and that no tensor keeps; and whether a gradient
reaches something that nobody trains.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradevo import trees
from gradevo.attributes import described, difference, where
from gradevo.guards import differs, own_copy
from gradevo.population import Population
from gradevo.randomness import generator_from, isolated
from gradevo.shells import like
from gradevo.snapshots import Snapshot, leaves_of
from gradevo.structure import Tensors, evaluating, tensors_of
from gradevo.trees import Tree

log = logging.getLogger(__name__)
NEAR = 1e-4  # of the largest number of an output


def check_members(population: Population, modules: Sequence[nn.Module], x: Tree) -> None:
    """Refuse modules that members would not be copies of.

    Args:
        population: before it learns; left as it is.
        modules: what its members were made of.
        x: some rows.

    Raises:
        ValueError: names the attribute and the member.
    """
    check_alike(population, x)
    try:
        _check_state(population, x, training=False)
        with _unless_it_fails("it is not called in train mode"):
            _check_state(population, x, training=True)
        for i, module in enumerate(modules):
            with _unless_it_fails(f"member {i} is not compared"):
                _check_copy(population, i, module, x)
    except _Refused as found:
        raise ValueError(str(found)) from None


class _Refused(Exception):
    """What a probe has found; anything else that goes wrong in it proves nothing."""


@contextmanager
def _unless_it_fails(what: str) -> Iterator[None]:
    """A block that may want more rows, or other numbers, than a probe has."""
    try:
        yield
    except _Refused:
        raise
    except Exception as error:
        log.info("probe: %s, %s: %s", what, type(error).__name__, error)


def check_real(population: Population) -> None:
    """Refuse complex parameters, which are neither crossed nor stepped as they should be.

    Raises:
        ValueError: names one.
    """
    for name, leaf in population.leaves.items():
        if leaf.is_complex():
            raise ValueError(
                "build: must give real parameters, got "
                f"{name!r} of {type(population.stacked).__name__} in {leaf.dtype}; keep the real "
                "and the imaginary part, and put them together by torch.complex"
            )


def check_alike(population: Population, x: Tree | None = None) -> None:
    """Refuse members that carry something of their own which does not go with their tensors.

    Args:
        population: whose members are to change places, or to be crossed.
        x: some rows, on which it may turn out not to matter; None: it counts whatever it is.

    Raises:
        ValueError: names the attribute and the member.
    """
    if population.shells.differs is None or (x is not None and _alike_on(population, x)):
        return
    path, i = population.shells.differs
    raise ValueError(
        "build: must give members that differ in parameters and buffers only, got "
        f"{path or 'a class'!r} of {type(population.stacked).__name__} that differs between "
        f"members 0 and {i}; a tensor or number of each member's own must be a buffer "
        "(register_buffer)"
    )


def _alike_on(population: Population, x: Tree) -> bool:
    """Whether all members compute the same with the first one's tensors."""
    tensors = {name: t[0].clone() for name, t in population.tensors.items()}
    for mode in (True, False):
        found = []
        for shell in population.shells.modules:
            member = like(shell, population.stacked, {n: t.clone() for n, t in tensors.items()})
            found.append(_called(member.train(mode), x, 1)[0])
        if not all(_near(found[0], other) for other in found):
            return False
    return True


# --- state ---------------------------------------------------------------------------------


def _check_state(population: Population, x: Tree, *, training: bool) -> None:
    """A call must leave nothing outside of tensors that a later one depends on."""
    used, unused = (_member(population, training) for _ in range(2))
    tensors, (first, second) = _tensors(used), _halves(x)
    states, found = [described(used)], []
    for _ in range(2):
        _put(used, tensors)
        outputs, (graph, given) = _called(used, first, 1)
        _check_leaves(used, graph, given)
        found.append([*outputs, *_tensors(used).values()])
        states.append(described(used))
    moved = difference(states[1], states[2])
    changed = difference(states[0], states[1]) or moved
    repeats = moved is None and _near(*found)
    if repeats and (changed is None or _unaffected(used, unused, second)):
        return
    raise _Refused(
        "build: must return modules that keep what forward changes in buffers (register_buffer), "
        f"got {changed or 'something outside of the module'!r} of "
        f"{type(population.stacked).__name__} that a call changes and nothing saves"
    )


def _unaffected(used: nn.Module, unused: nn.Module, x: Tree) -> bool:
    """Whether a module that was called before computes on other rows what a new one does."""
    others = _others(unused)
    for module in (used, unused):
        _put(module, others)
    return _near(_called(used, x, 2)[0], _called(unused, x, 2)[0])


def _check_leaves(member: nn.Module, outputs: list[Tensor], given: list[Tensor]) -> None:
    """A gradient must reach the module's parameters only, and its inputs."""
    known = {id(t) for t in (*member.parameters(), *given)}
    for leaf in leaves_of(*outputs):
        if id(leaf) not in known:
            path = where(member, leaf)
            place = "outside of the module" if path is None else f"in {path!r}"
            raise _Refused(
                "build: must register every parameter that learns, got one of shape "
                f"{tuple(leaf.shape)} {place} that is none of the parameters of "
                f"{type(member).__name__}; make it an nn.Parameter of the module, or let it not "
                "require a gradient"
            )


def _member(population: Population, training: bool) -> nn.Module:
    member = population.member(0)
    return member if training else member.eval()


def _halves(x: Tree) -> tuple[Tree, Tree]:
    rows = trees.length(x)
    if rows < 4:
        return x, x
    return trees.take(x, slice(rows // 2)), trees.take(x, slice(rows // 2, None))


def _called(module: nn.Module, x: Tree, seed: int) -> tuple[list[Tensor], tuple[Any, Any]]:
    """Outputs without graph, and the outputs and inputs themselves.

    Raises:
        _Refused: the module has changed its input.
    """
    given, device = trees.each(own_copy, x), next(module.parameters()).device
    with torch.enable_grad(), isolated(generator_from(seed), device):
        outputs = trees.tensors(trees.call(module, given))
    if differs(trees.tensors(given), x):
        raise _Refused(
            "build: must return modules that leave their input as it is, got a "
            f"{type(module).__name__} that changes it in place"
        )
    return [t.detach().clone() for t in outputs], (outputs, trees.tensors(given))


# --- copies --------------------------------------------------------------------------------


def _check_copy(population: Population, i: int, module: nn.Module, x: Tree) -> None:
    """A member with other numbers computes what the module itself computes with them."""
    member = population.member(i).eval()
    others = _others(member)
    if next(module.parameters()).device != population.device:
        return
    known = Snapshot(module)
    try:
        with evaluating(module), worn(module, others):
            expected = _called(module, x, 1)[0]
    finally:
        known.restore()
    _put(member, others)
    if not _near(expected, _called(member, x, 1)[0]):
        raise _Refused(
            "build: must return modules that can be copied, got a "
            f"{type(module).__name__} of which the copy for member {i} computes something else: "
            "something in it, a function or an object, goes on using the original"
        )


def agree(member: nn.Module, module: nn.Module, x: Tree) -> bool:
    """Whether a member computes in eval mode what another module does; both stay as they are."""
    device = next(member.parameters()).device
    if any(t.device != device for t in (*module.parameters(), *trees.tensors(x))):
        return True  # nobody can tell
    known = Snapshot(module, member)
    try:
        with evaluating(module), evaluating(member):
            return _near(*(_called(one, x, 1)[0] for one in (module, member)))
    finally:
        known.restore()


@contextmanager
def worn(module: nn.Module, tensors: Tensors) -> Iterator[None]:
    """A block in which a module computes with other numbers; its own are not touched."""
    mine = {n: t for n, t in (*module.named_parameters(), *module.named_buffers()) if n in tensors}
    before = {name: tensor.data for name, tensor in mine.items()}
    for name, tensor in mine.items():
        tensor.data = tensors[name].clone()
    try:
        yield
    finally:
        for name, tensor in mine.items():
            tensor.data = before[name]


def _tensors(module: nn.Module) -> Tensors:
    return {name: tensor.clone() for name, tensor in tensors_of(module).items()}


def _others(module: nn.Module) -> Tensors:
    """Other numbers than a module's own."""
    return {n: 0.75 * t if t.is_floating_point() else t for n, t in _tensors(module).items()}


@torch.no_grad()
def _put(module: nn.Module, tensors: Tensors) -> None:
    for name, mine in tensors_of(module).items():
        mine.copy_(tensors[name])


def _near(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether tensors have the same numbers within rounding."""
    return len(one) == len(other) and all(_close(a, b) for a, b in zip(one, other, strict=True))


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    finite = other[other.isfinite()]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(one, other, rtol=0.0, atol=NEAR * size + 1e-12, equal_nan=True)


def needs_gradients(member: nn.Module, x: Tree, call: Callable[..., Any] = trees.call) -> bool:
    """Whether a forward takes gradients by itself, so that it cannot do without a graph."""
    given = trees.each(own_copy, x)
    try:
        with torch.no_grad(), isolated(generator_from(0)):
            call(member, given)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        with torch.enable_grad(), isolated(generator_from(0)):
            call(member, trees.each(own_copy, x))
        return True
    return False
