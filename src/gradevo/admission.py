"""Rows as the networks and the loss take them: types cast with a word, mistakes named."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gradevo import trees
from gradevo.batches import LoaderSource, Pair, TensorSource
from gradevo.checks import check_inputs
from gradevo.criteria import is_cross_entropy, of_torch, sees_prediction
from gradevo.data import Split
from gradevo.population import Loss, Population
from gradevo.probe_loss import spared
from gradevo.randomness import generator_from, isolated
from gradevo.shapes import check_shapes
from gradevo.swarm.loss import SwarmLoss
from gradevo.trees import Tree

log = logging.getLogger("gradevo.data")
SAMPLE = 8  # rows that are looked at
Types = list[torch.dtype]
REASONS = (  # what torch and modules raise on inputs that they cannot take
    RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError,
)  # fmt: skip


@torch.no_grad()
def admitted(split: Split, population: Population, loss: Loss) -> Split:
    """The data, of types that the networks and the loss take.

    A few rows go through the first network and the loss as they are. What fails and would not in
    the networks' type is cast: floats to floats, whole numbers where floats are wanted, labels to
    int64. Token ids, and numbers that a module casts by itself, stay as they are.

    Args:
        split: checked data, on the population's device.
        population: its first member tries.
        loss: what members are trained on.

    Raises:
        TypeError, ValueError: rows that the networks do not take, or targets that are none of the
            loss; names the data.
    """
    tried = _Trial(population, loss)
    name, (x, y) = "valid" if split.separate else "train", split.valid
    known = tried.settled(name, _rows((x, y)))
    valid = known.cast(name, (x, y))
    source = split.source
    if isinstance(source, TensorSource):
        own = known.cast("train", (source.x, source.y), quiet=not split.separate)
        source.x, source.y = own
        if split.separate:
            tried.settled("train", _rows(own))
    elif isinstance(source, LoaderSource):
        source.admit = _Admission(known, tried if split.separate else None)
    return replace(split, valid=valid)


def _rows(pair: Pair) -> Pair:
    """A few rows; their number is no other axis's length, so that it shows what axes are rows."""
    sizes = {size for tree in pair for t in trees.tensors(tree) for size in t.shape[1:]}
    most = min(SAMPLE, trees.length(pair[0]))
    count = next((n for n in range(most, 1, -1) if n not in sizes), most)
    return trees.take(pair[0], slice(count)), trees.take(pair[1], slice(count))


@dataclass(frozen=True)
class Known:
    """The types that were settled, by the names of x's and y's tensors."""

    x: dict[str, torch.dtype]
    y: dict[str, torch.dtype]

    def cast(self, name: str, pair: Pair, *, quiet: bool = False) -> Pair:
        """Rows in these types.

        Raises:
            ValueError: there are whole numbers in the others' place, and fractions here.
        """
        x, y = pair
        return (
            _cast(f"{name}: x", x, self.x, quiet), _cast(f"{name}: y", y, self.y, quiet)
        )  # fmt: skip


class _Admission:
    """What a loader's batches go through; the first one is tried.

    Args:
        known: types.
        trial: how; None: rows of the same data were tried before.
    """

    def __init__(self, known: Known, trial: "_Trial | None") -> None:
        self.known, self.trial = known, trial
        self.first = True

    def __call__(self, pair: Pair) -> Pair:
        pair = self.known.cast("train", pair, quiet=not self.first)
        if self.first and self.trial is not None:
            device = self.trial.population.device
            x, y = _rows(pair)
            self.trial.settled("train", (trees.to(x, device), trees.to(y, device)))
        self.first = False
        return pair


class _Trial:
    """Tries rows on the first member of a population and a loss.

    Args:
        population: whose first member it is.
        loss: the criterion.
    """

    def __init__(self, population: Population, loss: Loss) -> None:
        self.population, self.loss = population, loss

    def settled(self, name: str, pair: Pair) -> Known:
        """The types in which rows are taken.

        Raises:
            TypeError, ValueError: they are not.
        """
        member, device = self.population.member(0).eval(), self.population.device
        x, y = (trees.each(torch.clone, part) for part in pair)
        check_inputs(name, member, x)
        with (
            isolated(generator_from(0), device), self.population.computing(),
            spared(self.loss) as loss,
        ):  # fmt: skip
            x, output = self._output(name, member, x)
            check_shapes(name, self.loss, output, y)
            y = self._target(name, output, y, loss)
        return Known(_types(x), _types(y))

    def _output(self, name: str, member: nn.Module, x: Tree) -> tuple[Tree, Any]:
        """Inputs as the member takes them, and what it answers."""
        wanted, failed = self.population.flat.dtype, None
        for tried in _variants(x, (_floats(wanted), _reals(wanted))):
            try:
                with torch.enable_grad():  # some take the gradient of their input
                    output = trees.call(member, trees.each(torch.clone, tried))
                return tried, trees.each(torch.detach, output)
            except REASONS as error:
                failed = failed or error
        kind = TypeError if isinstance(failed, TypeError) else ValueError
        raise kind(
            f"{name}: x must be what {type(member).__name__}.forward takes, got {_described(x)}: "
            f"{_brief(failed)}"
        ) from failed

    def _target(self, name: str, output: Any, y: Tree, loss: Loss) -> Tree:
        """Targets as the loss takes them."""
        if self._wants_labels(output, y):
            return _whole(f"{name}: y", y)
        prediction = trees.prediction(output)
        casts = [_integers, _whole_floats]
        if prediction.is_floating_point():
            casts = [_floats(prediction.dtype), _integers, _reals(prediction.dtype), _whole_floats]
        failed = None
        for tried in _variants(y, casts):
            try:
                _ask(loss, output, tried)
                return tried
            except REASONS as error:
                failed = failed or error
        if failed is None or not self._mismatch(failed):
            return y  # what else is wrong shows when the whole is tried
        raise ValueError(
            f"{name}: y must be what the loss takes for outputs {_described(output)}, got "
            f"{_described(y)}: {_brief(failed)}"
        ) from failed

    def _mismatch(self, failed: BaseException) -> bool:
        """Whether torch itself complains, rather than the user's loss with words of its own."""
        return isinstance(failed, RuntimeError | IndexError)

    def _wants_labels(self, output: Any, y: Tree) -> bool:
        known = is_cross_entropy(self.loss) and of_torch(self.loss)
        if not (known and isinstance(y, Tensor) and sees_prediction(self.loss, output)):
            return False
        return y.dim() == trees.prediction(output).dim() - 1


