"""What loggers have left on the disk, read back with the real packages."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gradevo.folder import LOG
from gradevo.loggers.numbers import row_of


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What the run folder's own log has, as steps and values by name."""
    rows = [row_of(json.loads(line)) for line in (folder / LOG).read_text().splitlines()]
    names = rows[0].scalars
    return {name: [(row.step, row.scalars[name]) for row in rows] for name in names}


# --- reading back ------------------------------------------------------------------------------


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), {"scalars": 0, "histograms": 0})
    found.Reload()
    return found


def tensorboard_series(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = events(folder)
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def mlflow_run(store: str, folder: Path) -> tuple[Any, Any]:
    """The run that a folder names, and a client to ask for its series."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    return client.get_run(json.loads((folder / "loggers.json").read_text())["mlflow"]), client


def mlflow_steps(store: str, folder: Path, name: str = "best") -> list[int]:
    run, client = mlflow_run(store, folder)
    return [metric.step for metric in client.get_metric_history(run.info.run_id, name)]


def wandb_records(folder: Path) -> list[Any]:
    """The records of a closed run's file, which W&B's own process may end to write a bit later."""
    (file,) = folder.glob("*.wandb")
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = list(records_in(file.read_bytes()))
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{file} has no end")


def records_in(content: bytes) -> Iterator[Any]:
    """Records of a log of LevelDB: blocks of 32 KiB, of which the first begins with seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    position, whole = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        size = int.from_bytes(content[position + 4 : position + 6], "little")
        kind = content[position + 6]  # whole, first, middle, last
        whole += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """A run's history."""
    records = [record.history for record in wandb_records(folder) if record.HasField("history")]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
        for row in records
    ]


def wandb_folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*"), key=lambda path: path.stat().st_ctime)
