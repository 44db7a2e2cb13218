"""Populations over processes: speed on two cores, traffic, and what a killed worker costs.

    python benchmarks/scale/run.py speed|traffic|kills [--rounds 7]

The rows go to docs/results/raw/scale.jsonl; `page.py` makes docs/results/scale.md of them.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))

from measure import command_line, machine

WORKER = Path(__file__).with_name("worker.py")
RAW = Path(__file__).parents[2] / "docs" / "results" / "raw" / "scale.jsonl"
LIMIT = 300.0  # seconds after which a run counts as hanging
LENET = ["LeNet-5", "20", "2", "8", "batched/5"]
SMALL = ["MLP 16-70-50-26", "10", "20", "100", "loop"]


def start(ranks: int, arguments: list[str], restarts: int = 0) -> tuple[Any, Path]:
    """Start the worker on so many ranks; the process, and the file it will write."""
    out = Path(tempfile.mkdtemp()) / "out.json"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={ranks}", f"--max-restarts={restarts}", str(WORKER), str(out),
        *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment, start_new_session=True, **quiet), out


def finish(process: Any, out: Path) -> dict[str, Any] | None:
    """What the worker wrote; None if it failed or hung."""
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None
    return json.loads(out.read_text()) if out.exists() else None


def work(ranks: int, arguments: list[str]) -> dict[str, Any]:
    found = finish(*start(ranks, arguments))
    assert found is not None
    return found


def speed(rounds: int) -> dict[str, Any]:
    """LeNet-5, g = 20: one process of one thread against two, in turns."""
    times: dict[int, list[float]] = {1: [], 2: []}
    digests = set()
    for _ in range(rounds):
        for ranks, seconds in times.items():
            found = work(ranks, LENET)
            seconds.append(found["seconds"])
            digests.add(found["digest"])
    ratios = [one / two for one, two in zip(times[1], times[2], strict=True)]
    return {
        "seconds": {n: statistics.median(t) for n, t in times.items()},
        "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios),
        "digests": len(digests), "arguments": LENET,
    }  # fmt: skip


def traffic(rounds: int) -> list[dict[str, Any]]:
    """Bytes that all ranks have sent in each generation, and the bound."""
    found = []
    for members in (10, 20, 40):
        for ranks in (2, 4):
            arguments = ["MLP 16-70-50-26", str(members), "6", "20", "loop"]
            one = work(ranks, arguments)
            each = [after - before for before, after in pairwise(one["sent"])]
            found.append({
                "members": members, "ranks": ranks, "row": one["row"],
                "bytes": statistics.mean(each), "most": max(each),
                "bound": 2 * members * one["row"] + 8 * members,
            })  # fmt: skip
    return found


def kills(rounds: int) -> dict[str, Any]:
    """`kill -9` of a random worker at a random moment, each time in a run of its own."""
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        calm = finish(*start(2, [*SMALL, f"{folder}/calm"]))
        usual = time.monotonic() - begun
        assert calm is not None
        runs = [_killed(draw, usual, f"{folder}/{i}") for i in range(rounds)]
    same = sum(run["digest"] == calm["digest"] for run in runs)
    lost = [run["seconds"] - usual for run in runs if run["digest"]]
    return {
        "runs": rounds, "same": same, "usual": usual, "moments": [run["moment"] for run in runs],
        "hit": sum(run["hit"] for run in runs), "failed": sum(not run["digest"] for run in runs),
        "lost": statistics.median(lost), "most lost": max(lost), "arguments": SMALL,
    }  # fmt: skip


def _killed(draw: random.Random, usual: float, folder: str) -> dict[str, Any]:
    moment, begun = draw.uniform(0.1, 0.95) * usual, time.monotonic()
    process, out = start(2, [*SMALL, folder], restarts=3)
    time.sleep(moment)
    workers = _workers(process.pid)
    if workers:
        os.kill(draw.choice(workers), signal.SIGKILL)
    found = finish(process, out)
    seconds = time.monotonic() - begun
    digest = None if found is None else found["digest"]
    return {"moment": moment, "hit": bool(workers), "seconds": seconds, "digest": digest}


def _workers(parent: int) -> list[int]:
    """Processes that run the worker, of one torchrun."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [int(pid) for pid, ppid, text in rows if int(ppid) == parent and WORKER.name in text]


PARTS: dict[str, Callable[[int], Any]] = {"speed": speed, "traffic": traffic, "kills": kills}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RAW)
    arguments = parser.parse_args()
    results = PARTS[arguments.part](arguments.rounds)
    row = {"part": arguments.part, "results": results, "machine": machine(),
           "command": command_line()}  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
