"""Torch optimisers over a population, with hyper-parameters of each member's own.

An elementwise optimiser treats every number alone, so one instance serves all members, over
views of their rows: one parameter group where all have the same numbers, else one a member. Any
other class (its update of a number depends on others: Adafactor, Muon, LBFGS, or a class we do
not know) gets one instance a member, over tensors of the member's own shapes.

Members get the bits of g separate optimisers. That is why it is not over the stacked leaves,
which would be faster where all have the same numbers (fused Adam of 64 small members 0.5 ms a
step instead of 2.6): torch's kernels round the last few numbers of a tensor in another way, so
a member's bits would depend on who else is in its process.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from gradevo.structure import Tensors

if TYPE_CHECKING:
    from gradevo.population import Population

ELEMENTWISE = {
    torch.optim.Adadelta, torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW,
    torch.optim.Adamax, torch.optim.ASGD, torch.optim.NAdam, torch.optim.RAdam,
    torch.optim.RMSprop, torch.optim.Rprop, torch.optim.SGD,
}  # fmt: skip
FUSED = {torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad}
ONE_GRADIENT = {  # a step, of torch's own
    kind for kind in vars(torch.optim).values() if isinstance(kind, type)
} - {torch.optim.LBFGS}
FASTER = {"fused", "foreach", "differentiable"}  # implementations that exclude each other

Hyper = dict[str, Tensor]  # name -> one number a member, (g,), float64


def resolve(optimizer: str | type[Optimizer]) -> type[Optimizer]:
    """The optimiser class of a name in `torch.optim`, in any case.

    Raises:
        ValueError: no such optimiser.
    """
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer) and optimizer != Optimizer:
        return optimizer
    classes = {
        name.lower(): value
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }
    if not isinstance(optimizer, str) or optimizer.lower() not in classes:
        names = ", ".join(sorted(value.__name__ for value in classes.values()))
        instance = isinstance(optimizer, Optimizer)
        got = f"an instance of {type(optimizer).__name__}" if instance else repr(optimizer)
        raise ValueError(f"optimizer: must be a torch.optim class or one of {names}, got {got}")
    return classes[optimizer.lower()]


def options_of(numbers: Mapping[str, float], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of an optimiser: `beta1` and `beta2` become `betas`."""
    options = {**fixed, **{k: v for k, v in numbers.items() if k not in ("beta1", "beta2")}}
    if "beta1" in numbers or "beta2" in numbers:
        first, second = fixed.get("betas", (0.9, 0.999))
        options["betas"] = (numbers.get("beta1", first), numbers.get("beta2", second))
    return options