def _ask(loss: Loss, output: Any, y: Tree) -> None:
    """The loss of some rows, and its gradient with respect to the outputs."""
    y = trees.each(torch.clone, y)
    if isinstance(loss, SwarmLoss):
        loss.loss(trees.prediction(output).clone(), y)
        return
    with torch.enable_grad():
        outputs = trees.each(_leaf, output)
        value = loss(outputs, y)
        leaves = [leaf for leaf in trees.tensors(outputs) if leaf.requires_grad]
        if isinstance(value, Tensor) and value.requires_grad and leaves:
            torch.autograd.grad(value.sum(), leaves, allow_unused=True)


def _leaf(output: Tensor) -> Tensor:
    known = output.is_floating_point() or output.is_complex()
    return output.detach().clone().requires_grad_(known)


# --- types ---------------------------------------------------------------------------------

Change = Callable[[Tensor], Tensor]


def _variants(tree: Tree, changes: Sequence[Change]) -> Iterator[Tree]:
    """A tree as it is, then each of the changes that makes a difference."""
    seen = [_types(tree)]
    yield tree
    for change in changes:
        changed = trees.each(change, tree)
        if (types := _types(changed)) not in seen:
            seen.append(types)
            yield changed


def _floats(wanted: torch.dtype) -> Change:
    return lambda t: t.to(wanted) if t.is_floating_point() else t


def _reals(wanted: torch.dtype) -> Change:
    return lambda t: t if t.is_complex() else t.to(wanted)


def _integers(t: Tensor) -> Tensor:
    return t if t.is_floating_point() or t.is_complex() else t.long()


def _whole_floats(t: Tensor) -> Tensor:
    return t.long() if t.is_floating_point() and bool((t == t.round()).all()) else _integers(t)


def _whole(name: str, y: Tensor) -> Tensor:
    """Labels as int64."""
    if y.is_floating_point():
        _check_whole(name, y)
    return y.long()


def _check_whole(name: str, y: Tensor) -> None:
    odd = y != y.round()  # NaN as well
    if bool(odd.any()):
        raise ValueError(f"{name}: must be whole numbers, got {float(y[odd][0]):g}")


def _types(tree: Tree) -> dict[str, torch.dtype]:
    if isinstance(tree, Tensor):
        return {"": tree.dtype}
    leaves = pytree.tree_flatten_with_path(tree)[0]
    return {pytree.keystr(path): t.dtype for path, t in leaves if isinstance(t, Tensor)}


def _cast(name: str, tree: Tree, wanted: dict[str, torch.dtype], quiet: bool) -> Tree:
    if isinstance(tree, Tensor):
        return _cast_tensor(name, tree, wanted.get("", tree.dtype), quiet)
    if _types(tree) == wanted:
        return tree

    def one(path: Any, leaf: Any) -> Any:
        key = pytree.keystr(path)
        known = isinstance(leaf, Tensor)
        return (
            _cast_tensor(f"{name}{key}", leaf, wanted.get(key, leaf.dtype), quiet)
            if known
            else leaf
        )

    return pytree.tree_map_with_path(one, tree)


def _cast_tensor(name: str, t: Tensor, wanted: torch.dtype, quiet: bool) -> Tensor:
    if t.dtype == wanted or t.is_complex():
        return t
    if t.is_floating_point() and not wanted.is_floating_point:
        _check_whole(name, t)
    if not quiet:
        log.warning("%s cast from %s to %s", name, _word(t.dtype), _word(wanted))
    return t.to(wanted)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _described(tree: Tree) -> str:
    if isinstance(tree, Tensor):
        return f"{_word(tree.dtype)} of shape {tuple(tree.shape)}"
    parts = [f"{_word(t.dtype)} {tuple(t.shape)}" for t in trees.tensors(tree)]
    return ", ".join(parts) or type(tree).__name__


def _brief(error: BaseException | None) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
