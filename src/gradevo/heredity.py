"""What children take over from an optimiser: moments, and numbers of their parents' own.

A torch optimiser knows tensors, not members. Where a tensor lies in the population's buffer says
whose it is: a stacked leaf is everybody's, a row of one is a member's (`Population.view` and
`MemberOptimiser` give such rows).
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from gradevo.algorithms.gadam import GADAM
from gradevo.operators import mutation
from gradevo.population import Population
from gradevo.randomness import drawn_key, generator_from

Group = dict[str, Any]
Row = tuple[Optimizer, Tensor]

RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # what schedules keep beside a learning rate
PAIRED = {"beta1": 0, "beta2": 1}


class Estate:
    """What optimisers hold of each member of a population.

    Args:
        population: the members.
        optimizers: over its stacked leaves, or over rows of them, one for all or one a member.

    Raises:
        ValueError: an optimiser holds no tensor of the population.
    """

    def __init__(self, population: Population, optimizers: Sequence[Optimizer]) -> None:
        self.size = population.size
        self.stacked: list[Row] = []
        self.rows: dict[tuple[str, int], Row] = {}
        self.groups: list[list[Group]] = [[] for _ in range(population.size)]
        leaves, rows = _places(population)
        for optimizer in optimizers:
            held = [self._take(optimizer, group, leaves, rows) for group in optimizer.param_groups]
            if not any(held):
                raise ValueError(
                    "optimizer: must hold tensors of the population, got a "
                    f"{type(optimizer).__name__} that holds none of them (a population that was "
                    "moved to another device has new ones)"
                )

    def _take(
        self, optimizer: Optimizer, group: Group, leaves: set[tuple[int, int]],
        rows: dict[tuple[int, int], tuple[str, int]],
    ) -> bool:  # fmt: skip
        """Enter what a parameter group holds; whether it holds anything of the population."""
        places = [(tensor.data_ptr(), tensor.numel()) for tensor in group["params"]]
        mine = [rows.get(place) for place in places]
        for tensor, place, row in zip(group["params"], places, mine, strict=True):
            if row is not None:
                self.rows[row] = optimizer, tensor
            elif place in leaves:
                self.stacked.append((optimizer, tensor))
        owners = {None if row is None else row[1] for row in mine}
        if len(owners) == 1 and (owner := owners.pop()) is not None:
            self.groups[owner].append(group)
        return any(row is not None for row in mine) or not leaves.isdisjoint(places)

    @property
    def columns(self) -> list[tuple[Group, ...]]:
        """Parameter groups that the members have of their own, `g` to a column; perhaps none."""
        counts = {len(own) for own in self.groups}
        return list(zip(*self.groups, strict=True)) if len(counts) == 1 else []

    @torch.no_grad()
    def pass_on(self, children: Tensor, parents: Tensor) -> None:
        """Children's moments and step counts become those of their parents, `(n,)` each.

        Not zero: an optimiser over stacked leaves counts steps for all members together, and Adam
        at step 1000 takes first steps from zero moments that are several times too long.
        """
        for optimizer, leaf in self.stacked:
            for value in optimizer.state.get(leaf, {}).values():
                if isinstance(value, Tensor) and value.dim() > 0 and len(value) == self.size:
                    where = children.to(value.device)
                    value[where] = value[parents.to(value.device)]
        family = dict(zip(children.tolist(), parents.tolist(), strict=True))
        heirs = [(row, held) for row, held in self.rows.items() if row[1] in family]
        left = [self._carried(name, family[i]) for (name, i), _ in heirs]  # before any is replaced
        for (_, (optimizer, tensor)), state in zip(heirs, left, strict=True):
            optimizer.state[tensor] = state

    def _carried(self, name: str, member: int) -> dict[str, Any]:
        """A copy of what is carried for one tensor of a member."""
        if (name, member) not in self.rows:
            return {}
        optimizer, tensor = self.rows[name, member]
        return copy.deepcopy(optimizer.state[tensor]) if tensor in optimizer.state else {}

    def inherit(
        self, config: GADAM, children: Tensor, parents: Tensor, generator: Generator
    ) -> None:
        """Children's own numbers: those of their parents, `(n,)`, perturbed.

        Raises:
            ValueError: `config.evolve` names what the optimiser does not have.
        """
        self.check(config)

        def changed(name: str, values: Tensor, noise: Generator) -> Tensor:
            values = mutation.perturb(name, values[parents], config.perturb, noise)
            return values * config.rate_decay if name == "lr" else values

        for name in config.evolve:
            self._change(name, children.tolist(), changed, generator)

    def spread(self, config: GADAM, generator: Generator) -> None:
        """First numbers of members of their own, around those that they have.

        Raises:
            ValueError: `config.evolve` names what the optimiser does not have.
        """
        self.check(config)

        def changed(name: str, values: Tensor, noise: Generator) -> Tensor:
            deviation = config.spread if name == "lr" else config.spread / 2
            return mutation.spread_out(name, values, deviation, noise)

        for name in config.evolve:
            self._change(name, range(self.size), changed, generator)

    def check(self, config: GADAM) -> None:
        """Refuse names of numbers that members do not have, before any is changed."""
        for column in self.columns:
            for name in config.evolve:
                _keys(name, column[0])

    def _change(
        self, name: str, members: Sequence[int], changed: Any, generator: Generator
    ) -> None:
        """Change a number of some members; all of a member's groups by the same chance."""
        key = drawn_key(generator)
        for column in self.columns:
            for place in _keys(name, column[0]):
                values = torch.tensor([_read(g, name, place) for g in column], dtype=torch.float64)
                found = changed(name, values, generator_from(key)).tolist()
                for member, value in zip(members, found, strict=True):
                    _write(column[member], name, place, value)


def _places(
    population: Population,
) -> tuple[set[tuple[int, int]], dict[tuple[int, int], tuple[str, int]]]:
    """Address and length of the stacked leaves, and of every member's rows of them."""
    leaves = {name: leaf for name, leaf in population.leaves.items() if leaf.numel()}
    whole = {(leaf.data_ptr(), leaf.numel()) for leaf in leaves.values()}
    rows = {
        (row.data_ptr(), row.numel()): (name, i)
        for name, leaf in leaves.items()
        for i, row in enumerate(leaf.detach().unbind(0))
    }
    return whole, rows


def _keys(name: str, group: Group) -> list[str]:
    """Under what keys a parameter group keeps a number.

    Raises:
        ValueError: it has none of that name.
    """
    if name == "lr":
        keys = [key for key in RATES if key in group]
    else:
        keys = [key for key in (name, "betas" if name in PAIRED else name) if key in group][:1]
    if not keys:
        known = ", ".join(key for key in group if key not in ("params", "initial_lr"))
        raise ValueError(f"evolve: must name numbers of the optimiser ({known}), got {name!r}")
    return keys


def _read(group: Group, name: str, key: str) -> float:
    value = group[key]
    return float(value[PAIRED[name]] if key == "betas" else value)


def _write(group: Group, name: str, key: str, value: float) -> None:
    if key == "betas":
        pair = list(group[key])
        pair[PAIRED[name]] = value
        group[key] = tuple(pair)
    elif isinstance(group[key], Tensor):
        group[key] = torch.full_like(group[key], value)  # groups may share one tensor
    else:
        group[key] = value
