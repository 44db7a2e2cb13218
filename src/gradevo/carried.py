"""What an optimiser has carried, held against what one of its kind carries after a step.

Torch takes what it is given: a fused optimiser runs past the end of moments that are too short.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from gradevo.forms import Form, anything, list_of, mapping, misfit, number, tensor
from gradevo.optimisers import MemberOptimiser
from gradevo.randomness import preserved

FEW = 2  # numbers of the tensor on which another of the kind takes its step
SUMS = {  # of squares, and steps: never negative
    "exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "exp_inf", "step",
    "row_var", "col_var", "variance",
}  # fmt: skip
STEP = 2.0**53


def check(optimiser: MemberOptimiser, saved: Any, where: str) -> None:
    """Refuse what `optimiser` cannot go on from.

    Args:
        optimiser: of the run, as it is before `load`.
        saved: what its `state` is said to have been.
        where: it stands.

    Raises:
        Misfit: other names, shapes, types or ranges.
    """
    own = optimiser.all()
    list_of(anything, len(own))(saved, where)
    find = _each_alone if optimiser.elementwise else _together
    for i, (one, numbers) in enumerate(zip(own, saved, strict=True)):
        leaves = [leaf for group in one.param_groups for leaf in group["params"]]
        known = range(len(leaves))
        if not isinstance(numbers, dict) or not all(type(k) is int and k in known for k in numbers):
            misfit(f"{where}[{i}]", "numbers of tensors by their places", numbers)
        with preserved():
            forms = find(one)
        if forms is None:  # a class of the user's that cannot be tried
            continue
        for k in known:
            forms[k](numbers.get(k, {}), f"{where}[{i}][{k}]")


def not_numbers(optimiser: MemberOptimiser, saved: list[dict[Any, Any]]) -> Tensor:
    """Of which members something that is carried is NaN, `(g,)`."""
    if optimiser.elementwise:  # member by member, and of each leaf by leaf
        leaves = len(optimiser.names)
        rows = sum(len(group["params"]) for group in optimiser.groups)
        found = {k // leaves for k, numbers in saved[0].items() if _has_nan(numbers)}
        return torch.tensor([i in found for i in range(rows // leaves)])
    members = [i for i, own in enumerate(optimiser.optimisers) for _ in own]
    found = {i for i, state in zip(members, saved, strict=True) if _has_nan(state)}
    return torch.tensor([i in found for i in range(len(optimiser.optimisers))])


def _has_nan(tree: Any) -> bool:
    leaves = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor | float)]
    values = [torch.as_tensor(leaf) for leaf in leaves]
    return any(v.is_floating_point() and bool(v.isnan().any()) for v in values)


# --- forms by a trial ----------------------------------------------------------------------


def _each_alone(one: Optimizer) -> list[Form] | None:
    """Of an elementwise optimiser: a few numbers of a type tell for all tensors of it."""
    found: list[Form] = []
    for group in one.param_groups:
        examples: dict[torch.dtype, Mapping[str, Any]] = {}
        for leaf in group["params"]:
            if leaf.dtype not in examples:
                tried = _tried(one, [(group, [leaf.new_zeros(FEW)])])
                examples[leaf.dtype] = {} if tried is None else tried[-1].get(0, {})
            found.append(_form(examples[leaf.dtype], leaf))
    return found


def _form(example: Mapping[str, Any], leaf: Tensor) -> Form:
    return mapping({name: _like(name, value, leaf.shape) for name, value in example.items()})


def _like(name: str, value: Any, shape: torch.Size) -> Form:
    least = 0.0 if name in SUMS else None
    if not isinstance(value, Tensor):
        return _number_like(value, least)
    if value.dim() == 0:
        return tensor((), value.dtype, least if least is not None else -STEP, STEP)
    return tensor(shape if value.shape == (FEW,) else value.shape, value.dtype, least)


def _number_like(value: Any, least: float | None) -> Form:
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return anything
    return number(-STEP if least is None else least, STEP)


def _together(one: Optimizer) -> list[Form] | None:
    """Of any other: all its tensors have to be tried, since a number depends on others."""
    shapes = [(group, group["params"]) for group in one.param_groups]
    from_far = _tried(one, [(g, [torch.zeros_like(p) for p in own]) for g, own in shapes], steps=3)
    at_end = _tried(one, [(g, [-torch.ones_like(p) for p in own]) for g, own in shapes])
    if from_far is None or at_end is None:
        return None
    count = sum(len(own) for _, own in shapes)
    return [_tree_like([tried.get(k, {}) for tried in from_far + at_end]) for k in range(count)]


def _tree_like(examples: list[Mapping[str, Any]]) -> Form:
    """The names of one of some examples, and under each such numbers, in lists of any length."""
    names = {frozenset(example) for example in examples}
    leaves = [leaf for example in examples for leaf in pytree.tree_leaves(dict(example))]
    types = {leaf.dtype for leaf in leaves if isinstance(leaf, Tensor)}

    def check(value: Any, where: str) -> None:
        mapping({}, others=anything)(value, where)
        if frozenset(value) not in names:
            misfit(where, "what the optimiser carries", f"others: {', '.join(value)}")
        for name, item in value.items():
            known = [pytree.tree_leaves(example[name]) for example in examples if name in example]
            kinds = {_kind(leaf) for own in known for leaf in own}
            for leaf in pytree.tree_leaves(item):
                right = leaf is None or _kind(leaf) in kinds
                if not right or (isinstance(leaf, Tensor) and leaf.dtype not in types):
                    misfit(f"{where}.{name}", "as the optimiser carries it", leaf)
                if name in SUMS:
                    _like(name, leaf, getattr(leaf, "shape", torch.Size()))(leaf, f"{where}.{name}")

    return check


def _kind(leaf: Any) -> Any:
    """What two numbers have in common that may stand for each other."""
    if isinstance(leaf, Tensor) and leaf.dim() > 0:
        return leaf.dtype, leaf.shape
    return "number" if isinstance(leaf, int | float | Tensor) else type(leaf)


States = list[dict[int, dict[str, Any]]]  # by a tensor's number


def _tried(
    one: Optimizer, pairs: list[tuple[dict[str, Any], list[Tensor]]], steps: int = 1
) -> States | None:
    """What another of the kind carries after each of some steps; None: it cannot be tried."""
    groups = [
        {**{k: v for k, v in group.items() if k not in ("params", "initial_lr")}, "params": own}
        for group, own in pairs
    ]
    leaves = [leaf for _, own in pairs for leaf in own]

    def closure() -> Tensor:
        for leaf in leaves:
            leaf.grad = leaf + 1
        return torch.stack([(leaf + 1).square().sum().float() / 2 for leaf in leaves]).sum()

    found: States = []
    try:
        twin = cast(Any, type(one))(groups)
        for _ in range(steps):
            closure()
            twin.step(closure)
            found.append({k: dict(v) for k, v in twin.state_dict()["state"].items()})
    except Exception:  # whatever a class that we do not know may raise
        return None
    return found
