"""What a run was, for those who come later: `run.json` in its folder, plain JSON with a checksum.

The report and the export read it. Whoever knows something notes a part of its own: `fit` the
settings, versions, engine and end of a run; the command the data, the network and the figures on
test rows.
"""

import logging
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gradevo import sealed
from gradevo.checkpoint import strict
from gradevo.disk import explaining
from gradevo.errors import CheckpointError
from gradevo.names import RECORD as FILE

log = logging.getLogger(__name__)


def note(folder: str | Path, **parts: Any) -> None:
    """Add parts to a run's record, or replace those of the same names.

    Args:
        folder: the run's; made if need be.
        parts: plain values by name; NaN and infinity become null.

    Raises:
        CheckpointError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     note(folder, method="gadam")
        ...     note(folder, outcome={"loss": float("nan")})
        ...     read(folder)
        {'method': 'gadam', 'outcome': {'loss': None}}
    """
    sealed.save_json(Path(folder) / FILE, {**_readable(folder), **strict(parts)})


def _readable(folder: str | Path) -> dict[str, Any]:
    """A record to add to; a damaged one is put aside, since a run does not depend on it."""
    try:
        return read(folder)
    except CheckpointError as error:
        path = Path(folder) / FILE
        log.warning("record: %s; it is put aside as %s.damaged", error, path.name)
        with explaining("be writable", path):
            path.replace(path.with_name(f"{path.name}.damaged"))
        return {}


def read(folder: str | Path) -> dict[str, Any]:
    """A run's record; empty where there is none.

    Raises:
        CheckpointError: the file is damaged, was changed by hand, or cannot be read.
    """
    return sealed.load_json(Path(folder) / FILE) or {}


def seconds(folder: str | Path) -> float:
    """How long a run has taken so far, in all its attempts; 0 where that is not known."""
    try:
        found = read(folder).get("seconds")
    except CheckpointError:
        return 0.0
    return found if isinstance(found, int | float) else 0.0


def now() -> str:
    """The time, universal, to the millisecond: runs are told apart and ordered by it.

    Example:
        >>> now().endswith("Z")
        True
    """
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def circumstances() -> dict[str, Any]:
    """Versions and machine: what else a run's figures depend on."""
    import torch

    return {
        "versions": {
            "gradevo": version("gradevo"),
            "torch": version("torch"),
            "numpy": version("numpy"),
            "python": platform.python_version(),
        },
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }
