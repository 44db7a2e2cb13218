"""The learning phase: every member takes gradient steps, alone (eq. 6).

A phase is data (`Phase`) and can be left and gone on with after any step. Members' weights
in progress live in the problem's population; nothing else outside `Phase` and `Streams`
changes.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradevo.distributed.rows import fingerprints
from gradevo.health import check_learning, counted
from gradevo.operators.selection import finite_or_worst
from gradevo.optimisers import Hyper
from gradevo.phase import Phase, Recipe, Streams, improved
from gradevo.problem import Problem
from gradevo.randomness import preserved
from gradevo.share import Share
from gradevo.stepping import stepper_of
from gradevo.structure import Tensors

SPELL = 0.02  # seconds between two looks at the clock, where a step takes less
FEW = 20  # steps after which it may be said that nobody learns


def begin(
    problem: Problem,
    recipe: Recipe,
    tensors: Tensors,
    hyper: Hyper,
    rows: Tensor | None = None,
    share: Share | None = None,
) -> Phase:
    """A phase before its first step.

    Args:
        problem: what is learnt.
        recipe: how.
        tensors: start weights, `(g, ...)` each; not changed.
        hyper: the members' own numbers.
        rows: the validation rows to check on; None: all.
        share: which members these are; None: all.
    """
    population = problem.population
    population.load(tensors)
    losses = torch.full((population.size,), torch.inf, dtype=torch.float64)
    first = torch.full_like(losses, torch.nan)
    if recipe.backoff:
        losses = problem.evaluate(tensors, rows)
        first = losses.clone()
    return Phase(
        population.tensors,
        hyper,
        losses,
        share or Share.whole(population.size),
        counted(population.size),
        first,
        kept=clone(tensors) if recipe.backoff else None,
        mean=clone(tensors) if recipe.average else None,
        rows=rows,
    )


def learn(
    problem: Problem, recipe: Recipe, phase: Phase, streams: Streams, *, strict: bool = True
) -> None:
    """Take steps until the phase or the problem's time slice ends; `phase` goes on in place.

    Args:
        problem: what is learnt.
        recipe: how.
        phase: which, and where it stands.
        streams: random numbers and the position in the data.
        strict: stop at a check when nobody learns, as where nobody has learnt before.

    Raises:
        DivergedError: every member skips most of its steps.
    """
    population = problem.population
    population.load(phase.tensors)
    phase.tensors = population.tensors
    end, count = time.monotonic() + problem.slice_seconds, 1
    with preserved(population.device):
        stepper = stepper_of(problem, recipe, phase, streams)
        while phase.step < recipe.steps:
            began = time.monotonic()
            phase.step += stepper.advance(min(count, recipe.before_check(phase.step)))
            if recipe.check_after(phase.step):
                stepper.show()
                check(problem, recipe, phase)
                alone = problem.team.size == 1  # of several, others may be well
                if strict and alone and phase.step >= FEW:
                    check_learning(phase.lost, phase.step)
            if time.monotonic() >= end:
                break
            count = 2 * count if time.monotonic() - began < SPELL else count
        stepper.leave()


def check(problem: Problem, recipe: Recipe, phase: Phase) -> None:
    """Evaluate the members; where the recipe backs off, keep what became better."""
    current = clone(phase.tensors) if phase.mean is not None else phase.tensors
    if recipe.backoff:
        _keep_better(problem, phase, phase.tensors)
        if phase.mean is not None:
            _keep_better(problem, phase, phase.mean)
    elif phase.step == recipe.steps:
        phase.losses = problem.evaluate(phase.mean or phase.tensors, phase.rows)
    problem.population.load(current)  # evaluating the mean has put it there


@torch.no_grad()
def _keep_better(problem: Problem, phase: Phase, tensors: Tensors) -> None:
    assert phase.kept is not None
    losses = problem.evaluate(tensors, phase.rows)
    better = finite_or_worst(losses) < finite_or_worst(phase.losses)
    rows = torch.nonzero(better).flatten().to(problem.population.device)
    for name, tensor in tensors.items():
        phase.kept[name][rows] = tensor[rows]
    phase.losses = torch.where(better, losses, phase.losses)


def outcome(phase: Phase) -> Tensors:
    """The weights that a finished phase hands on, as tensors of their own."""
    return phase.kept or phase.mean or clone(phase.tensors)


def clone(tensors: Tensors) -> Tensors:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same_for_all(start: Mapping[str, float], members: int) -> Hyper:
    """Hyper-parameters with the same value for every member, `(g,)` each."""
    return {
        name: torch.full((members,), float(value), dtype=torch.float64)
        for name, value in start.items()
    }


@dataclass(frozen=True)
class Learnt:
    """Members after a learning phase.

    Attributes:
        members: stacked tensors of those that are in this process.
        losses: of all, `(g,)`.
        prints: their fingerprints, `(g,)`.
        lost: steps that they have skipped, `(g, 2)`.
        improved: whether each is better than before, `(g,)`; NaN where nobody knows.
        homes: their ranks, `(g,)`.
    """

    members: Tensors
    losses: Tensor
    prints: Tensor
    lost: Tensor
    improved: Tensor
    homes: Tensor


def learnt_by_all(problem: Problem, phase: Phase, homes: Tensor) -> Learnt:
    """What every process knows of the members that have learnt, which are at these ranks."""
    members = outcome(phase)
    mine = phase.losses, fingerprints(members), phase.lost.cpu(), improved(phase)
    losses, prints, lost, better = (problem.team.gathered(values, homes) for values in mine)
    return Learnt(members, losses, prints, lost, better, homes)
