"""Tables I to III of the AdaSwarm paper, and its supplement's test functions, as raw rows.

    python benchmarks/papers/swarm_functions.py emulate       # about 2 minutes of one core
    python benchmarks/papers/swarm_functions.py supplement    # likewise

`emulate`: gradient descent and SGD with momentum, with the swarm's gradient and with the true
one from the same starts. Counted are the iterations until w is first within a tolerance of the
minimum's value ("hit"), and until it stays there ("settled"). The paper prints one count and
says neither which it is, nor where it starts, nor how many particles it has.

`supplement`: EMPSO against momentum PSO from the same start positions, until every particle is
inside a 1e-2 cube around every other or 10,000 iterations have passed. The supplement's printed
figures are not public.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from common import RAW
from scipy.stats import wilcoxon
from swarm_problems import FUNCTIONS, PROBLEMS, Function, Problem
from torch import Tensor

from gradevo.swarm.dynamics import EMPSO, PSO, Dynamics, MomentumPSO
from gradevo.swarm.emulate import emulate, first_hit, settling
from gradevo.swarm.minimize import Minimum, minimize

PATH = RAW / "swarm-functions.jsonl"
RUNS, ITERATIONS, LR, BETA = 100, 1000, 0.1, 0.9
TOLERANCES = (0.01, 0.05)
STARTS = [(0.0, 2.0, 20), (-5.0, 5.0, 10), (-5.0, 5.0, 50)]  # low, high, particles
METHODS = {"EMPSO": EMPSO(), "momentum PSO": MomentumPSO()}  # of the supplement's comparison
Row = dict[str, Any]
Path = Tensor  # of w, (iterations + 1, runs)


# --- tables I to III -----------------------------------------------------------------------


def true_descent(case: Function, w: Tensor, momentum: float, box: Any) -> Path:
    """Descent by autograd, under the same equations (11) and (16)."""
    path, velocity = [w], torch.zeros_like(w)
    for _ in range(ITERATIONS):
        w = path[-1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(case.f(w).sum(), w)
        velocity = momentum * velocity + (1 - momentum) * gradient
        w = w.detach() - LR * velocity
        path.append(w if box is None else w.clamp(*box))
    return torch.stack(path)


def emulated_descent(
    case: Function, x: Tensor, momentum: float, box: Any, dynamics: Dynamics | None, form: str
) -> Path:
    """The same with a swarm's gradient; w starts at particle 0."""
    run = emulate(
        lambda x: case.f(x[:, 0]), x, bounds=box, lr=LR, momentum=momentum, dynamics=dynamics,
        estimator=form, iterations=ITERATIONS,
    )  # fmt: skip
    return run.path[..., 0]


def _methods(case: Function, x: Tensor, box: Any) -> dict[str, Callable[[], Path]]:
    def swarm(momentum: float, dynamics: Dynamics | None = None, form: str = "near") -> Any:
        return lambda: emulated_descent(case, x, momentum, box, dynamics, form)

    return {
        "GD": lambda: true_descent(case, x[:, 0, 0], 0.0, box),
        "emulated GD": swarm(0.0),
        "emulated GD, inertia 0.1": swarm(0.0, PSO(c1=0.8, c2=0.9, w=0.1)),
        "emulated GD, starred": swarm(0.0, None, "starred"),
        "SGD with momentum": lambda: true_descent(case, x[:, 0, 0], BETA, box),
        "emulated SGD with momentum": swarm(BETA),
        "emulated SGD with momentum, starred": swarm(BETA, None, "starred"),
    }


def _counts(values: Tensor, minimum: float, tolerance: float, printed: int | None) -> Row:
    """Medians and shares of runs; None is never, within the iterations run."""
    hit, settled = (count(values, tolerance, minimum) for count in (first_hit, settling))
    counts: Row = {
        "hit": _number(hit.median()),
        "settled": _number(settled.median()),
        "share_hit": _number(hit.isfinite().double().mean()),
        "share_settled": _number(settled.isfinite().double().mean()),
    }
    if printed is not None:
        counts["share_hit_by_printed"] = _number((hit <= printed).double().mean())
        counts["share_settled_by_printed"] = _number((settled <= printed).double().mean())
    return counts


def _number(value: Tensor) -> float | None:
    """Nine digits; None if it is not finite."""
    plain = float(f"{float(value):.9g}")
    return plain if math.isfinite(plain) else None


