"""Populations over processes: speed on two cores, traffic, and what is lost with a killed worker.

    python benchmarks/scale/run.py speed|traffic|kills|ray|jobs|slow [--rounds 7]

`ray` needs the extra of that name.

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
ONRAY = Path(__file__).with_name("onray.py")


def start(
    ranks: int, arguments: list[str], restarts: int = 0, program: Path = WORKER, **more: str
) -> tuple[Any, Path]:
    """Start a program on so many ranks, 0 on Ray; the process, and the file it will write."""
    out = Path(tempfile.mkdtemp()) / "out.json"
    torchrun = [
        "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={ranks}", f"--max-restarts={restarts}", str(program),
    ]  # fmt: skip
    command = [sys.executable, *(torchrun if ranks else [str(ONRAY)]), str(out), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
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
    return launched(WORKER, ranks, arguments)


def launched(program: Path, ranks: int, arguments: list[str]) -> dict[str, Any]:
    """What a program writes that so many ranks run."""
    found = finish(*start(ranks, arguments, program=program))
    assert found is not None
    return found


def speed(rounds: int) -> dict[str, Any]:
    """LeNet-5, g = 20: one process of one thread against two, in turns.

    And against two processes that do not know each other, with half of the members each: what the
    machine has to give.
    """
    times: dict[int, list[float]] = {1: [], 2: []}
    digests, apart = set(), []
    half = [LENET[0], str(int(LENET[1]) // 2), *LENET[2:]]
    for _ in range(rounds):
        for ranks, seconds in times.items():
            found = work(ranks, LENET)
            seconds.append(found["seconds"])
            digests.add(found["digest"])
        both = [finish(*one) for one in [start(1, half), start(1, half)]]
        apart.append(max(one["seconds"] for one in both if one is not None))
    ratios = [one / two for one, two in zip(times[1], times[2], strict=True)]
    ceilings = [one / two for one, two in zip(times[1], apart, strict=True)]
    return {
        "apart": statistics.median(apart), "ceiling": statistics.median(ceilings),
        "ceiling low": min(ceilings), "ceiling high": max(ceilings),
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
    return _kills(rounds, 2)


def ray(rounds: int) -> dict[str, Any]:
    """The same under Ray."""
    return _kills(rounds, 0)


def _kills(rounds: int, ranks: int) -> dict[str, Any]:
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        calm = finish(*start(ranks, [*SMALL, f"{folder}/calm"]))
        usual = time.monotonic() - begun
        assert calm is not None
        runs = [_killed(draw, usual, ranks, f"{folder}/{i}") for i in range(rounds)]
    same = sum(run["digest"] == calm["digest"] for run in runs)
    lost = [run["seconds"] - usual for run in runs if run["digest"]]
    return {
        "runs": rounds, "same": same, "usual": usual, "moments": [run["moment"] for run in runs],
        "hit": sum(run["hit"] for run in runs), "failed": sum(not run["digest"] for run in runs),
        "lost": statistics.median(lost), "most lost": max(lost), "arguments": SMALL,
    }  # fmt: skip


def _killed(draw: random.Random, usual: float, ranks: int, folder: str) -> dict[str, Any]:
    moment, begun = draw.uniform(0.1, 0.95) * usual, time.monotonic()
    process, out = start(ranks, [*SMALL, folder], restarts=3)
    time.sleep(moment)
    workers = _workers(process.pid if ranks else None)
    if workers:
        os.kill(draw.choice(workers), signal.SIGKILL)
    found = finish(process, out)
    seconds = time.monotonic() - begun
    digest = None if found is None else found["digest"]
    return {"moment": moment, "hit": bool(workers), "seconds": seconds, "digest": digest}


def jobs(rounds: int) -> dict[str, Any]:
    """Whole jobs killed at random moments, and started again with another number of ranks."""
    draw, runs = random.Random(1), []
    with tempfile.TemporaryDirectory() as folder:
        calm = work(2, [*SMALL, f"{folder}/calm"])
        for i in range(rounds):
            ranks: list[int] = []
            found = None
            while found is None and len(ranks) < 20:
                ranks.append(draw.choice([n for n in (1, 2, 3, 4) if n not in ranks[-1:]]))
                process, out = start(ranks[-1], [*SMALL, f"{folder}/{i}"])
                if len(ranks) <= 3:
                    found = _cut(process, out, draw.uniform(5, 20))
                else:
                    found = finish(process, out)
            same = found is not None and found["digest"] == calm["digest"]
            runs.append({"ranks": ranks, "same": same})
    return {
        "runs": rounds, "same": sum(run["same"] for run in runs),
        "killed": sum(len(run["ranks"]) - 1 for run in runs), "each": runs, "arguments": SMALL,
    }  # fmt: skip


def _cut(process: Any, out: Path, moment: float) -> dict[str, Any] | None:
    """What a job writes that is killed with all its processes, if it had ended before."""
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return json.loads(out.read_text()) if out.exists() else None


def slow(rounds: int) -> dict[str, Any]:
    """Two ranks, one of which takes three times as long for a step: one population, and islands."""
    found: dict[str, Any] = {}
    for kind in ("one population", "two islands"):
        times: dict[str, list[float]] = {"even": [], "slow": []}
        digests = set()
        more = {"ISLANDS": "2"} if kind == "two islands" else {}
        for _ in range(rounds):
            for pace, seconds in times.items():
                who = "1" if pace == "slow" else "none"
                one = finish(*start(2, SMALL, **more, SLOW=who))
                assert one is not None
                seconds.append(one["seconds"])
                digests.add(one["digest"])
        found[kind] = {
            **{pace: statistics.median(seconds) for pace, seconds in times.items()},
            "digests": len(digests),
        }
    return {"kinds": found, "arguments": SMALL}


def _workers(parent: int | None) -> list[int]:
    """Processes that run the worker, of one torchrun or of Ray."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    if parent is None:
        return [int(pid) for pid, _, text in rows if text.startswith("ray::RayTrainWorker")]
    return [int(pid) for pid, ppid, text in rows if int(ppid) == parent and WORKER.name in text]


PARTS: dict[str, Callable[[int], Any]] = {
    "speed": speed, "traffic": traffic, "kills": kills, "ray": ray, "jobs": jobs, "slow": slow,
}  # fmt: skip


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
