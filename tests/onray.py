"""What the tests of Ray do, in a process of its own: `python tests/onray.py FOLDER ROOM`,
ROOM for what Ray itself keeps.

Writes a JSON file to FOLDER/out with what each job has found.
"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
import gradevo.ray

SHORT: dict[str, Any] = {"population": 5, "generations": 4, "batch_size": 16}
GADAM = ge.GADAM(**SHORT, steps=8)
FRONT = ge.GEMONN.paper(**SHORT, fine_tune=5)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3))


def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(dim=1)


def fit(algorithm: Any, folder: Path | None = None, **more: Any) -> Any:
    """On two workers where a folder is given, else here."""
    common = {"valid": rows(40), "engine": "loop"}
    if folder is None:
        return ge.fit(algorithm, net, F.cross_entropy, rows(200), **common)
    settings = ge.Checkpoint(folder, seconds=0.0)
    more = {"workers": 2, "checkpoint": settings, **more}
    return gradevo.ray.fit(algorithm, net, F.cross_entropy, rows(200), **common, **more)


def same(one: Any, other: Any) -> bool:
    """Whether two results have the same networks and numbers, bit for bit."""
    tensors = other.members.tensors
    equal = all(torch.equal(t, tensors[name]) for name, t in one.members.tensors.items())
    keep = {"generation", "losses", "survivors"}
    histories = [[{k: i[k] for k in keep} for i in r.history] for r in (one, other)]
    return equal and histories[0] == histories[1] and one.member_steps == other.member_steps


def die(folder: Path, times: int, info: dict[str, Any]) -> None:
    """The second worker is killed in the second generation, so many times."""
    marks = len(list(folder.glob("died-*")))
    if torch.distributed.get_rank() == 1 and info["generation"] >= 2 and marks < times:
        (folder / f"died-{marks}").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    import ray  # not where the other tests run, which look into all files for examples

    folder, room = Path(sys.argv[1]), sys.argv[2]
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=2**27, _temp_dir=room,
    )  # fmt: skip
    alone = fit(GADAM)
    found: dict[str, Any] = {
        "gadam": same(fit(GADAM, folder / "gadam"), alone),
        "gemonn": same(fit(FRONT, folder / "gemonn"), fit(FRONT)),
        "again": same(fit(GADAM, folder / "gadam"), alone),
    }
    (folder / "killed").mkdir()
    once = partial(die, folder / "killed", 1)
    found["killed"] = same(fit(GADAM, folder / "killed", callbacks=[once]), alone)
    found["deaths"] = len(list((folder / "killed").glob("died-*")))
    (folder / "lost").mkdir()
    twice = partial(die, folder / "lost", 2)
    try:
        fit(GADAM, folder / "lost", callbacks=[twice], failures=1)
    except RuntimeError as error:
        found["lost"] = str(error)
    found["after"] = same(fit(GADAM, folder / "lost"), alone)
    (folder / "out").write_text(json.dumps(found))
    ray.shutdown()


if __name__ == "__main__":
    main()
