"""What the states of algorithms look like on disk, each held against a run's `Plan`.

A form names every field of a state's dataclass; what must hold between fields stands below it.
"""

import logging
from collections.abc import Callable, Collection
from typing import Any, cast

import torch
from torch import Tensor

from gradevo import carried
from gradevo.algorithms import guided
from gradevo.algorithms.adaswarm import AdaSwarm
from gradevo.algorithms.base import Algorithm, LearningConfig
from gradevo.algorithms.gadam import GADAM, GADAMState
from gradevo.algorithms.gemonn import GEMONN, GEMONNState
from gradevo.algorithms.independent import Independent, IndependentState
from gradevo.algorithms.islands import Islands, IslandsState
from gradevo.batches import Position
from gradevo.forms import (
    Form,
    anything,
    either,
    exactly,
    flag,
    generator,
    generator_state,
    instance,
    list_of,
    misfit,
    number,
    optional,
    tensor,
    whole,
)  # fmt: skip
from gradevo.history import ALWAYS
from gradevo.members import Members
from gradevo.operators import masks as masking
from gradevo.optimisers import MemberOptimiser, resolve
from gradevo.phase import Phase, Recipe, Streams
from gradevo.plan import Plan, not_numbers
from gradevo.problem import Problem
from gradevo.share import Share

log = logging.getLogger(__name__)
COUNT, NOTHING = whole(), exactly(None)
KEY = whole(most=2**62 - 1)  # of random numbers


def form_of(algorithm: Algorithm, plan: Plan) -> Form:
    """What a saved state of an algorithm looks like; one of the user's own may have a `form`."""
    if own := getattr(algorithm, "form", None):
        return own(plan)
    known = [FORMS[kind] for kind in type(algorithm).__mro__ if kind in FORMS]
    return known[0](algorithm, plan) if known else anything


def states_of(algorithm: Algorithm, problem: Problem) -> Callable[[int, Tensor | None], Form]:
    """What saved states of a run look like, see `gradevo.folder.RunFolder`."""
    everybody = torch.arange(algorithm.population)

    def form(ranks: int, own: Tensor | None) -> Form:
        members = everybody if own is None else own
        plan = Plan(problem, problem.population, len(everybody), members, ranks)
        known = form_of(algorithm, plan)

        def check(state: Any, where: str) -> None:
            if problem.team.size > 1 and getattr(state, "within", False):
                rule = "of the end of a generation to go on with several processes"
                misfit(where, rule, "one from within a generation; go on with one process")
            known(state, where)

        return check

    return form


# --- parts of states -----------------------------------------------------------------------


def streams(plan: Plan) -> Form:
    """Random numbers and the place in the data."""
    draws = plan.problem.source.draws
    data = instance(Position, {"epoch": generator_state, "taken": whole(most=draws)})
    return instance(Streams, {"data": data, "noise": generator, "choice": generator})


def phase(plan: Plan, recipe: Recipe, hyper: Form, rows: Form, masks: Form = NOTHING) -> Form:
    """A learning phase of all members, in one process."""

    def fits(found: Phase) -> str:
        if found.optimizer is None:
            return "step: must be 0 without what the optimiser carries" if found.step else ""
        plan.population.gradient()
        kind = resolve(recipe.optimizer)
        own = MemberOptimiser(plan.population, kind, found.hyper, recipe.options)
        carried.check(own, found.optimizer, "optimizer")
        wrong = not_numbers(found.tensors) | not_numbers(found.mean or {}, plan.members)
        wrong |= found.losses.isnan() | carried.not_numbers(own, found.optimizer)
        _say(wrong)
        return plan.unsound(found.kept, found.losses) if found.kept else ""

    forms: dict[str, Form] = {
        "tensors": plan.tensors,
        "hyper": hyper,
        "losses": plan.numbers(),
        "share": exactly(Share.whole(plan.members)),
        "kept": plan.tensors if recipe.backoff else NOTHING,
        "mean": plan.tensors if recipe.average else NOTHING,
        "rows": rows,
        "masks": masks,
        "optimizer": anything,
        "lost": skips(plan.rows),
        "first": plan.numbers(),
        "step": whole(most=recipe.steps),
        "passes": COUNT,
    }
    return instance(Phase, forms, fits)


