"""What two runs must share for one to go on from the other's checkpoint, and what differs."""

import logging
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, cast

import torch
from torch import nn

from gradevo.algorithms.base import Algorithm
from gradevo.attributes import PLAIN, described
from gradevo.contents import Contents
from gradevo.digests import digest
from gradevo.problem import Problem
from gradevo.structure import tensors_of

log = logging.getLogger(__name__)
EXTENDABLE = {"generations", "theta"}  # a run may be made longer, unless it plans ahead
CIRCUMSTANCES = "circumstances"  # what changes bits, but not what a run is
CONTENT = "content"  # names of digests, which say nothing to a reader
CODE = re.compile(r" py\d+:[0-9a-f]+")
ABSENT = object()
Identity = dict[str, Any]
Path = tuple[str, ...]
COUNTS: dict[Path, str] = {
    ("training data", "kind"): "training data",
    ("training data", "rows"): "training rows",
    ("training data", "batch"): "rows a batch",
    ("validation data", "rows"): "validation rows",
}


def identity_of(
    algorithm: Algorithm,
    problem: Problem,
    contents: Contents,
    seed: int,
    start: dict[str, Any] | None = None,
) -> Identity:
    """All that makes a run what it is, as plain values.

    Args:
        algorithm: its config.
        problem: before anybody has learnt.
        contents: of the data.
        seed: of all random numbers.
        start: what tells the networks apart that it begins with.
    """
    free = set() if getattr(algorithm, "planned", False) else EXTENDABLE
    config = {
        field.name: plain(getattr(algorithm, field.name))
        for field in fields(cast(Any, algorithm))
        if field.name not in free
    }
    tensors = problem.population.tensors
    return {
        "algorithm": algorithm.name,
        **config,
        "architecture": [[n, list(t.shape[1:]), str(t.dtype)] for n, t in tensors.items()],
        "network": _network(problem),
        "loss": _with_numbers(problem.loss),
        "training data": contents.train,
        "validation data": contents.valid,
        "seed": seed,
        **({} if start is None else {"start": start}),
        CIRCUMSTANCES: circumstances(),
    }


def circumstances() -> dict[str, Any]:
    """What else the bits of a run depend on."""
    from gradevo import __version__

    return {
        "gradevo": __version__,
        "torch": torch.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _network(problem: Problem) -> dict[str, Any]:
    """What all members are besides their tensors."""
    known, *others = map(described, problem.population.shells.modules)
    return {n: v for n, v in known.items() if all(o.get(n, ABSENT) == v for o in others)}


def _with_numbers(loss: Any) -> dict[str, Any]:
    """A loss with the weights that it holds."""
    found = described(loss)
    if isinstance(loss, nn.Module):
        numbers = {name: digest([tensor]) for name, tensor in tensors_of(loss).items()}
        found |= {f"{name}, {CONTENT}": number for name, number in numbers.items()}
    return found


def plain(value: Any) -> Any:
    """A config value as another process would write it: functions by what they do."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, PLAIN) and not isinstance(value, complex | bytes):
        return value
    found = described(value)
    return found[""] if len(found) == 1 else found


def readable(identity: Identity) -> dict[str, Any]:
    """What of an identity is for people to read."""
    data = {said: identity[part][name] for (part, name), said in COUNTS.items()}
    inner = ("network", "loss", "validation data", CIRCUMSTANCES)
    rest = {name: value for name, value in identity.items() if name not in inner}
    return {**rest, "loss": identity["loss"].get("", ""), **data}


# --- what differs --------------------------------------------------------------------------


def differences(mine: Identity, theirs: Identity, place: Any) -> list[str]:
    """What differs between this run and one that was saved, a line each; nothing: the same run.

    Versions, machine and threads do not make another run, but other bits: they are warned of.

    Args:
        mine: of this run.
        theirs: of the saved one.
        place: where that is.
    """
    here, there = (run.get(CIRCUMSTANCES, {}) for run in (mine, theirs))
    for name, now, before in differing(here, there):
        log.warning(
            "resume: %s is %s and was %s: the bits may be others than those of a run that never "
            "stopped", name, now, before,
        )  # fmt: skip
    versions = all(here.get(name) == there.get(name) for name in ("torch", "python"))
    one, other = ({n: v for n, v in run.items() if n != CIRCUMSTANCES} for run in (mine, theirs))
    found = _differing(one, other, ())
    if not versions:  # another torch has other attributes, another Python other code
        found = (each for each in found if not _by_version(*each))
    return [_line(*_said(*each), place) for each in found]


def differing(one: Identity, other: Identity) -> list[tuple[str, str, str]]:
    """Where two trees of plain values differ: the path, and what each has there."""
    return [_said(*each) for each in _differing(one, other, ())]


def _differing(one: Any, other: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in dict.fromkeys([*one, *other]):
            yield from _differing(one.get(name, ABSENT), other.get(name, ABSENT), (*path, name))
    elif one != other:
        yield path, one, other


def _by_version(path: Path, one: Any, other: Any) -> bool:
    if path[0] not in ("network", "loss"):
        return False
    return ABSENT in (one, other) or CODE.sub("", str(one)) == CODE.sub("", str(other))


def _said(path: Path, one: Any, other: Any) -> tuple[str, str, str]:
    first, second = ("nothing" if value is ABSENT else repr(value) for value in (one, other))
    return COUNTS.get(path) or ": ".join(filter(None, path)), first, second


def _line(name: str, now: str, before: str, place: Any) -> str:
    if name.endswith(CONTENT):
        return f"the {name} is another than in {place}"
    return f"{name} is {before} in {place} and {now} here"
