"""What one rank does in the tests of populations over processes.

`torchrun tests/team.py OUT JOB ARGUMENT...`: rank 0 writes a JSON file to OUT. Without a group the
process is alone and does the same.
"""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradevo as ge
import runs
from gradevo.distributed.joining import joined
from gradevo.distributed.rows import fingerprints
from gradevo.distributed.team import Team

SHORT: dict[str, Any] = {"population": 7, "generations": 4, "steps": 8, "batch_size": 16}
FEW = {**SHORT, "population": 5}
FRONT: dict[str, Any] = {"population": 7, "generations": 4, "batch_size": 16, "fine_tune": 8}
ISLAND: dict[str, Any] = {**SHORT, "population": 3}
CASES: dict[str, tuple[ge.GADAM | ge.GEMONN | ge.Islands, str]] = {
    "loop": (ge.GADAM(**SHORT), "loop"),
    "threads": (ge.GADAM(**FEW), "loop@2"),
    "simd": (ge.GADAM(**SHORT), "simd"),
    "one at a time": (ge.GADAM(**FEW), "batched/1"),
    "paper": (ge.GADAM.paper(**SHORT | {"steps": 20}), "loop"),
    "paper, new rows": (ge.GADAM.paper(**SHORT, validation_batch=10), "simd"),
    "whole optimisers": (
        ge.GADAM(**FEW, optimizer="LBFGS", evolve=("lr",), options={"max_iter": 2}),
        "loop",
    ),
    "a loader": (ge.GADAM(**FEW), "loop"),
    "mappings": (ge.GADAM(**FEW), "loop"),
    "swarms": (ge.GADAM(**FEW), "loop"),
    "swarms one at a time": (ge.GADAM(**FEW), "batched/1"),
    "islands": (ge.Islands(ge.GADAM(**ISLAND), islands=3), "loop"),
    "random islands": (
        ge.Islands(ge.GADAM.paper(**ISLAND), islands=3, every=1, migrants=2, topology="random"),
        "simd",
    ),
    "a front": (ge.GEMONN.paper(**FRONT), "loop"),
    "a front, again": (
        ge.GEMONN.paper(**FRONT, reevaluate=True, objectives=("flops", "error", "loss")),
        "batched/1",
    ),
    "a front by chance": (ge.GEMONN.paper(**FRONT | {"fine_tune": 0}, crossover="sbx"), "loop"),
}


def plain_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


class Named(nn.Module):
    """Takes its input by name and returns a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.net = runs.net()

    def forward(self, points: torch.Tensor, *, half: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.net(points) + half, "half": half}


def named(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"points": x, "half": x[:, :3] / 2, "labels": y}


def fit(case: str, **more: Any) -> Any:
    algorithm, engine = CASES[case]
    x, y = runs.rows(300)
    train: Any = x, y
    if case == "a loader":
        train = DataLoader(TensorDataset(x, y), 16, shuffle=True)
    loss = ge.SwarmLoss(F.cross_entropy) if "swarms" in case else F.cross_entropy
    build = plain_net if case == "whole optimisers" else runs.net
    given = {"engine": engine, "valid": runs.rows(60), **more}
    if case == "mappings":
        build, loss = Named, ge.OnLogits(F.cross_entropy)
        train, given["valid"] = named(x, y), named(*runs.rows(60))
    return ge.fit(algorithm, build, loss, train, **given)


def digest(result: Any) -> str:
    """All bits of a result that everybody should have; every rank calls it."""
    whole = result.gather()
    history = [{k: v for k, v in i.items() if k != "diversity"} for i in result.history]
    if isinstance(result, ge.Front):
        prints = fingerprints(whole.members.tensors).tolist()
        return hashed([prints, result.rows, history, result.engine, result.member_steps])
    soup = {name: t.unsqueeze(0) for name, t in result.soup_tensors.items()}
    best = {name: t.unsqueeze(0) for name, t in result.best.state_dict().items()}
    prints = [fingerprints(t).tolist() for t in (whole.members.tensors, soup, best)]
    return hashed([prints, result.losses.tolist(), history, result.engine, result.member_steps])


def hashed(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


# --- jobs ----------------------------------------------------------------------------------


def every(team: Team) -> dict[str, str]:
    """Digests of all cases."""
    return {case: digest(fit(case)) for case in CASES}


def chosen(team: Team) -> dict[str, Any]:
    """The engines that the ranks have where they choose themselves."""
    two = ge.Islands(ge.GADAM(**ISLAND), islands=2)  # one of them over two ranks, one alone
    data = TensorDataset(*runs.rows(60))
    given = {"valid": runs.rows(60), "engine": "auto"}
    results = [fit("loop", engine="auto"), ge.fit(two, runs.net, F.cross_entropy, data, **given)]
    own = torch.tensor([[sum(result.engine.encode()) for result in results]])
    ranks = torch.arange(team.size)
    names = [result.engine for result in results]
    return {"engines": team.gathered(own, ranks).tolist(), "names": names}


def handed(team: Team, folder: str) -> dict[str, Any]:
    """What a result does in a group."""
    result = fit("loop")
    refused = ""
    try:
        _ = result.ensemble
    except RuntimeError as error:
        refused = str(error)
    result.save(folder)
    sent = getattr(team, "sent", 0)
    counts = team.gathered(torch.tensor([len(result.members)]), torch.arange(team.size))
    whole = result.gather()
    x = runs.rows(40)[0]
    return {
        "refused": refused, "members": counts.tolist(), "best": result.best(x).tolist(),
        "first": whole.best(x).tolist(), "ensemble": whole.ensemble(x).tolist(),
        "losses": result.losses.tolist(), "sent": sent,
    }  # fmt: skip


def picked(team: Team, folder: str) -> dict[str, Any]:
    """What a front does in a group."""
    front, refused = fit("a front"), ""
    try:
        front.best()
    except RuntimeError as error:
        refused = str(error)
    front.save(folder)
    x, whole = runs.rows(40)[0], front.gather()
    return {
        "refused": refused, "rows": front.rows, "table": front.table(),
        "knee": whole.knee(x).tolist(), "best": whole.best()(x).tolist(),
    }  # fmt: skip


def saved(
    team: Team, folder: str, stop: str = "", die: str = "", case: str = "loop"
) -> dict[str, Any]:
    """A run with checkpoints; it may stop after a generation, or a rank may be killed in one."""
    first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"

    def callback(info: dict[str, Any]) -> bool:
        rank, generation = map(int, die.split("@")) if die else (-1, -1)
        if first and team.rank == rank and info["generation"] == generation:
            os.kill(os.getpid(), signal.SIGKILL)
        return bool(stop) and info["generation"] == int(stop)

    settings = ge.Checkpoint(folder, seconds=0.0)
    result = fit(case, checkpoint=settings, callbacks=[callback])
    return {"digest": digest(result), "generations": len(result.history)}


def full(team: Team, folder: str, rank: str) -> dict[str, Any]:
    """A run in which a rank's disk is full after some time: no file may be longer."""

    def callback(info: dict[str, Any]) -> None:
        if info["generation"] == 3 and team.rank == int(rank):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    try:
        fit("loop", checkpoint=ge.Checkpoint(folder, seconds=0.0), callbacks=[callback])
    except (ge.CheckpointError, RuntimeError) as error:
        return {"error": str(error), "told": team.total(1)}
    return {"error": ""}


