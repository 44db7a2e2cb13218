"""`fit` on a Ray cluster: workers by Ray Train, which starts them again when one is lost.

Every worker runs the same `gradevo.fit` inside the process group that Ray has made; a restart goes
on from the last whole generation in the checkpoint folder. Needs the extra: pip install
'gradevo[ray]'. The rest of gradevo does not know of Ray.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from gradevo.algorithms.base import Algorithm
from gradevo.algorithms.gemonn import GEMONN
from gradevo.arguments import callbacks_of, check_arguments
from gradevo.callbacks import Callback
from gradevo.data import DataLike
from gradevo.distributed.joining import check_shareable
from gradevo.distributed.team import TIMEOUT
from gradevo.engines import Choice
from gradevo.folder import Checkpoint
from gradevo.front import Front
from gradevo.loggers import Log, named
from gradevo.population import PRECISIONS, Build, Loss
from gradevo.result import Result
from gradevo.run import fit as fit_here
from gradevo.start import Source, Start
from gradevo.validation import at_least, flag, one_of
from gradevo.validation import seed as checked_seed


def fit(
    algorithm: Algorithm,
    build: Build,
    loss: Loss,
    train: DataLike,
    *,
    workers: int,
    checkpoint: str | Path | Checkpoint,
    failures: int = 3,
    resources: Mapping[str, float] | None = None,
    use_gpu: bool = False,
    valid: DataLike | None = None,
    seed: int = 0,
    device: str | None = None,
    engine: str = "auto",
    precision: str = "full",
    callbacks: Callback | Sequence[Callback] = (),
    log: Log = None,
    start: Start | Source | Sequence[Source] | None = None,
    timeout: timedelta = TIMEOUT,
) -> Result | Front:
    """Train a population of networks on a Ray cluster and return what came of it.

    As `gradevo.fit`, with the bits of one process where that promises them; the call returns on
    the machine that made it, with all members. The same call made again goes on from
    `checkpoint`. Ray is started on this machine unless `ray.init` was called before.

    Args:
        algorithm, build, loss, train, valid, seed, engine, precision: as for `gradevo.fit`. Ray
            sends them to the workers; data go through its object store.
        workers: how many processes, at least 1.
        checkpoint: a folder that all workers see, or a `Checkpoint`; the result is saved there too.
        failures: how often all start again after a worker was lost; -1: always.
        resources: what a worker takes, {"CPU": 2} for example; None: a CPU, or a GPU.
        use_gpu: a GPU for every worker.
        device: where workers compute; default: the worker's GPU with `use_gpu`, else where `build`
            puts the module.
        callbacks: functions of a generation's info, called on every worker, not here; one that
            returns True ends the run.
        log: as for `gradevo.fit`; on the first worker.
        start: as for `gradevo.fit`; paths as the workers see them, best absolute.
        timeout: how long a worker waits for the others at each exchange.

    Returns:
        The result with all members; for `GEMONN` a `Front`.

    Raises:
        ImportError: Ray is not installed, or what `log` needs.
        TypeError, ValueError: wrong settings, before any worker starts.
        RuntimeError: workers failed more often than `failures` allow; Ray's error is the cause. A
            mistake that only workers find, in the data for example, is tried as often.

    Example:
        >>> import gradevo.ray
        >>> from torch import nn
        >>> gradevo.ray.fit(  # doctest: +SKIP
        ...     GADAM(), lambda: nn.Linear(4, 2), nn.CrossEntropyLoss(), (x, y),
        ...     workers=4, checkpoint="/shared/run",
        ... )
    """
    check_arguments(algorithm, build, loss)
    functions = callbacks_of(callbacks)
    workers, seed = at_least("workers", workers, 1), checked_seed("seed", seed)
    failures, use_gpu = at_least("failures", failures, -1), flag("use_gpu", use_gpu)
    if not isinstance(timeout, timedelta) or timeout <= timedelta(0):
        raise ValueError(f"timeout: must be a positive timedelta, got {timeout!r}")
    check_shareable(algorithm, workers)
    Choice.of(engine)
    one_of("precision", precision, PRECISIONS)
    ray = _ray()
    settings = Checkpoint.of(checkpoint)
    folder = Path(settings.folder).resolve()
    data = ray.put((train, valid))
    given: dict[str, Any] = {
        "seed": seed, "engine": engine, "precision": precision, "callbacks": functions,
        "checkpoint": replace(settings, folder=folder), "start": start, "log": named(log),
    }  # fmt: skip

    def work() -> None:
        rows, held_out = ray.get(data)
        own = import_module("ray.train.torch").get_device() if use_gpu else None
        place = device or own
        fit_here(algorithm, build, loss, rows, valid=held_out, device=place, **given).save(folder)

    _run(work, folder, workers, failures, resources, use_gpu, timeout)
    kind = Front if isinstance(algorithm, GEMONN) else Result
    return kind.load(folder, build)


def _run(
    work: Any, folder: Path, workers: int, failures: int,
    resources: Mapping[str, float] | None, use_gpu: bool, timeout: timedelta,
) -> None:  # fmt: skip
    """Ray Train's workers, until all have done their work."""
    train, torch_train = import_module("ray.train"), import_module("ray.train.torch")
    own = None if resources is None else dict(resources)
    trainer = torch_train.TorchTrainer(
        work,
        torch_config=torch_train.TorchConfig(timeout_s=int(timeout.total_seconds())),
        scaling_config=train.ScalingConfig(
            num_workers=workers, use_gpu=use_gpu, resources_per_worker=own
        ),
        run_config=train.RunConfig(
            name="ray", storage_path=str(folder),
            failure_config=train.FailureConfig(max_failures=failures),
        ),
    )  # fmt: skip
    try:
        error = trainer.fit().error
    except Exception as found:
        error = found
    if error is not None:
        raise RuntimeError(
            f"workers: must end well, got {type(error).__name__} on Ray, where {failures} restarts "
            f"are allowed: {_reason(error)}. What is saved is in {folder}"
        ) from error


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no reason given"


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise ImportError("Ray is not installed: pip install 'gradevo[ray]'") from None
