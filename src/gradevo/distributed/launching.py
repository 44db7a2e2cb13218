"""`gradevo train --processes N`: the same command once more, N times, by torchrun."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gradevo.interrupts import PARENT

RESTARTS = 3  # of all processes after one has died, where there is a checkpoint to go on from


def inside(found: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several already, by torchrun or SLURM."""
    return "RANK" in found or int(found.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def restarted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun has started this process again after another has died."""
    return environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def spawn(processes: int, arguments: Sequence[str], *, restarts: int) -> int:
    """Run the command in so many processes on this machine; returns its exit code.

    Where the system has it, torchrun takes this process's place, so that whoever stops it stops
    them all. No process looks for modules in the working folder, where a `random.py` may lie.

    Args:
        processes: how many, with as many threads each as there are cores for.
        arguments: of `gradevo`.
        restarts: how often all start again after one has died.
    """
    threads = max(1, (os.cpu_count() or 1) // processes)
    python = [sys.executable, "-P"]
    command = [
        *python, "-m", "gradevo.distributed", "--standalone",
        f"--nproc-per-node={processes}", f"--max-restarts={restarts}",
        "--no-python", "--", *python, "-u", "-m", "gradevo", *arguments,
    ]  # fmt: skip
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, **_found_again()}
    if sys.stdout is not None:
        sys.stdout.flush()
    if os.name == "posix":
        os.execve(command[0], command, {**environment, PARENT: str(os.getpid())})
    return subprocess.run(command, env=environment, check=False).returncode


def _found_again() -> dict[str, str]:
    """Where this package is, for those who do not look in the working folder."""
    import gradevo

    place, former = str(Path(gradevo.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")
    if place != os.path.realpath(os.getcwd()):
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [former, place]))}
