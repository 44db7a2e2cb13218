"""Small tasks to learn, and the loop that `fit` runs around an algorithm."""

from dataclasses import is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from gradevo.batches import TensorSource
from gradevo.checkpoint import read, write
from gradevo.models import mlp
from gradevo.population import Population
from gradevo.problem import Problem
from gradevo.randomness import generator_from
from gradevo.trees import take

ROWS, FEATURES, CLASSES = 96, 4, 3


class Everything(nn.Module):
    """Dropout, batch norm, a counter, a number alone, frozen numbers: what must be carried."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(FEATURES, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.3)
        self.outer = nn.Linear(6, CLASSES)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.shift = nn.Parameter(torch.randn(CLASSES), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.drop(self.norm(self.inner(x)).relu())) * self.scale + self.shift


def data(rows=ROWS, dtype=torch.float32):
    """Points in space, labelled by the largest of three directions."""
    generator = generator_from(7)
    x = torch.randn(rows, FEATURES, generator=generator)
    y = (x @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(1)
    return x.to(dtype), y


def make_problem(build=None, loss=F.cross_entropy, *, size=4, dtype=torch.float32, **more):
    """A problem on the toy task; the first two thirds of the rows train, in batches of 16.

    Further arguments: `rows` `(x, y)` instead of the task's, `engine`, `slice_seconds`.
    """
    x, y = more.get("rows") or data(dtype=dtype)
    build = build or mlp(FEATURES, 8, CLASSES)
    engine = more.get("engine", "loop")
    population = Population(build, size, generator=generator_from(3), engine=engine).to(dtype)
    cut = 2 * len(x) // 3
    source = TensorSource(take(x, slice(cut)), take(y, slice(cut)), 16)
    valid = take((x, y), slice(cut, None))
    return Problem(population, loss, source, valid, more.get("slice_seconds", 600.0))


def run(algorithm, problem, seed=0, state=None):
    """Step to the end; returns the last state and the generations' infos."""
    problem.loss = algorithm.criterion(problem.loss)
    state = state or algorithm.init(problem, generator_from(seed))
    infos = []
    while not algorithm.finished(state):
        state, info = algorithm.step(problem, state)
        infos += [info] if info else []
    return state, infos


def stored(state):
    """What comes back of a state that was written to disk."""
    with TemporaryDirectory() as folder:
        write(Path(folder) / "state", state)
        return read(Path(folder) / "state")


def bits(value):
    """A tree of tensors, numbers and generators as plain values: NaN equals itself here."""
    if isinstance(value, Generator):
        value = value.get_state()
    if isinstance(value, Tensor):
        content = value.detach().reshape(-1).contiguous().view(torch.uint8)
        return str(value.dtype), tuple(value.shape), content.tolist()
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    return repr(value)