class MemberOptimiser:
    """One optimiser for all members, each with its own numbers.

    Args:
        population: its leaves' `grad` are views of one buffer (see `Population.gradient`).
        optimizer: the torch class.
        hyper: one number a member for each name, `(g,)`.
        fixed: further keyword arguments, the same for all.
    """

    def __init__(
        self,
        population: "Population",
        optimizer: type[Optimizer],
        hyper: Hyper,
        fixed: Mapping[str, Any],
    ) -> None:
        self.elementwise = optimizer in ELEMENTWISE
        self.names = list(population.leaves)
        numbers = [
            {name: float(values[i]) for name, values in hyper.items()}
            for i in range(population.size)
        ]
        self.rows = _rows(population)
        if self.elementwise:
            # a tensor a member, never one for all: a fused kernel rounds a tensor's last numbers
            # otherwise, and who is last depends on who else is in this process
            parts = self.rows
            if all(own == numbers[0] for own in numbers):
                parts = [[row for rows in parts for row in rows]]
            own = [options_of(numbers[i], fixed) for i in range(len(parts))]
            groups = [{"params": p, **o} for p, o in zip(parts, own, strict=True)]
            fused = {"fused": True} if optimizer in FUSED and not FASTER & set(fixed) else {}
            self.optimisers = [[_make(optimizer, groups, fused)]]
        else:
            pairs = zip(self.rows, numbers, strict=True)
            self.optimisers = [_instances(optimizer, p, options_of(own, fixed)) for p, own in pairs]
        self.groups = [group for opt in self.all() for group in opt.param_groups if "lr" in group]
        for group in self.groups:
            group["initial_lr"] = group["lr"]  # as torch's schedulers call it

    @property
    def rates(self) -> list[float]:
        """Start values of the learning rates, one a parameter group."""
        return [group["initial_lr"] for group in self.groups]

    def all(self) -> list[Optimizer]:
        """The torch optimisers that it is made of."""
        return [optimiser for own in self.optimisers for optimiser in own]

    def scale_rate(self, factor: float) -> None:
        """Every learning rate becomes its start value times `factor`."""
        for group in self.groups:
            group["lr"] = group["initial_lr"] * factor

    def step(self, left_out: Sequence[int] = ()) -> None:
        """One step of every member but some, from the gradients in the buffer.

        Torch takes no step for a tensor without a gradient, and counts none.
        """
        rows = [row for i in left_out for row in self.rows[i]]
        gradients = [row.grad for row in rows]
        for row in rows:
            row.grad = None
        for optimiser in self.all() if len(left_out) < len(self.rows) else ():
            optimiser.step()
        for row, gradient in zip(rows, gradients, strict=True):
            row.grad = gradient

    def step_member(
        self, i: int, closure: Callable[[], Tensor], is_sound: Callable[[], bool] = lambda: True
    ) -> bool:
        """One step of member `i` alone; the closure may be called several times (LBFGS).

        Args:
            i: the member.
            closure: computes its gradient; returns the loss.
            is_sound: whether all gradients so far were finite.

        Returns:
            Whether the step was taken: if not, nothing has changed.
        """
        own = self.optimisers[i]
        if all(type(optimiser) in ONE_GRADIENT for optimiser in own):
            closure()
            for optimiser in own if is_sound() else ():
                optimiser.step()
            return is_sound()
        weights = [row.detach().clone() for row in self.rows[i]]
        states = [copy.deepcopy(optimiser.state_dict()["state"]) for optimiser in own]
        for optimiser in own:
            optimiser.step(cast(Any, closure))
        if not is_sound():
            self._put_back(i, weights, states)
        return is_sound()

    @torch.no_grad()
    def _put_back(self, i: int, weights: list[Tensor], states: list[dict[Any, Any]]) -> None:
        for row, before in zip(self.rows[i], weights, strict=True):
            row.copy_(before)
        for optimiser, state in zip(self.optimisers[i], states, strict=True):
            optimiser.state.clear()
            leaves = [leaf for group in optimiser.param_groups for leaf in group["params"]]
            for k, numbers in state.items():
                optimiser.state[leaves[k]] = numbers

    def state(self) -> list[dict[Any, Any]]:
        """What the optimisers carry from step to step; tensors are not copied."""
        return [optimiser.state_dict()["state"] for optimiser in self.all()]

    def forget(self, there: Tensor) -> None:
        """Zero what is carried for numbers that are gone, so that nothing brings them back.

        Args:
            there: 1 for what is there and 0 for what is gone, laid out like `Population.flat`.
        """
        for optimiser in self.all():
            for leaf, numbers in optimiser.state.items():
                for value in numbers.values():
                    if isinstance(value, Tensor) and value.shape == leaf.shape:
                        value.mul_(_at(there, leaf))

    def taken(self) -> int | None:
        """Steps that an elementwise optimiser has taken; None: not as many for all members."""
        carried = [numbers for optimiser in self.all() for numbers in optimiser.state.values()]
        counts = {int(numbers.get("step", 1)) for numbers in carried}  # SGD does not count
        whole = len(carried) in (0, sum(map(len, self.rows)))
        return max(counts, default=0) if len(counts) < 2 and whole else None

    def stacked(self, name: str) -> Tensors:
        """What an elementwise optimiser carries under a name, `(g, ...)`; nothing before a step."""
        found: Tensors = {}
        for leaf, rows in self._carriers():
            values = [self.all()[0].state[row].get(name) for row in rows]
            if any(value is not None for value in values):
                own = [torch.zeros_like(row) if value is None else value
                       for row, value in zip(rows, values, strict=True)]  # fmt: skip
                found[leaf] = torch.stack(own)
        return found

    def put(self, name: str, tensors: Tensors, taken: int | None = None) -> None:
        """Let an elementwise optimiser carry numbers; after so many steps, where it counts."""
        for leaf, rows in self._carriers():
            for row, value in zip(rows, tensors[leaf].unbind(0), strict=True):
                self.all()[0].state[row][name] = value.clone()
                if taken is not None:
                    self.all()[0].state[row]["step"] = torch.tensor(float(taken))

    def _carriers(self) -> list[tuple[str, list[Tensor]]]:
        """By a leaf's name the tensors that an elementwise optimiser knows its rows by."""
        rows = [row for group in self.all()[0].param_groups for row in group["params"]]
        return [(name, rows[i :: len(self.names)]) for i, name in enumerate(self.names)]

    def load(self, state: list[dict[Any, Any]]) -> None:
        """Go on from what `state` returned, bit for bit.

        Torch's `load_state_dict` casts some numbers to the weights' type (NAdam's and ASGD's
        factors) and puts new parameter groups in place of those whose rate is scaled.
        """
        for optimiser, saved in zip(self.all(), state, strict=True):
            leaves = [(leaf, g) for g in optimiser.param_groups for leaf in g["params"]]
            for i, numbers in saved.items():
                leaf, group = leaves[i]
                optimiser.state[leaf] = _placed(numbers, leaf.device, group)


