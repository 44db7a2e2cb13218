"""One population over two processes: the same bits, on two cores.

    python examples/two_processes.py

What to see: the program runs itself once alone and once in two processes by torchrun, each with
one thread. Both print the same digest of all weights: what is random is drawn by a member's
number, not by the process that has it. On two free cores the second run takes about half of the
time for learning; starting two interpreters costs seconds, so short runs gain nothing.
"""

import argparse
import hashlib
import subprocess
import sys
import time
from pathlib import Path

QUICK, FULL = 5, 100  # steps a learning phase
PROCESSES = 2


def train(steps: int) -> None:
    """What every process does; the first one reports."""
    import torch
    from torch import nn

    import gradevo as ge
    from gradevo.datasets import load
    from gradevo.distributed import joined

    def network() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip

    torch.set_num_threads(1)
    data = load("digits", seed=0)
    algorithm = ge.GADAM(population=8, generations=2, steps=steps, batch_size=128)
    with joined() as team:  # alone, unless torchrun has started several
        start = time.perf_counter()
        result = ge.fit(
            algorithm, network, nn.CrossEntropyLoss(), data.train, valid=data.valid,
            engine="loop",  # bits are the same for an engine that computes members one by one
        )  # fmt: skip
        seconds = time.perf_counter() - start
        whole = result.gather()  # all members in every process
        x, y = data.test
        right = float((whole.best(x).argmax(1) == y).float().mean())
        weights = b"".join(t.numpy().tobytes() for t in whole.members.tensors.values())
        digest = hashlib.sha256(weights).hexdigest()[:16]
        if team.rank == 0:
            print(f"{team.size},{len(result.members)},{seconds:.1f},{right:.4f},{digest}")


def run(processes: int, steps: int) -> list[str]:
    """This program again, as the worker, in so many processes; what the first one reports."""
    worker = [str(Path(__file__)), "--worker", str(steps)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), *worker]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return done.stdout.strip().splitlines()[-1].split(",")


def main() -> None:
    parser = argparse.ArgumentParser(description="One population over two processes.")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--worker", type=int, metavar="STEPS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        train(args.worker)
        return
    steps, digests = QUICK if args.quick else FULL, set[str]()
    print(f"{'processes':>9} {'members of each':>16} {'whole':>8} {'fit':>8} {'test':>7}  weights")
    for processes in (1, PROCESSES):
        start = time.perf_counter()
        size, members, seconds, right, digest = run(processes, steps)
        whole = time.perf_counter() - start
        print(
            f"{size:>9} {members:>16} {whole:6.1f} s {seconds:>6} s {float(right):>7.1%}  {digest}"
        )
        digests.add(digest)
    if len(digests) > 1:
        sys.exit("The two runs have different weights")
    print("\nThe same bits in one process and in two.")


if __name__ == "__main__":
    main()
