"""The front of a run: which of its networks no other dominates, on all validation rows."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gradevo import objectives as measures
from gradevo.accuracy import Accuracy
from gradevo.distributed.outcome import SharedFront
from gradevo.errors import DivergedError
from gradevo.fitness import evaluations
from gradevo.front import Front
from gradevo.objectives import Objective
from gradevo.operators import masks as masking
from gradevo.problem import Problem
from gradevo.structure import Tensors
from gradevo.tradeoff import Tradeoff


def front_of(
    problem: Problem,
    objectives: Sequence[Objective],
    tensors: Tensors,
    homes: Tensor,
    history: list[dict[str, Any]],
) -> Front:
    """The members of a run that no other dominates, measured on all validation rows.

    Args:
        problem: its population is loaded with the members.
        objectives: the run's.
        tensors: of the members that are in this process, stacked.
        homes: every member's rank, `(g,)`.
        history: the run's.

    Raises:
        DivergedError: no member's loss is finite.
    """
    population, team = problem.population, problem.team
    points = _measured(problem, objectives, tensors, homes)
    chosen = points.front()
    if not len(chosen):
        raise DivergedError(
            "loss: must be finite on the validation rows for at least one member, got NaN or "
            f"infinity for all {len(points)}"
        )
    population.load(tensors)
    points, steps = points.take(chosen), history[-1]["member_steps"] if history else 0
    engine = problem.choice.name
    if team.size == 1:
        return Front(population.select(chosen).eval(), points, history, steps, engine)
    given = population.eval(), points, history, steps, engine
    return SharedFront(*given, team=team, homes=homes, chosen=chosen)


def _measured(
    problem: Problem, objectives: Sequence[Objective], tensors: Tensors, homes: Tensor
) -> Tradeoff:
    names = masking.prunable(tensors, problem.population.structure.trainable)
    masks = masking.of_values(tensors, names)
    problem.population.load(tensors)
    both = [problem.loss, Accuracy(problem.loss)]
    losses, right = evaluations(problem.population, both, *problem.valid)
    found = measures.columns(problem, objectives, tensors, masks, losses)
    here = masking.count(masks), losses, right, found
    counts, losses, right, found = (problem.team.gathered(values, homes) for values in here)
    measures.check_defined(objectives, found, losses)
    return Tradeoff(
        weights=masking.total(masks),
        nonzeros=counts,
        losses=losses,
        accuracies=None if bool(right.isnan().all()) else right,
        others=_others(objectives, found),
    )


def _others(objectives: Sequence[Objective], found: Tensor) -> dict[str, Tensor]:
    """Columns by name but for density and loss; functions of one name are numbered."""
    others: dict[str, Tensor] = {}
    taken = {"sparsity", "density", "nonzeros", "loss", "accuracy"}
    for objective, column in zip(objectives, found.unbind(dim=1), strict=True):
        if objective in ("density", "loss"):
            continue
        known = measures.called(objective)
        name, count = known, 2
        while name in taken | others.keys():
            name, count = f"{known} {count}", count + 1
        others[name] = column
    return others
