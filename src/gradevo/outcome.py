"""One method, run once on one data set, and what came of it on the test rows."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradevo import record
from gradevo.accuracy import Accuracy
from gradevo.datasets.loading import Data
from gradevo.distributed.joining import current
from gradevo.folder import Checkpoint
from gradevo.front import Front
from gradevo.losses import LOSSES, with_sigmoid
from gradevo.methods import Method
from gradevo.networks import Network
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
        seconds: of training, those before a resume included.
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
    return float(Accuracy(loss)(outputs, rows[1])), float(loss(outputs, rows[1]).double().mean())


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
        options: `engine`, `device`, `start`, `log`, `force` and `quiet` of `fit`.
    """
    named = LOSSES[loss]
    if named.probabilities:
        is_plain = not isinstance(build, Network)
        build = with_sigmoid(build) if is_plain else replace(build, sigmoid=True)
    first, start = current().rank == 0, time.perf_counter()
    notes = {"loss": loss, **described(name, chosen, data, build)}
    result = fit(
        chosen.algorithm,
        build,
        named.loss,
        data.train,
        valid=data.valid,
        seed=seed,
        checkpoint=None if folder is None else Checkpoint(folder, notes=notes),
        **options,
    )
    seconds = round(time.perf_counter() - start, 3)
    if folder is not None and first:
        seconds = record.seconds(folder)  # those of former attempts as well
    whole = result.gather() if isinstance(result, Front) else result  # to pick from
    accuracy, value = measure(chosen.network(whole).to("cpu"), data.test, named.loss)
    if folder is not None:
        result.save(folder)
    steps, engine = result.member_steps, result.engine
    outcome = Outcome(name, data.name, accuracy, value, steps, seconds, engine, seed)
    if folder is not None and first:
        record.note(folder, outcome=asdict(outcome))
    return outcome, whole


def described(
    name: str, chosen: Method, data: Data, build: Callable[[], nn.Module]
) -> dict[str, Any]:
    """What the command knows of a run that `fit` does not, for the run's record."""
    parts = {"train": data.train, "valid": data.valid, "test": data.test}
    rows = {part: len(pair[0]) for part, pair in parts.items()}
    done = data.preparation
    return {
        "method": {"name": name, "pick": chosen.pick, "meaning": chosen.meaning},
        "data": {
            "name": data.name,
            "inputs": list(data.inputs),
            "classes": list(data.classes),
            "rows": rows,
            "preparation": None if done is None else done.written,
        },
        "network": build.written if isinstance(build, Network) else None,
    }


def knee_of(outcome: Outcome, front: Front, data: Data, loss: str) -> Outcome:
    """What a run's outcome is if the knee of its front counts."""
    accuracy, value = measure(front.knee.to("cpu"), data.test, LOSSES[loss].loss)
    return replace(outcome, method=f"{outcome.method}, knee", accuracy=accuracy, loss=value)