def twice(team: Team) -> list[int]:
    """Two groups, one after another, within this one's program."""
    torch.distributed.destroy_process_group()
    found = []
    for _ in range(3):
        with joined() as again:
            found.append(again.total(again.rank + 1))
    return found


def held(team: Team) -> dict[str, Any]:
    """What is left of a group whose team, in a circle that nothing clears away, is still held."""
    torch.distributed.destroy_process_group()
    with joined() as again:
        part = again.split([[0, 1]])
        holder: list[Any] = [again, part, fit("loop"), part.total(again.total(1))]
        holder.append(holder)
    try:
        again.total(1)
    except RuntimeError as error:
        return {"error": str(error), "threads": [name for name in threads() if "gloo" in name]}
    return {"error": ""}


def threads() -> list[str]:
    """Names of the threads of this process."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def wrong(team: Team) -> dict[str, str]:
    """What is refused in a group."""
    found, data = {}, runs.rows(60)
    few = ge.GADAM(**SHORT | {"population": 2})
    for algorithm in (ge.Independent(population=4, steps=2), ge.GEMONN(population=4), few):
        try:
            ge.fit(algorithm, plain_net, F.cross_entropy, data)
        except ValueError as error:
            found[type(algorithm).__name__] = str(error)
    return found


def unlike(team: Team) -> dict[str, Any]:
    """What each rank says if the last differs from the others, by what differs."""
    last, (x, y) = team.rank == team.size - 1, runs.rows(60)
    algorithm = ge.GADAM(**SHORT)
    others: dict[str, dict[str, Any]] = {
        "seed": {"seed": 1},
        "lr": {"algorithm": replace(algorithm, lr=0.5)},
        "training data": {"train": (x, y.flip(0))},
        "engine": {"engine": "batched/1"},
        "build": {"build": "no function"},
        "train": {"train": (x[:0], y[:0])},
    }
    given = {"algorithm": algorithm, "build": plain_net, "loss": F.cross_entropy, "train": (x, y)}
    said: dict[str, Any] = {}
    for name, more in others.items():
        began, error = time.monotonic(), ""
        try:
            ge.fit(**{**given, "engine": "loop", **(more if last else {})}, valid=(x, y))
        except (TypeError, ValueError, RuntimeError) as found:
            error = str(found)
        said[name] = team.everyone((error, time.monotonic() - began))
    return said


def calm(team: Team, folder: str) -> dict[str, Any]:
    """Several of these, in one start of processes."""
    return {
        "chosen": chosen(team), "handed": handed(team, f"{folder}/handed"),
        "picked": picked(team, f"{folder}/picked"), "wrong": wrong(team),
        "unlike": unlike(team),
    }  # fmt: skip


JOBS = {job.__name__: job for job in (every, calm, saved, full, twice, held)}


def launch(
    ranks: int, out: Path, job: str, *arguments: str, limit: float = 150, restarts: int = 0
) -> Any:
    """Run a job on so many ranks, or alone, within a time limit; what it wrote."""
    program = [str(Path(__file__)), str(out), job, *arguments]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}",
                f"--max-restarts={restarts}"]  # fmt: skip
    finish([sys.executable, *(torchrun if ranks else []), *program], limit)
    return json.loads(out.read_text())


def finish(command: list[str], limit: float, **more: Any) -> None:
    """Run a command that must end well within a time limit, and leave nothing when it is up."""
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, **more)  # fmt: skip
    try:
        text, _ = process.communicate(timeout=limit)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, text[-3000:]


def main() -> None:
    torch.set_num_threads(1)
    out, job, *arguments = sys.argv[1:]
    with joined() as team:
        found = partial(JOBS[job], team)(*arguments)
        if team.rank == 0:
            Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
