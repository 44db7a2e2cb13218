"""EvoTorch's evaluation of a population of networks beside gradevo's, as raw rows.

    OMP_NUM_THREADS=1 python benchmarks/speed/peers.py --packages FOLDER

FOLDER holds EvoTorch and what it needs (`pip install --no-deps --target FOLDER evotorch` and
`pip install --target FOLDER ray gymnasium`). Both evaluate the same perceptrons on one shared
mini-batch, forward only, in turns in one process on one core.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import interleaved, machine, one_core
from run import RAW
from techniques import Take
from torch.utils.data import TensorDataset
from workloads import WORKLOADS, Workload

import gradevo as ge

CASES = {"MLP 4-10-3": 100, "MLP 16-70-50-26": 50, "LeNet-5": 10}


def evotorch(workload: Workload, members: int) -> Take:
    """`SupervisedNE.evaluate` of a batch of solutions."""
    from evotorch.core import SolutionBatch  # pyright: ignore[reportMissingImports]
    from evotorch.neuroevolution import SupervisedNE  # pyright: ignore[reportMissingImports]

    xs, ys = workload.data(1, 8)
    data = TensorDataset(xs.flatten(0, 2), ys.flatten())
    problem: Any = SupervisedNE(data, workload.build, F.cross_entropy,
                                minibatch_size=workload.batch)  # fmt: skip
    solutions = SolutionBatch(problem, popsize=members)

    def take(steps: int) -> None:
        for _ in range(steps):
            solutions.set_values(solutions.values)  # they count as new, and are evaluated
            problem.evaluate(solutions)

    return take


def gradevo(workload: Workload, members: int, engine: str) -> Take:
    """Losses of a population on a shared batch, drawn anew for every evaluation."""
    population = ge.Population(workload.build, members, engine=engine).eval()
    xs, ys = (t.flatten(0, 2) for t in workload.data(1, 8))
    computing: Any = population.choice.engine(population, engine)

    @torch.no_grad()
    def take(steps: int) -> None:
        for _ in range(steps):
            rows = torch.randperm(len(xs))[: workload.batch]
            computing.losses(F.cross_entropy, xs[rows], ys.flatten()[rows], False)

    return take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RAW)
    arguments = parser.parse_args()
    sys.path.append(str(arguments.packages))
    torch.set_num_threads(1)
    one_core()
    for name, members in CASES.items():
        workload = WORKLOADS[name]
        takes = {"EvoTorch": evotorch(workload, members)}
        for engine in ("loop", "batched", "simd" if workload.sizes else "batched/5"):
            takes[engine] = gradevo(workload, members, engine)
        row = {"part": "peers", "workload": name, "members": members,
               "results": interleaved(takes, "EvoTorch"), "machine": machine(),
               "command": "peers.py --packages FOLDER"}  # fmt: skip
        with arguments.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(name, members, {n: round(r["ratio"], 2) for n, r in row["results"].items()})


if __name__ == "__main__":
    main()
