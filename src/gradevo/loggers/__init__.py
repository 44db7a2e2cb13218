"""Where a run's numbers go besides its folder: TensorBoard, Weights & Biases, MLflow.

`fit(..., log="tensorboard")`, `log=["wandb", "mlflow"]`, or with settings
`log=ge.loggers.WandB(project="digits", mode="offline")`. A logger of your own is any object
with `kind` and `open`, see `Logger`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from gradevo.loggers.base import Logger, Row, Run, Session
from gradevo.loggers.mlflow import MLflow
from gradevo.loggers.tensorboard import TensorBoard
from gradevo.loggers.wandb import WandB
from gradevo.validation import one_of

__all__ = ["Log", "Logger", "MLflow", "Row", "Run", "Session", "TensorBoard", "WandB", "named"]

Log = str | Logger | Sequence[str | Logger] | None
BY_NAME: dict[str, Callable[[], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


def named(log: Log) -> list[Logger]:
    """The loggers that an argument `log` asks for.

    Raises:
        ImportError: the package of one is not installed.
        TypeError, ValueError: it is no name and no logger.

    Example:
        >>> named("none")
        Traceback (most recent call last):
        ValueError: log: must be one of tensorboard, wandb, mlflow, got 'none'
    """
    if log is None:
        return []
    several = log if isinstance(log, list | tuple) else [log]
    return [_logger(one) for one in several]


def _logger(one: Any) -> Logger:
    if isinstance(one, str):
        one_of("log", one, BY_NAME)
        return BY_NAME[one]()
    if isinstance(one, type) or not (hasattr(one, "open") and hasattr(one, "kind")):
        raise TypeError(f"log: must be a name or a logger, TensorBoard() for example, got {one!r}")
    return one
