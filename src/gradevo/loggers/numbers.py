"""What is logged: all numbers of a generation's info, and once the settings of the run."""

import math
import platform
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from typing import Any, TypeGuard

from gradevo import __version__
from gradevo.algorithms.base import Algorithm
from gradevo.criteria import unwrapped
from gradevo.front import Front
from gradevo.loggers.base import Plain, Row
from gradevo.problem import Problem
from gradevo.result import Result


def row_of(info: Mapping[str, Any]) -> Row:
    """An info's numbers, whatever the algorithm calls them.

    A number is a scalar. A list of floats is a spread, of which NaN, infinity and None are left
    out; lists of whole numbers say which member came from where and stay in `log.jsonl`. What is
    in a dict has its name before it.

    Args:
        info: of a generation; its `generation` is the step.

    Example:
        >>> row_of({"generation": 2, "best": 0.5, "hyper": {"lr": [0.1, 0.3, None]}}).scalars
        {'generation': 2, 'best': 0.5, 'hyper/lr/min': 0.1, 'hyper/lr/median': 0.2, 'hyper/lr/max': 0.3}
    """  # noqa: E501
    scalars: dict[str, float] = {}
    spreads: dict[str, list[float]] = {}
    for name, value in _leaves(info):
        if _is_number(value) and math.isfinite(value):
            scalars[name] = value
        elif isinstance(value, list) and any(isinstance(item, float) for item in value):
            spread = [item for item in value if _is_number(item) and math.isfinite(item)]
            if spread:
                spreads[name] = spread
                scalars |= _three(name, spread)
    return Row(info["generation"], scalars, spreads)


def _leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name}/")
        else:
            yield before + name, value


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _three(name: str, spread: list[float]) -> dict[str, float]:
    middle = statistics.median_low(spread) / 2 + statistics.median_high(spread) / 2  # no overflow
    return {f"{name}/min": min(spread), f"{name}/median": middle, f"{name}/max": max(spread)}


def settings_of(algorithm: Algorithm, problem: Problem, seed: int) -> dict[str, Plain]:
    """What the run was asked to do and by which versions, as plain values."""
    population = problem.population
    return {
        "algorithm": algorithm.name,
        **dict(_fields(algorithm)),
        "loss": _plain(unwrapped(problem.loss)),
        "parameters": sum(tensor[0].numel() for tensor in population.tensors.values()),
        "training_rows": problem.source.rows,
        "validation_rows": len(problem.valid[0]),
        "engine": population.choice.requested,
        "seed": seed,
        "gradevo": __version__,
        "torch": version("torch"),
        "python": platform.python_version(),
    }


def _fields(config: Any, before: str = "") -> Iterator[tuple[str, Plain]]:
    """A config's fields by name, those of a config within it after its own name."""
    pairs = config.items() if isinstance(config, Mapping) else _pairs(config)
    for name, value in pairs:
        if isinstance(value, Mapping) or (is_dataclass(value) and not isinstance(value, type)):
            yield from _fields(value, f"{before}{name}.")
        elif value is not None:
            yield f"{before}{name}", _plain(value)


def _pairs(config: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(config, field.name)) for field in fields(config)]


def _plain(value: Any) -> Plain:
    """A value that every package takes: infinity, lists and functions are text."""
    if isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(str(_plain(item)) for item in value)
    return str(getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or value)


def outcome_of(result: Result | Front) -> dict[str, float]:
    """What came of a run: the best loss on all validation rows and what it cost."""
    if isinstance(result, Front):
        numbers = {"loss": min(row["loss"] for row in result.rows), "networks": len(result)}
    else:
        numbers = {"loss": float(result.losses[0])}
    numbers["member_steps"] = result.member_steps
    return {f"result/{name}": value for name, value in numbers.items() if math.isfinite(value)}
