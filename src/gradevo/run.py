"""`fit`: the generation loop, and everything around it that no algorithm should know."""

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import torch
from torch import Generator, nn
from torch.nn import functional

from gradevo.algorithms.base import Algorithm, Info
from gradevo.callbacks import Callback, JsonLines, ProgressBar
from gradevo.data import DataLike, prepare
from gradevo.errors import DivergedError
from gradevo.folder import Checkpoint, RunFolder, Saved, healthy, identity_of
from gradevo.population import Build, Loss, Population
from gradevo.problem import Problem
from gradevo.randomness import generator_from, spawn
from gradevo.result import Result
from gradevo.soup import greedy_soup


def fit(
    algorithm: Algorithm,
    build: Build,
    loss: Loss,
    train: DataLike,
    *,
    valid: DataLike | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    engine: str = "auto",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
) -> Result:
    """Train a population of networks and return what came of it.

    The same call made again with the same `checkpoint` goes on from what is there, bit for
    bit as if it had never stopped; with more generations it extends a finished run.

    Args:
        algorithm: a config, `GADAM(...)` for example.
        build: returns a new module at every call; called once a member.
        loss: `loss(output, target)` returns a scalar for one member's batch, a mean over
            its rows for example.
        train: `(x, y)` tensors, a `Dataset`, or a `DataLoader`. Class labels are 0..C-1.
        valid: the same, rows on which members are compared; default: a fifth of `train` is
            held out, by class where there are class labels.
        seed: everything random follows from it; global random state is left untouched.
        device: where to compute; default: where `build` puts the module.
        engine: "auto", "loop" or "vmap"; "auto" times them on the first step. Same seed
            gives same bits with the same engine.
        callbacks: functions of a generation's info; one that returns True ends the run.
        checkpoint: a folder to save to and go on from, or a `Checkpoint`.

    Returns:
        The result: `best`, `ensemble`, `soup`, `members`, `history`.

    Raises:
        ValueError: bad data or arguments, before any work.
        CheckpointError: the folder holds another run, or cannot be read or written.
        DivergedError: every member's loss is NaN or infinite.
        KeyboardInterrupt: Ctrl-C, after the state was saved to `checkpoint`.

    Example:
        >>> import gradevo as ge
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> algorithm = ge.GADAM(population=2, generations=1, steps=5, batch_size=16)
        >>> result = ge.fit(algorithm, lambda: nn.Linear(4, 1), nn.MSELoss(), (x, x[:, :1]))
        >>> result.best(x).shape
        torch.Size([64, 1])
    """
    root = generator_from(seed)
    population = Population(build, algorithm.population, generator=spawn(root), engine=engine)
    if device is not None:
        population.to(device)
    split = prepare(
        train, valid, batch_size=algorithm.batch_size, seed=seed, device=population.device
    )
    problem = Problem(population, loss, split.source, split.valid)
    _try_once(problem)
    return _Run(algorithm, problem, spawn(root), seed, callbacks, checkpoint).to_the_end()


class _Run:
    """One call of `fit`, once the data and the population are made."""

    def __init__(
        self,
        algorithm: Algorithm,
        problem: Problem,
        generator: Generator,
        seed: int,
        callbacks: Sequence[Callback],
        checkpoint: str | Path | Checkpoint | None,
    ) -> None:
        self.algorithm, self.problem = algorithm, problem
        self.callbacks = list(callbacks)
        self.history: list[Info] = []
        self.folder = None
        saved = None
        if checkpoint is not None:
            settings = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
            self.folder = RunFolder(settings, identity_of(algorithm, problem, seed))
            saved = self.folder.load()
        if saved is None:
            self.state = algorithm.init(problem, generator)
        else:
            self.state, self.history = saved.state, saved.history
            problem.population.choice.resume(saved.engine)
        if self.folder is not None:
            self.callbacks.append(JsonLines(self.folder.log, self.history))

    def to_the_end(self) -> Result:
        """Step until the algorithm has finished, saving, showing and logging."""
        with _Interrupt() as interrupt, ProgressBar(self.algorithm.generations) as bar:
            stop = False
            while not stop and not self.algorithm.finished(self.state):
                info = self._step()
                bar.update(self.algorithm.progress(self.problem, self.state), info)
                if info is not None:
                    self.history.append(info)
                    stop = any([callback(info) is True for callback in self.callbacks])
                self._save(always=info is not None or interrupt.seen)
                if interrupt.seen:
                    raise KeyboardInterrupt(self._where())
        return self._result()

    def _step(self) -> Info | None:
        try:
            self.state, info = self.algorithm.step(self.problem, self.state)
        except DivergedError as error:
            raise DivergedError(f"{error}. {self._where()}") from None
        return info

    def _where(self) -> str:
        if self.folder is None:
            return "No checkpoint was asked for"
        return f"The last good checkpoint is in {self.folder.path.parent}"

    def _save(self, *, always: bool) -> None:
        if self.folder is None or not (always or self.folder.due()):
            return
        if healthy(self.problem):
            engine = self.problem.population.engine
            self.folder.save(Saved(self.state, self.history, engine))

    def _result(self) -> Result:
        problem, population = self.problem, self.problem.population
        tensors, losses = self.algorithm.survivors(self.state)
        soup = greedy_soup(problem, tensors)
        population.load(tensors)
        return Result(
            members=population.eval(),
            losses=losses,
            history=self.history,
            member_steps=self.history[-1]["member_steps"] if self.history else 0,
            engine=population.engine,
            probabilities=_is_cross_entropy(problem.loss),
            soup_tensors=soup,
        )


class _Interrupt:
    """Inside the block Ctrl-C is noted and acted on between steps; a second one at once."""

    def __enter__(self) -> Self:
        self.seen = False
        self.owner = threading.current_thread() is threading.main_thread()
        if self.owner:
            self.former = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.owner:
            signal.signal(signal.SIGINT, self.former)


def _is_cross_entropy(loss: Loss) -> bool:
    return isinstance(loss, nn.CrossEntropyLoss) or loss is functional.cross_entropy


def _try_once(problem: Problem) -> None:
    """Run the module and the loss on a few rows, so that mistakes show before the work.

    Raises:
        ValueError: the loss is no scalar, or labels are not among the module's classes.
    """
    x, y = problem.valid
    if _is_cross_entropy(problem.loss) and not y.is_floating_point():
        with torch.no_grad():
            classes = problem.population.member(0).eval()(x[:2]).shape[1]
        if int(y.max()) >= classes:
            raise ValueError(
                f"labels: must be 0..C-1 for a module with C = {classes} outputs, "
                f"got {int(y.max())}"
            )
    few = torch.arange(min(len(x), 8), device=x.device)
    problem.evaluate(problem.population.tensors, few)