def skips(members: int) -> Form:
    """Counts of skipped steps, see `health.counted`."""
    return tensor((members, 2), torch.int64, 0)


def _say(members: Tensor) -> None:
    """A run may have that, and goes on with it; it is not what a run should be made of."""
    if names := ", ".join(map(str, members.nonzero().flatten().tolist())):
        log.warning("checkpoint: NaN in weights, losses, gradients or moments of members %s", names)


def sparse(plan: Plan, objectives: int) -> Form:
    """Members with masks, compared by so many objectives."""

    def fits(found: Members) -> str:
        alive = found.losses[plan.own].isfinite()
        for name, mask in found.masks.items():
            if bool(((found.tensors[name] != 0) & ~mask)[alive].any()):
                return f"masks.{name}: must be there wherever a weight is not zero"
        wrong = found.losses.isnan()
        wrong |= found.losses.isfinite() & found.objectives.isnan().any(dim=1)
        wrong[plan.own] |= not_numbers(found.gradients or {}, plan.rows)
        _say(wrong)
        return plan.unsound(found.tensors, found.losses)

    forms: dict[str, Form] = {
        "tensors": plan.tensors,
        "masks": plan.masks(_weights(plan)),
        "objectives": tensor((plan.members, objectives), torch.float64),
        "losses": plan.numbers(),
        "homes": plan.homes,
        "gradients": optional(plan.gradients),
    }
    return instance(Members, forms, fits)


def _weights(plan: Plan) -> tuple[str, ...]:
    return masking.prunable(plan.population.tensors, plan.population.structure.trainable)


# --- states --------------------------------------------------------------------------------


def gadam(config: GADAM, plan: Plan) -> Form:
    """A population, between phases or within one."""

    def fits(state: GADAMState) -> str:
        each = 2 if config.learners == "both" else 1
        if state.phases != each * state.generation + state.breeding:
            return "phases: must go with generation and breeding"
        if (state.prints is None) != (state.phases == 0):
            return "prints: must be there once members have learnt"
        if state.breeding and state.phase and (state.parents is None or not state.inherited):
            return "parents: must be there while children learn"
        _say(state.losses.isnan())
        return plan.unlike(state.members, state.prints) or plan.unsound(state.members, state.losses)

    hyper, rows = plan.hyper(config.start_values()), plan.validation_rows(config.validation_batch)
    forms: dict[str, Form] = {
        "streams": streams(plan),
        "members": plan.tensors,
        "losses": plan.numbers(),
        "hyper": hyper,
        "homes": plan.homes,
        "prints": optional(plan.numbers(torch.int64)),
        "inherited": either(exactly({}), hyper),
        "generation": COUNT,
        "passes": COUNT,
        "phases": COUNT,
        "breeding": flag,
        "phase": optional(phase(plan, config.recipe(plan.problem), hyper, rows)),
        "parents": optional(tensor((plan.members, 2), torch.int64, 0, plan.members - 1)),
        "lost": skips(plan.members),
        "improved": optional(plan.numbers()),
        "total": number(),
        "change": number(),
    }
    return instance(GADAMState, forms, fits)


def islands(config: Islands, plan: Plan) -> Form:
    """Populations at an exchange, or in one process between two."""
    inner = config.algorithm

    def fits(state: IslandsState) -> str:
        exchanged = [state.prints, state.epochs, state.taken]
        if any((value is None) != (state.generation == 0) for value in exchanged):
            return "prints, epochs and taken: must be there after an exchange"
        if not state.running:
            plan.tensors(state.members, "members")
            _say(state.losses.isnan())
            return plan.unlike(state.members, state.prints) or plan.unsound(
                state.members, state.losses
            )
        exactly({})(state.members, "members")
        own = gadam(inner, plan.part(inner.population))
        list_of(own, config.islands)(state.running, "running")
        return ""

    values = plan.hyper(inner.start_values())
    draws = plan.problem.source.draws
    forms: dict[str, Form] = {
        "key": KEY,
        "members": anything,
        "losses": plan.numbers(),
        "homes": plan.homes,
        "hyper": either(exactly({}), values),
        "prints": optional(plan.numbers(torch.int64)),
        "generation": COUNT,
        "passes": COUNT,
        "phases": COUNT,
        "epochs": optional(_epochs(config.islands)),
        "taken": optional(tensor((config.islands,), torch.int64, 0, draws)),
        "lost": skips(plan.members),
        "running": anything,
    }
    return instance(IslandsState, forms, fits)


