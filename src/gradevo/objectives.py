"""What members are compared by where one number is not enough; every objective is minimised."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gradevo import trees
from gradevo.accuracy import Accuracy
from gradevo.fitness import evaluate
from gradevo.operators import masks as masking
from gradevo.operators.masks import Masks
from gradevo.problem import Problem
from gradevo.randomness import generator_from, isolated
from gradevo.structure import Tensors, evaluating
from gradevo.validation import function, one_of, plain

Objective = str | Callable[[nn.Module], float]


def density(problem: Problem, tensors: Tensors, masks: Masks, rows: Tensor | None) -> Tensor:
    """Share of the weights that are there; sparsity is 1 minus it."""
    return masking.density(masks)


def error(problem: Problem, tensors: Tensors, masks: Masks, rows: Tensor | None) -> Tensor:
    """Share of answers on validation rows that are wrong."""
    problem.population.load(tensors)
    return 1 - evaluate(problem.population, Accuracy(problem.loss), *problem.rows(rows))


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


def check(objectives: Any, name: str = "objectives") -> tuple[Objective, ...]:
    """Several names or functions.

    Raises:
        ValueError, TypeError: says which is none, or that there are fewer than two.
    """
    if not isinstance(objectives, tuple | list) or len(objectives) < 2:
        raise ValueError(f"{name}: must be at least two, got {objectives!r}")
    found = tuple(
        function(name, one) if callable(one) else one_of(name, one, NAMES) for one in objectives
    )
    if len(set(found)) < len(found):
        raise ValueError(f"{name}: must be different ones, got {objectives!r}")
    return found


def check_targets(problem: Problem, objectives: Sequence[Objective]) -> None:
    """Refuse "error" where targets do not say what is right.

    Raises:
        ValueError: says of what kind they are.
    """
    if "error" not in objectives:
        return
    x, y = problem.rows(slice(8))
    member = problem.population.member(0).eval()
    with torch.no_grad(), isolated(generator_from(0), problem.population.device):
        output = trees.prediction(trees.call(member, x))
    if Accuracy(problem.loss).answers(output, y) is None:
        got = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else trees.kind(y)
        raise ValueError(
            "objectives: 'error' needs class labels, one-hot rows, or 0 and 1 under binary "
            f"cross-entropy, got targets {got} for outputs of shape {tuple(output.shape)}"
        )


def check_defined(objectives: Sequence[Objective], found: Tensor, losses: Tensor) -> None:
    """Refuse an objective that is NaN for every member.

    Args:
        objectives: all of them.
        found: their values, `(n, m)`.
        losses: the members', `(n,)`; without a finite one a member has no objectives.

    Raises:
        ValueError: names the objective.
    """
    alive = found[losses.isfinite()]
    for objective, column in zip(objectives, alive.unbind(dim=1), strict=True):
        if len(column) and bool(column.isnan().all()):
            raise ValueError(
                f"objectives: {called(objective)!r} must be a number for at least one member, "
                f"got NaN for all {len(column)}"
            )


def called(objective: Objective) -> str:
    """An objective's name."""
    own = objective if isinstance(objective, str) else getattr(objective, "__name__", "")
    return own or type(objective).__name__


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
    values = []
    for i in range(len(population)):  # each with the same draws, whoever is beside it
        with torch.no_grad(), isolated(generator_from(0), population.device):
            values.append(_asked(objective, population.member(i).eval()))
    return torch.tensor(values, dtype=torch.float64)


def _asked(objective: Callable[[nn.Module], Any], network: nn.Module) -> float:
    try:
        value = objective(network)
    except Exception as error:  # whatever a user's function may raise
        raise ValueError(
            f"objectives: {called(objective)!r} must return a number for every network, got "
            f"{type(error).__name__}: {error}"
        ) from error
    one = isinstance(value, Tensor) and value.numel() == 1
    found = plain(value.reshape(()) if one else value)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError(f"objectives: {called(objective)!r} must return a number, got {value!r}")
    return float(found)


def places(problem: Problem) -> dict[str, float]:
    """How often one row uses each weight: once in a dense layer, once a pixel in a convolution.

    Counted in a forward pass of one row, over every product that a weight has a part in: tied
    weights, layers that are called again and time steps add up. One without a product counts once.
    """
    member, device = problem.population.member(0), problem.population.device
    products = _Products(dict(member.named_parameters()))
    with evaluating(member), isolated(generator_from(0), device), products, torch.enable_grad():
        # with gradients, as attention's fast path shows no products
        trees.call(member, problem.rows(slice(1))[0])
    return {name: products.uses.get(name, 1.0) for name, _ in member.named_parameters()}


class _Products(TorchDispatchMode):
    """Counts how often each weight takes part in a product."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {_memory(t): name for name, t in weights.items() if t.dim() >= 2}
        self.sizes = {name: t.numel() for name, t in weights.items()}
        self.uses: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, kind = kwargs or {}, func.overloadpacket
        result = func(*args, **kwargs)
        for tensor in filter(torch.is_tensor, pytree.tree_leaves(args)):
            name = self.names.get(_memory(tensor))
            if name is not None and kind in flop_registry:
                flops = flop_registry[kind](*args, **kwargs, out_val=result)
                self._add(name, flops / 2 / self.sizes[name])
            elif name is not None and "_rnn" in str(kind):  # a library's own recurrent layer
                self._add(name, result[0][..., 0].numel())  # once a time step
        return result

    def _add(self, name: str, times: float) -> None:
        self.uses[name] = self.uses.get(name, 0.0) + times


def _memory(tensor: Tensor) -> int:
    """Where a tensor and all views of it lie."""
    return tensor.untyped_storage().data_ptr()