def _at(flat: Tensor, leaf: Tensor) -> Tensor:
    """The part of a buffer laid out like the population's that lies where a leaf does."""
    return flat.as_strided(leaf.shape, leaf.stride(), leaf.storage_offset())


def _placed(numbers: Any, device: torch.device, group: dict[str, Any]) -> Any:
    """An optimiser's numbers where it wants them: step counts stay on the CPU unless fused."""
    everywhere = bool(group.get("fused") or group.get("capturable"))

    def place(value: Any) -> Any:
        moves = isinstance(value, Tensor) and (everywhere or value.dim() > 0)
        return value.to(device) if moves else value

    return pytree.tree_map(place, numbers)


def _leaves(population: "Population") -> list[Tensor]:
    """The stacked leaves with their gradients, as plain tensors."""
    leaves = []
    for name, gradient in population.gradients().items():
        leaf = population.leaves[name].detach()
        leaf.grad = gradient
        leaves.append(leaf)
    return leaves


def _rows(population: "Population") -> list[list[Tensor]]:
    """Each member's trainable tensors and their gradients, as views of the population's."""
    return [[_row(leaf, i) for leaf in _leaves(population)] for i in range(population.size)]


def _row(leaf: Tensor, i: int) -> Tensor:
    row = leaf[i]
    row.grad = None if leaf.grad is None else leaf.grad[i]
    return row


def _make(optimizer: type[Optimizer], parameters: Any, options: Mapping[str, Any]) -> Optimizer:
    return cast(Any, optimizer)(parameters, **options)


def _instances(
    optimizer: type[Optimizer], leaves: list[Tensor], options: dict[str, Any]
) -> list[Optimizer]:
    """One member's own optimiser; Muon, which takes matrices only, has AdamW beside it."""
    if optimizer is not getattr(torch.optim, "Muon", None):
        return [_make(optimizer, leaves, options)]
    matrices = [leaf for leaf in leaves if leaf.dim() == 2]
    others = [leaf for leaf in leaves if leaf.dim() != 2]
    shared = {name: value for name, value in options.items() if name in ("lr", "weight_decay")}
    parts = [(optimizer, matrices, options), (torch.optim.AdamW, others, shared)]
    return [_make(kind, own, numbers) for kind, own, numbers in parts if own]


def default_of(optimizer: str | type[Optimizer], options: Mapping[str, Any], name: str) -> float:
    """The optimiser's own default of one of its numbers, or what `options` says.

    Raises:
        ValueError: the optimiser has no number of that name.
    """
    kind = resolve(optimizer)
    parameters = inspect.signature(kind.__init__).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    values = {**defaults, **options}
    if isinstance(values.get("betas"), tuple):
        values["beta1"], values["beta2"] = values["betas"]
    counts = {key for key, parameter in parameters.items() if parameter.annotation in (int, "int")}
    numbers = [key for key, value in values.items() if _is_number(value) and key not in counts]
    if name not in numbers:
        raise ValueError(
            f"evolve: must name numbers of {kind.__name__} ({', '.join(numbers)}), got {name!r}"
        )
    return float(values[name])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
