"""Methods run side by side on one data set, with statistics at the end."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from scipy.stats import wilcoxon
from torch import Tensor, nn

from gradevo.algorithms.base import LearningConfig
from gradevo.datasets.loading import Data
from gradevo.front import Front
from gradevo.losses import LOSSES, with_sigmoid
from gradevo.methods import Method, method
from gradevo.result import Result
from gradevo.run import fit

CHUNK = 1024


@dataclass(frozen=True)
class Outcome:
    """One method, one seed.

    Attributes:
        method: its name.
        dataset: the data's name.
        accuracy: share of test rows that are right, in [0, 1].
        loss: on test rows; the one that was trained on.
        member_steps: gradient evaluations of one network.
        seconds: of training.
        engine: what computed the members.
        seed: of the data's split and of the run.
    """

    method: str
    dataset: str
    accuracy: float
    loss: float
    member_steps: int
    seconds: float
    engine: str
    seed: int


@torch.no_grad()
def measure(
    network: nn.Module, rows: tuple[Tensor, Tensor], loss: Callable[[Any, Any], Tensor]
) -> tuple[float, float]:
    """Accuracy and mean loss on rows."""
    outputs = torch.cat([network(x) for x in rows[0].split(CHUNK)])
    accuracy = (outputs.argmax(1) == rows[1]).double().mean()
    return float(accuracy), float(loss(outputs, rows[1]).double().mean())


def run_method(
    name: str,
    chosen: Method,
    data: Data,
    build: Callable[[], nn.Module],
    *,
    seed: int,
    loss: str = "cross-entropy",
    folder: Path | None = None,
    **options: Any,
) -> tuple[Outcome, Result | Front]:
    """Train by one method and measure its network on the test rows.

    Args:
        name: what the outcome is called.
        chosen: the method.
        data: training, validation and test rows.
        build: returns a new network at every call.
        seed: of the run.
        loss: one of `LOSSES`.
        folder: where to save checkpoints, the log and the result.
        options: `engine` and `device` of `fit`.
    """
    start, named = time.perf_counter(), LOSSES[loss]
    result = fit(
        chosen.algorithm,
        with_sigmoid(build) if named.probabilities else build,
        named.loss,
        data.train,
        valid=data.valid,
        seed=seed,
        checkpoint=folder,
        **options,
    )
    seconds = time.perf_counter() - start
    whole = result.gather() if isinstance(result, Front) else result  # to pick from
    accuracy, value = measure(chosen.network(whole).to("cpu"), data.test, named.loss)
    if folder is not None:
        result.save(folder)
    steps, engine = result.member_steps, result.engine
    return Outcome(name, data.name, accuracy, value, steps, round(seconds, 3), engine, seed), whole


def knee_of(outcome: Outcome, front: Front, data: Data, loss: str) -> Outcome:
    """What a run's outcome is if the knee of its front counts."""
    accuracy, value = measure(front.knee.to("cpu"), data.test, LOSSES[loss].loss)
    return replace(outcome, method=f"{outcome.method}, knee", accuracy=accuracy, loss=value)


def compare(
    names: Sequence[str],
    load: Callable[[int], Data],
    network: Callable[[Data], Callable[[], nn.Module]],
    *,
    seeds: int,
    settings: dict[str, Any],
    loss: str = "cross-entropy",
    folder: Path | None = None,
    **options: Any,
) -> list[Outcome]:
    """Every method on the same splits, one a seed.

    Args:
        names: methods of `gradevo.methods`.
        load: the data split by a seed.
        network: a builder for the data.
        seeds: how many, from 0.
        settings: of `method`.
        loss: one of `LOSSES`.
        folder: each run's folder is a subfolder of it.
        options: `engine` and `device` of `fit`.
    """
    for name in names:
        method(name, loss, **settings)  # a wrong name or value shows before any work
    outcomes = []
    for seed in range(seeds):
        data = load(seed)
        build = network(data)
        for name in names:
            chosen = method(name, loss, **fitting(settings, data))
            place = folder / f"{name}-{seed}" if folder is not None else None
            where = {"seed": seed, "loss": loss, "folder": place}
            outcome, _ = run_method(name, chosen, data, build, **where, **options)
            outcomes.append(outcome)
    return outcomes


def fitting(settings: dict[str, Any], data: Data) -> dict[str, Any]:
    """Settings with a batch size that the data can fill, where none is given."""
    if settings.get("batch_size") is not None:
        return settings
    return {**settings, "batch_size": min(LearningConfig.batch_size, len(data.train[0]))}


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """For each method its means, deviations, and paired p-values against the first method."""
    names = list(dict.fromkeys(outcome.method for outcome in outcomes))
    first = [o for o in outcomes if o.method == names[0]]
    return [_summarise(name, [o for o in outcomes if o.method == name], first) for name in names]


def _summarise(name: str, mine: list[Outcome], first: list[Outcome]) -> dict[str, Any]:
    row: dict[str, Any] = {"method": name, "seeds": len(mine)}
    for field in ("accuracy", "loss"):
        values = [asdict(outcome)[field] for outcome in mine]
        row[field] = statistics.mean(values)
        row[f"{field}_deviation"] = statistics.stdev(values) if len(values) > 1 else 0.0
        row[f"{field}_p"] = paired_p(values, [asdict(outcome)[field] for outcome in first])
    row["member_steps"] = mine[0].member_steps
    row["seconds"] = statistics.mean(outcome.seconds for outcome in mine)
    return row


def paired_p(values: Sequence[float], reference: Sequence[float]) -> float | None:
    """Two-sided Wilcoxon signed-rank p-value; None where there is nothing to compare."""
    if len(values) != len(reference) or len(values) < 2:
        return None
    differences = [a - b for a, b in zip(values, reference, strict=True)]
    if not any(differences):
        return None
    _, p = cast(tuple[float, float], wilcoxon(differences))
    return float(p)