def _epochs(count: int) -> Form:
    def check(value: Any, where: str) -> None:
        tensor((count, None), torch.uint8)(value, where)
        for i, state in enumerate(value):
            generator_state(state, f"{where}[{i}]")

    return check


def gemonn(config: GEMONN, plan: Plan) -> Form:
    """Networks from sparse to dense, with the walker of the ladder or what is fine-tuned."""

    def fits(state: GEMONNState) -> str:
        ready = state.batch and len(state.plan) == plan.members and state.tuned < plan.members
        if state.children is None or ready:
            return ""
        return "batch and plan: must be there while children are fine-tuned"

    members = sparse(plan, len(config.objectives))
    rows, ladder = plan.validation_rows(config.validation_batch), config.search == "ladder"
    forms: dict[str, Form] = {
        "streams": streams(plan),
        "members": members,
        "rows": rows,
        "lost": skips(1 if ladder else plan.members),
        "start": number(),
        "generation": COUNT,
        "passes": COUNT,
        "phase": optional(_walk(config, plan.part(1), rows)) if ladder else NOTHING,
        "children": NOTHING if ladder else optional(members),
        "tuned": whole(most=plan.members),
        "batch": optional(plan.batch),
        "plan": list_of(whole(most=max(config.fine_tune, guided.FEWEST))),
        "key": KEY,
    }
    return instance(GEMONNState, forms, fits)


def _walk(config: GEMONN, plan: Plan, rows: Form) -> Form:
    hyper, masks = plan.hyper(config.start_values()), plan.masks(_weights(plan))
    return phase(plan, config.recipe(plan.problem), hyper, rows, masks)


def independent(config: Independent, plan: Plan) -> Form:
    """Runs beside each other, always within their phase."""

    def fits(state: IndependentState) -> str:
        begun = state.generation > 0 and state.phase.optimizer is None
        return "optimizer: must be there after a generation" if begun else ""

    hyper, rows = plan.hyper(config.start_values()), plan.validation_rows(None)
    own = phase(plan, config.recipe(plan.problem), hyper, rows)
    forms = {
        "streams": streams(plan),
        "hyper": hyper,
        "phase": own,
        "lost": skips(plan.members),
        "generation": COUNT,
    }
    return instance(IndependentState, forms, fits)


ANY = {*ALWAYS, "losses", "hyper", "skipped", "skips"}
BRED = ANY | {"adoption", "survivors"}
NOTED: dict[type, set[str]] = {
    GADAM: BRED | {"diversity", "parents"},
    Islands: ANY | {"islands", "guests", "survivors"},
    GEMONN: BRED | {"densities", "objectives", "front"},
    Independent: ANY,
    AdaSwarm: ANY,
}  # fmt: skip


def noted(algorithm: Algorithm) -> Collection[str]:
    """What an algorithm notes of each generation; of one of the user's own, what `fit` needs."""
    known = [NOTED[kind] for kind in type(algorithm).__mro__ if kind in NOTED]
    if not known or isinstance(algorithm, GEMONN):  # which has no numbers of its members' own
        return known[0] if known else ALWAYS
    config = algorithm.algorithm if isinstance(algorithm, Islands) else algorithm
    return known[0] | {f"hyper.{name}" for name in cast(LearningConfig, config).start_values()}


FORMS: dict[type, Callable[[Any, Plan], Form]] = {
    GADAM: gadam,
    Islands: islands,
    GEMONN: gemonn,
    Independent: independent,
    AdaSwarm: lambda config, plan: independent(config._runs, plan),
}
