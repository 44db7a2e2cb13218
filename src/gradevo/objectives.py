"""What members are compared by where one number is not enough; every objective is minimised."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gradevo.fitness import evaluate
from gradevo.operators import masks as masking
from gradevo.operators.masks import Masks
from gradevo.problem import Problem
from gradevo.randomness import generator_from, isolated
from gradevo.structure import Tensors, evaluating
from gradevo.validation import one_of

Objective = str | Callable[[nn.Module], float]


def density(problem: Problem, tensors: Tensors, masks: Masks, rows: Tensor | None) -> Tensor:
    """Share of the weights that are there; sparsity is 1 minus it."""
    return masking.density(masks)


def error(problem: Problem, tensors: Tensors, masks: Masks, rows: Tensor | None) -> Tensor:
    """Share of validation rows whose largest output is not the label's."""
    problem.population.load(tensors)
    x, y = problem.valid if rows is None else (problem.valid[0][rows], problem.valid[1][rows])
    return evaluate(problem.population, wrong, x, y)


def flops(problem: Problem, tensors: Tensors, masks: Masks, rows: Tensor | None) -> Tensor:
    """Multiply-adds of one row that a kernel for sparse weights would do."""
    uses = places(problem)
    each = [mask.flatten(1).sum(dim=1).cpu().double() * uses[n] for n, mask in masks.items()]
    return torch.stack(each).sum(dim=0)


def weight_bytes(problem: Problem, tensors: Tensors, masks: Masks, rows: Tensor | None) -> Tensor:
    """Bytes of all parameters that are there, without what says where they are."""
    structure = problem.population.structure
    names = [n for n in (*structure.trainable, *structure.frozen) if n not in masks]
    always = sum(tensors[n][0].nbytes for n in names)
    each = [
        mask.flatten(1).sum(dim=1).cpu().double() * tensors[n].element_size()
        for n, mask in masks.items()
    ]
    return torch.stack(each).sum(dim=0) + always


NAMED = {"density": density, "error": error, "flops": flops, "bytes": weight_bytes}
NAMES = ("density", "loss", "error", "flops", "bytes")


def check(objectives: Sequence[Objective]) -> None:
    """Refuse what is neither a name nor a function, and fewer than two.

    Raises:
        ValueError: says which.
    """
    if len(objectives) < 2:
        raise ValueError(f"objectives: must be at least two, got {tuple(objectives)!r}")
    for objective in objectives:
        if not callable(objective):
            one_of("objectives", objective, NAMES)


def columns(
    problem: Problem,
    objectives: Sequence[Objective],
    tensors: Tensors,
    masks: Masks,
    losses: Tensor,
    rows: Tensor | None = None,
) -> Tensor:
    """All objectives of the members in a problem's population, `(g, m)`, float64 on the CPU.

    Args:
        problem: its population has as many members as `tensors`.
        objectives: names, or functions of a member as an ordinary module in eval mode.
        tensors: `(g, ...)` each, already zero where masks say so.
        masks: which weights are there.
        losses: the members' losses, `(g,)`.
        rows: validation rows to use; None: all.
    """

    def column(objective: Objective) -> Tensor:
        if callable(objective):
            return _called(problem, objective, tensors)
        if objective == "loss":
            return losses
        return NAMED[objective](problem, tensors, masks, rows)

    found = [column(objective) for objective in objectives]
    return torch.stack([values.cpu().double() for values in found], dim=1)


def _called(problem: Problem, objective: Callable[[nn.Module], Any], tensors: Tensors) -> Tensor:
    population = problem.population
    population.load(tensors)
    with torch.no_grad(), isolated(generator_from(0), population.device):
        values = [float(objective(population.member(i).eval())) for i in range(len(population))]
    return torch.tensor(values, dtype=torch.float64)


def wrong(output: Any, target: Tensor) -> Tensor:
    """Share of rows whose largest output is not the label's."""
    return (output.argmax(dim=1) != target).double().mean()


@torch.no_grad()
def places(problem: Problem) -> dict[str, float]:
    """How often one row uses each weight: once in a dense layer, once a pixel in a convolution.

    Counted by a forward pass of one row; weights of parts that are not called count once.
    """
    member = problem.population.member(0)
    names = {id(parameter): name for name, parameter in member.named_parameters()}
    uses: dict[str, float] = {}

    def note(part: nn.Module, _: Any, output: Any) -> None:
        first = next(t for t in pytree.tree_leaves(output) if isinstance(t, Tensor))
        for parameter in part.parameters(recurse=False):
            if parameter.dim() >= 2:
                channels = parameter.shape[0] if first.dim() > 1 else 1
                uses[names[id(parameter)]] = max(1.0, first[0].numel() / channels)

    hooks = [part.register_forward_hook(note) for part in member.modules()]
    with evaluating(member), isolated(generator_from(0), problem.population.device):
        member(problem.valid[0][:1])
    for hook in hooks:
        hook.remove()
    return {name: uses.get(name, 1.0) for name in names.values()}
