"""A run in MLflow: metrics by generation, the settings as parameters."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gradevo.fields import optional, settle
from gradevo.loggers.base import Row, Run, Status, package
from gradevo.validation import text

ENDINGS: dict[Status, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MOST = 1000  # metrics that MLflow takes at once
LONGEST = 6000  # characters of a parameter


@dataclass(frozen=True)
class MLflow:
    """A run in an experiment of MLflow; the program's own active run is left alone.

    A resumed run goes on in the same one.

    Attributes:
        experiment: where it is listed; made if need be.
        name: of the run; None: that of the run folder, or one that MLflow makes up.
        uri: of the tracking server or store, "sqlite:///runs/mlflow.db" for example; None: as
            MLflow itself is set up.

    Raises:
        ImportError: MLflow is not installed.

    Example:
        >>> MLflow(experiment="digits", uri="sqlite:///mlflow.db").experiment
        'digits'
    """

    kind: ClassVar[str] = "mlflow"

    experiment: str = "gradevo"
    name: str | None = None
    uri: str | None = None

    def __post_init__(self) -> None:
        settle(self, experiment=text, name=optional(text), uri=optional(text))
        package("mlflow", "mlflow")

    def open(self, run: Run) -> "MLflowSession":
        client = package("mlflow", "mlflow").MlflowClient(tracking_uri=self.uri)
        if run.id is None:
            name = self.name or (run.folder.resolve().name if run.folder else None)
            begun = client.create_run(self._experiment(client), run_name=name)
        else:
            client.update_run(run.id, status="RUNNING")
            begun = client.get_run(run.id)
        session = MLflowSession(client, begun)
        session.tell(run.settings, begun.data.params)
        return session

    def _experiment(self, client: Any) -> str:
        known = client.get_experiment_by_name(self.experiment)
        return known.experiment_id if known else client.create_experiment(self.experiment)


class MLflowSession:
    """A run in MLflow, whose steps are generations."""

    def __init__(self, client: Any, begun: Any) -> None:
        self.client = client
        self.id: str | None = begun.info.run_id
        there = client.get_metric_history(self.id, "generation")
        self.done = max((metric.step for metric in there), default=0)
        self.entities = package("mlflow.entities", "mlflow")

    def tell(self, settings: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Settings as parameters; those that are there stay, for MLflow allows no others."""
        params = [
            self.entities.Param(name, str(value)[:LONGEST])
            for name, value in settings.items()
            if name not in known
        ]
        self.client.log_batch(self.id, params=params)

    def log(self, rows: Sequence[Row]) -> None:
        count = max(1, MOST // max(len(row.scalars) for row in rows))  # rows at once
        for part in (rows[i : i + count] for i in range(0, len(rows), count)):
            metrics = [metric for row in part for metric in self._metrics(row.scalars, row.step)]
            self.client.log_batch(self.id, metrics=metrics)
            self.done = part[-1].step

    def _metrics(self, scalars: Mapping[str, float], step: int) -> list[Any]:
        now = int(time.time() * 1000)
        return [self.entities.Metric(n, float(v), now, step) for n, v in scalars.items()]

    def close(self, summary: Mapping[str, float], status: Status) -> None:
        self.client.log_batch(self.id, metrics=self._metrics(summary, self.done))
        self.client.set_terminated(self.id, ENDINGS[status])
