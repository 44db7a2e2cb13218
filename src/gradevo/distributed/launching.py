"""`gradevo train --processes N`: the same command once more, N times, by torchrun."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

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
    them all.

    Args:
        processes: how many, with as many threads each as there are cores for.
        arguments: of `gradevo`.
        restarts: how often all start again after one has died.
    """
    threads = max(1, (os.cpu_count() or 1) // processes)
    command = [
        sys.executable, "-m", "gradevo.distributed", "--standalone",
        f"--nproc-per-node={processes}", f"--max-restarts={restarts}",
        "-m", "--", "gradevo", *arguments,
    ]  # fmt: skip
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    sys.stdout.flush()
    if os.name == "posix":
        os.execve(command[0], command, environment)
    return subprocess.run(command, env=environment, check=False).returncode
