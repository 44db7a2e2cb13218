"""Methods run side by side on one data set, with statistics at the end."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from scipy.stats import wilcoxon
from torch import nn

from gradevo.data import batch_of
from gradevo.datasets.loading import Data
from gradevo.methods import WITHOUT, method
from gradevo.outcome import Outcome, run_method
from gradevo.progress import log


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
        options: `engine`, `device` and `force` of `fit`.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"methods: must be different ones, got {', '.join(names)}")
    for name in names:
        method(name, loss, **usable(name, settings))  # a mistake shows before any work
    outcomes = []
    for seed in range(seeds):
        data = load(seed)
        build = network(data)
        for name in names:
            chosen = method(name, loss, **fitting(usable(name, settings), data))
            place = folder / f"{name}-{seed}" if folder is not None else None
            log.info("%s, seed %d", name, seed)
            where = {"seed": seed, "loss": loss, "folder": place}
            outcome, _ = run_method(name, chosen, data, build, **where, **options)
            outcomes.append(outcome)
    return outcomes


def usable(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a method has; others of the methods beside it may have more."""
    return {key: value for key, value in settings.items() if key not in WITHOUT.get(name, ())}


def fitting(settings: dict[str, Any], data: Data) -> dict[str, Any]:
    """Settings with a batch size that the data can fill."""
    asked = settings.get("batch_size")
    return {**settings, "batch_size": batch_of(asked, len(data.train[0]))}


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
