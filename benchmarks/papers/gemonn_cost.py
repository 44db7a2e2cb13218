"""What a generation of GEMONN's crossover costs, part by part, as raw rows.

    python benchmarks/papers/gemonn_cost.py

Evaluation (losses and gradients of the children), operators (tournament, crossover, zeroing) and
selection (objectives, sorting, survival), beside a loop that does the same work one member and one
pair at a time. Both take turns in one process of one thread; medians of seconds. Random images:
what they show does not matter for the time. Rows go to docs/results/raw/gemonn-cost.jsonl.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import RAW
from torch import Tensor, nn

import gradevo as ge
from gradevo.algorithms import guided
from gradevo.algorithms.gemonn import GEMONNState
from gradevo.batches import TensorSource
from gradevo.models import LeNet5, mlp
from gradevo.operators.gsbx import gsbx
from gradevo.problem import Problem
from gradevo.randomness import generator_from

N, BATCH, ROUNDS = 50, 128, 5
ENGINES = ("loop", "vmap", "batched/5", "batched")
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet-5": (LeNet5, (1, 28, 28)),
    "16-70-50-10": (mlp(16, 70, 50, 10), (16,)),
}


def problem_of(build: Callable[[], nn.Module], shape: tuple[int, ...], engine: str) -> Problem:
    x, y = torch.randn(1024, *shape), torch.randint(10, (1024,))
    population = ge.Population(build, N, generator=generator_from(0), engine=engine)
    source = TensorSource(x, y, BATCH)
    return Problem(population, nn.functional.cross_entropy, source, (x[:256], y[:256]))


class Timed:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result


def generation(config: ge.GEMONN, problem: Problem, state: GEMONNState, timed: Timed) -> None:
    """As the library does it."""
    batch = problem.source.draw(state.streams.data, N, shared=True)
    tensors = timed("operators", lambda: guided.breed(config, state))
    children = timed(
        "evaluation", lambda: guided._evaluated(config, problem, state, tensors, batch)
    )
    timed("selection", lambda: config.survive(state, children))


def one_by_one(problem: Problem, state: GEMONNState, timed: Timed) -> None:
    """The same work with a module a member, and tensors of one pair at a time."""
    members, generator = state.members, generator_from(0)
    x, y = problem.source.draw(state.streams.data, N, shared=True)
    modules = [problem.population.member(i) for i in range(N)]

    def breed() -> list[dict[str, Tensor]]:
        assert members.gradients is not None
        children = []
        for i in range(0, N, 2):
            pair: tuple[dict[str, Tensor], ...] = ({}, {})
            for name, slope in members.gradients.items():
                tensor = members.tensors[name]
                parents, slopes = (
                    (tensor[i, None], tensor[i + 1, None]),
                    (slope[i, None], slope[i + 1, None]),
                )
                both = gsbx(*parents, slopes, generator)
                for child, value in zip(pair, both, strict=True):
                    gone = torch.rand(value.shape, generator=generator) < 1e-5
                    child[name] = value.clamp(-10, 10).masked_fill(gone, 0)[0]
            children.extend(pair)
        return children

    def evaluate(children: list[dict[str, Tensor]]) -> list[tuple[float, float]]:
        found = []
        for module, child in zip(modules, children, strict=True):
            module.load_state_dict(child, strict=False)
            module.zero_grad()
            loss = nn.functional.cross_entropy(module(x), y)
            loss.backward()
            weights = [p for p in module.parameters() if p.dim() >= 2]
            there = sum(int((p != 0).sum()) for p in weights)
            found.append((there / sum(p.numel() for p in weights), float(loss.detach())))
        return found

    def select(found: list[tuple[float, float]]) -> list[int]:
        points = [*map(tuple, members.objectives.tolist()), *found]
        return sorted(
            range(len(points)), key=lambda i: sum(dominates(p, points[i]) for p in points)
        )

    children = timed("operators", breed)
    found = timed("evaluation", lambda: evaluate(children))
    timed("selection", lambda: select(found))


def dominates(a: Any, b: Any) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for case, (build, shape) in CASES.items():
        torch.manual_seed(0)
        config = ge.GEMONN.paper(population=N, generations=10, batch_size=BATCH)
        runs: dict[str, Timed] = {}
        problems = {engine: problem_of(build, shape, engine) for engine in ENGINES}
        states = {}
        for engine, problem in problems.items():
            state = config.init(problem, generator_from(0))
            guided.step(config, problem, state)  # gradients of the first members
            states[engine], runs[engine] = state, Timed()
        runs["one by one"] = Timed()
        for _ in range(ROUNDS):
            for engine, problem in problems.items():
                generation(config, problem, states[engine], runs[engine])
            one_by_one(problems["loop"], states["loop"], runs["one by one"])
        for name, timed in runs.items():
            parts = {k: round(statistics.median(v), 5) for k, v in timed.seconds.items()}
            load = round(os.getloadavg()[0], 1)
            rows.append({"case": case, "engine": name, "population": N, "load": load, **parts})
            print(rows[-1], flush=True)
    (RAW / "gemonn-cost.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