def _place(case: Function, low: float, high: float) -> tuple[float, float, Any, float]:
    """Start set, box and least value in it."""
    if isinstance(case.clip, tuple):
        return max(low, case.clip[0]), high, case.clip, case.minimum
    if case.clip == "start set":
        least = float(case.f(torch.tensor(low)))  # it falls towards the left for good
        return low, high, (low, high), min(least, case.minimum)
    return low, high, None, case.minimum


def emulations() -> list[Row]:
    """One row for each function, start set and method."""
    rows = []
    for case in FUNCTIONS:
        for *ends, particles in STARTS:
            low, high, box, minimum = _place(case, *ends)
            generator = torch.Generator().manual_seed(0)
            share = torch.rand(RUNS, particles, 1, generator=generator, dtype=torch.float64)
            for name, method in _methods(case, low + (high - low) * share, box).items():
                rows.append({
                    "part": "emulate", "function": case.formula, "method": name,
                    "start": [low, high], "particles": particles, "seeds": RUNS,
                    "iterations": ITERATIONS, "clipped": box is not None, "note": case.note,
                    "minimum": minimum, **_outcome(case, name, method(), minimum),
                })  # fmt: skip
                print(rows[-1], flush=True)
    return rows


def _outcome(case: Function, method: str, path: Path, minimum: float) -> Row:
    """Where the runs arrived and when, beside what is printed."""
    optimum, printed = case.printed.get(method.split(",")[0], (None, None))
    values = case.f(path)
    return {
        "place": _number(path[-1].nanmedian()),
        "value": _number(values[-1].nan_to_num(nan=math.inf).median()),  # NaN counts as worst
        "share_finite": _number(values[-1].isfinite().double().mean()),
        "printed_minimum": case.minimum,
        "printed_value": optimum,
        "printed_iterations": printed,
        "within": {str(t): _counts(values, minimum, t, printed) for t in TOLERANCES},
    }


# --- the supplement's functions ------------------------------------------------------------


def _solve(problem: Problem, dynamics: Dynamics) -> tuple[Minimum, float]:
    low, high = (torch.tensor(side, dtype=torch.float64) for side in (problem.low, problem.high))
    constraints = [lambda x, g=g: g(x[:, 0], x[:, 1]) for g in problem.constraints]
    begin = time.perf_counter()
    found = minimize(
        lambda x: problem.f(x[:, 0], x[:, 1]), bounds=(low, high), constraints=constraints,
        swarms=RUNS, particles=20, dynamics=dynamics, iterations=10_000, cube=1e-2,
    )  # fmt: skip
    return found, round(time.perf_counter() - begin, 2)


def _summary(problem: Problem, found: Minimum) -> Row:
    moves, value = found.iterations.double(), found.value
    return {
        "mean_iterations": _number(moves.mean()),
        "median_iterations": _number(moves.median()),
        "share_cube": found.reason.count("cube") / RUNS,
        "mean_minimum": _number(value.mean()),
        "sd_minimum": _number(value.std()),
        "median_minimum": _number(value.median()),
        "share_reached": _number(((value - problem.minimum).abs() <= 1e-2).double().mean()),
        "share_feasible": _number(found.feasible.double().mean()),
        "mean_evaluations": _number(found.evaluations.double().mean()),
    }


def _p(a: Tensor, b: Tensor) -> float:
    """Wilcoxon signed-rank test, two-sided; runs are paired by their start positions."""
    difference = (a - b).double().numpy()
    return float(wilcoxon(difference).pvalue) if difference.any() else 1.0


def supplement() -> list[Row]:
    """One row for each function and method."""
    rows = []
    for problem in PROBLEMS:
        found = {name: _solve(problem, dynamics) for name, dynamics in METHODS.items()}
        (one, _), (other, _) = found.values()
        for name, (minimum, seconds) in found.items():
            rows.append({
                "part": "supplement", "problem": problem.name, "method": name,
                "setting": repr(METHODS[name]), "runs": RUNS, "particles": 20,
                "known_minimum": problem.minimum, **_summary(problem, minimum),
                "p_minimum": _p(one.value, other.value),
                "p_iterations": _p(one.iterations, other.iterations),
                "test": "Wilcoxon signed-rank, runs paired by start positions",
                "seconds": seconds,
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def save(part: str, rows: list[Row]) -> None:
    """Replace the rows of one part in the file."""
    old = [json.loads(line) for line in PATH.read_text().splitlines()] if PATH.exists() else []
    kept = [row for row in old if row["part"] != part]
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text("".join(json.dumps(row) + "\n" for row in kept + rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("emulate", "supplement"))
    part = parser.parse_args().part
    torch.set_num_threads(1)
    save(part, emulations() if part == "emulate" else supplement())


if __name__ == "__main__":
    main()
