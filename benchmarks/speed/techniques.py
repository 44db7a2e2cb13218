"""Ways to train a population: each makes a function that takes so many steps of all members.

All use Adam at 1e-3 on cross-entropy. Batches lie in memory before the clock starts: torch's are
cut out already, the simd kernel gathers its own from a table of rows.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from workloads import ROWS, Workload

import gradevo as ge
from gradevo.batches import TensorSource
from gradevo.engines.threads import alone
from gradevo.learning import begin
from gradevo.phase import Recipe, Streams
from gradevo.problem import Problem
from gradevo.stepping import stepper_of

Take = Callable[[int], None]
RATE, BATCHES = 1e-3, 4
LONG = 10**9  # steps of a phase that does not end


def engine(workload: Workload, members: int, name: str) -> Take:
    """An engine of gradevo and one fused Adam."""
    population = ge.Population(workload.build, members, engine=name)
    gradient = population.gradient()
    optimizer = torch.optim.Adam(population.parameters(), RATE, fused=True)
    xs, ys = workload.data(members, BATCHES)
    computing: Any = population.choice.engine(population, name)

    def take(steps: int) -> None:
        with alone(name):
            for k in range(steps):
                gradient.zero_()
                computing.accumulate(F.cross_entropy, xs[k % BATCHES], ys[k % BATCHES], True)
                optimizer.step()

    return take


def _stepper(workload: Workload, members: int, name: str) -> Any:
    """The stepper of a learning phase, as `fit` has it."""
    generator = torch.Generator().manual_seed(0)
    rows = max(ROWS, workload.batch)
    x = torch.randn(rows, *workload.shape, generator=generator)
    y = torch.randint(workload.classes, (rows,), generator=generator)
    population = ge.Population(workload.build, members, engine=name)
    problem = Problem(
        population, F.cross_entropy, TensorSource(x, y, workload.batch), (x[:64], y[:64])
    )
    recipe = Recipe("Adam", LONG, backoff=False)
    rates = {"lr": torch.full((members,), RATE, dtype=torch.float64)}
    phase = begin(problem, recipe, population.tensors, rates)
    return stepper_of(problem, recipe, phase, Streams.start(problem, generator))


def kernel(workload: Workload, members: int) -> Take:
    """The simd kernel on rows and optimiser's numbers that are drawn already."""
    stepper = _stepper(workload, members, "simd")
    program, most = stepper.program, 64
    indices = stepper._indices(most)
    program.points_to(RULE=stepper.rule.table([1.0] * most), SEEDS=stepper._seeds(most))

    def take(steps: int) -> None:
        for start in range(0, steps, most):
            count = min(most, steps - start)
            program.run(indices, count, update=stepper.rule.update, loss=stepper.kind)

    return take


def phase(workload: Workload, members: int, name: str) -> Take:
    """A learning phase as `fit` runs it: rows drawn, optimiser's numbers made, steps taken."""
    stepper = _stepper(workload, members, name)

    def take(steps: int) -> None:
        while steps > 0:
            steps -= stepper.advance(min(256, steps))

    return take


def recipe(workload: Workload, members: int) -> Take:
    """The ensembling tutorial of torch.func: stack_module_state, functional_call, vmap of grad."""
    from torch.func import functional_call, grad, stack_module_state, vmap

    models: list[Any] = [workload.build() for _ in range(members)]
    parameters, buffers = stack_module_state(models)
    base = models[0].to("meta")
    optimizer = torch.optim.Adam(list(parameters.values()), RATE, fused=True)
    xs, ys = workload.data(members, BATCHES)

    def loss(mine: Any, kept: Any, x: Any, y: Any) -> Any:
        return F.cross_entropy(functional_call(base, (mine, kept), (x,)), y)

    gradients = vmap(grad(loss), randomness="different")

    def take(steps: int) -> None:
        for k in range(steps):
            found = gradients(parameters, buffers, xs[k % BATCHES], ys[k % BATCHES])
            for name, parameter in parameters.items():
                parameter.grad = found[name]
            optimizer.step()

    return take
