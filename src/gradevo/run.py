"""`fit`: the generation loop, and everything around it that no algorithm should know."""

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, overload

import numpy as np
import torch
from torch import Generator, Tensor

from gradevo.algorithms.base import Algorithm, Info
from gradevo.algorithms.gemonn import GEMONN
from gradevo.callbacks import Callback, JsonLines, ProgressBar
from gradevo.checks import check_arguments, is_cross_entropy, not_finite, try_once
from gradevo.data import DataLike, prepare
from gradevo.denormals import flushed
from gradevo.distributed.folder import SharedFolder
from gradevo.distributed.joining import layout, team_for
from gradevo.distributed.outcome import in_order, shared
from gradevo.distributed.placing import blocks, rows_at
from gradevo.errors import DivergedError
from gradevo.folder import Checkpoint, Saved, healthy, identity_of, placed
from gradevo.front import Front
from gradevo.nondominated import front_of
from gradevo.operators.selection import finite_or_worst
from gradevo.operators.survival import top
from gradevo.population import Build, Loss, Population
from gradevo.problem import Problem
from gradevo.randomness import generator_from, spawn
from gradevo.result import Result
from gradevo.share import Share
from gradevo.soup import greedy_soup
from gradevo.structure import Tensors


@overload
def fit(
    algorithm: GEMONN,
    build: Build,
    loss: Loss,
    train: DataLike,
    *,
    valid: DataLike | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    engine: str = "auto",
    precision: str = "full",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
) -> Front: ...
@overload
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
    precision: str = "full",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
) -> Result: ...
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
    precision: str = "full",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
) -> Result | Front:
    """Train a population of networks and return what came of it.

    The same call made again with the same `checkpoint` goes on from what is there, bit for
    bit as if it had never stopped; with more generations it extends a finished run, but for
    `GEMONN` and `Islands`, which plan all of them ahead.

    Args:
        algorithm: a config, `GADAM(...)` for example.
        build: returns a new module at every call; called once a member.
        loss: `loss(output, target)` returns a scalar for one member's batch, a mean over
            its rows for example; `AdaSwarm` also takes one number a row.
        train: `(x, y)` tensors, a `Dataset`, or a `DataLoader`. Class labels are 0..C-1.
        valid: the same, rows on which members are compared; default: a fifth of `train` is
            held out, by class where there are class labels.
        seed: everything random follows from it; global random state is left untouched.
        device: where to compute; default: where `build` puts the module.
        engine: "auto" or an engine's name, see `Population`; "auto" times them on the first
            step. Same seed gives same bits with the same engine.
        precision: "full", or "bfloat16" for forward passes under autocast.
        callbacks: functions of a generation's info; one that returns True ends the run.
        checkpoint: a folder to save to and go on from, or a `Checkpoint`.

    Returns:
        The result: `best`, `ensemble`, `soup`, `members`, `history`. For `GEMONN` a `Front`:
        `knee`, `best()`, `sparsest(max_loss=)`, `members`, `table()`, `history`.

    Raises:
        TypeError, ValueError: bad data or arguments, before any work.
        CheckpointError: the folder holds another run, or cannot be read or written.
        DivergedError: every member's loss is NaN or infinite.
        KeyboardInterrupt: Ctrl-C, after the state was saved to `checkpoint`.

    Example:
        >>> import gradevo as ge
        >>> from torch import nn
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> algorithm = ge.GADAM(population=2, generations=1, steps=5, batch_size=16)
        >>> result = ge.fit(algorithm, lambda: nn.Linear(4, 1), nn.MSELoss(), (x, x[:, :1]))
        >>> result.best(x).shape
        torch.Size([64, 1])
    """
    check_arguments(algorithm, build, loss, callbacks)
    settings = None if checkpoint is None else Checkpoint.of(checkpoint)
    root = generator_from(seed)
    team = team_for(algorithm)
    homes = layout(algorithm, team.size)
    share = Share(tuple(rows_at(homes, team.rank).tolist()), algorithm.population)
    population = Population.of_share(
        build, share, generator=spawn(root), engine=engine, precision=precision
    )
    if device is not None:
        population.to(device)
    split = prepare(
        train, valid, batch_size=algorithm.batch_size, seed=seed, device=population.device
    )
    problem = Problem(population, algorithm.criterion(loss), split.source, split.valid, team=team)
    try_once(problem)
    return _Run(algorithm, problem, spawn(root), seed, callbacks, settings).to_the_end()


class _Run:
    """One call of `fit`, once the data and the population are made."""

    def __init__(
        self,
        algorithm: Algorithm,
        problem: Problem,
        generator: Generator,
        seed: int,
        callbacks: Sequence[Callback],
        settings: Checkpoint | None,
    ) -> None:
        self.algorithm, self.problem = algorithm, problem
        self.callbacks = list(callbacks)
        self.history: list[Info] = []
        self.looked = False  # whether NaN weights were traced to the data already
        self.folder = None
        if settings is not None:
            identity = identity_of(algorithm, problem, seed)
            homes = layout(algorithm, problem.team.size)
            self.folder = SharedFolder(settings, identity, problem.team, homes)
        saved = self.folder.load() if self.folder else None
        if saved is None:
            self.state = algorithm.init(problem, generator)
        else:
            self.state = placed(saved.state, problem.population)
            self.history = saved.history
            problem.population.choice.resume(saved.engine)
        if self.folder is not None and problem.team.rank == 0:
            self.callbacks.append(JsonLines(self.folder.log, self.history))

    def to_the_end(self) -> Result | Front:
        """Step until the algorithm has finished, saving, showing and logging."""
        first = self.problem.team.rank == 0
        bar = ProgressBar(self.algorithm.generations, len(self.history), shown=first)
        with _Interrupt() as interrupt, bar, flushed():
            stop = False
            while not stop and not self.algorithm.finished(self.state):
                info = self._step()
                bar.update(self.algorithm.progress(self.problem, self.state), info)
                stop = info is not None and self._end_generation(info)
                interrupted = interrupt.seen
                if interrupted and self.problem.team.size > 1:  # the others may not know
                    raise KeyboardInterrupt(self._where())
                last = stop or self.algorithm.finished(self.state)
                self._save(ended=info is not None, now=interrupted or last)
                if interrupted:
                    raise KeyboardInterrupt(self._where())
        return self._outcome()

    def _step(self) -> Info | None:
        try:
            self.state, info = self.algorithm.step(self.problem, self.state)
        except DivergedError as error:
            culprits = not_finite(self.problem)
            found = f"; {culprits} does have NaN or infinity" if culprits else ""
            raise DivergedError(f"{error}{found}. {self._where()}") from None
        alone = self.problem.team.size == 1  # of several, others' members may be well
        if alone and not self.looked and not healthy(self.problem.workplace):
            self._look_at_data()
        return info

    def _look_at_data(self) -> None:
        """Members that became NaN may recover from their learning rates, but not from the data.

        Back-off would hide it: every member keeps its start weights.
        """
        self.looked = True
        if culprits := not_finite(self.problem):
            raise DivergedError(
                "loss: must be finite for at least one member, got NaN weights for all; the "
                f"likely cause is NaN or infinity in {culprits}. {self._where()}"
            )

    def _end_generation(self, info: Info) -> bool:
        """Note a generation's numbers and call everybody; whether one of them wants to stop."""
        self.history.append(info)
        team, failed, wanted = self.problem.team, None, False
        try:
            answers = [callback(dict(info)) for callback in self.callbacks]
            wanted = any(isinstance(answer, bool | np.bool_) and answer for answer in answers)
        except Exception as error:
            failed = error
        if team.total(int(failed is not None)):  # none of several goes on alone
            raise failed or RuntimeError("callbacks: one has failed in another process")
        return team.total(int(wanted)) > 0

    def _where(self) -> str:
        return self.folder.where() if self.folder else "No checkpoint was asked for"

    def _save(self, *, ended: bool, now: bool) -> None:
        """Save when asked or when it is time.

        Within a generation, not while every member's weights have become NaN: then what is
        on disk is the last that is good.
        """
        population, several = self.problem.population, self.problem.team.size > 1
        if self.folder is None or (several and not ended):
            return
        if not (now or self.folder.due(ended=ended)):
            return
        if ended or healthy(self.problem.workplace):
            self.folder.save(Saved(self.state, self.history, population.engine))

    def _outcome(self) -> Result | Front:
        """The survivors, compared on all validation rows."""
        if isinstance(self.algorithm, GEMONN):
            members, rank = self.state.members, self.problem.team.rank
            order = finite_or_worst(members.losses).argsort(stable=True)
            tensors = in_order(members.tensors, members.homes, order, rank)
            homes, wanted = members.homes[order], self.algorithm.objectives
            return front_of(self.problem, wanted, tensors, homes, self.history)
        if self.problem.team.size > 1:
            return self._result(self.state.members, self.state.homes)
        tensors, _ = self.algorithm.survivors(self.state)
        return self._result(tensors, blocks(self.algorithm.population, 1))

    def _result(self, tensors: Tensors, homes: Tensor) -> Result:
        problem, population, team = self.problem, self.problem.population, self.problem.team
        losses = team.gathered(problem.evaluate(tensors), homes)
        order = top(losses, len(homes))
        tensors, homes = in_order(tensors, homes, order, team.rank), homes[order]
        soup = greedy_soup(problem, tensors, homes)
        population.load(tensors)
        population.zero_grad()
        result = Result(
            members=population.eval(),
            losses=losses[order],
            history=self.history,
            member_steps=self.history[-1]["member_steps"] if self.history else 0,
            engine=population.engine,
            probabilities=is_cross_entropy(problem.loss),
            soup_tensors=soup,
        )
        return shared(result, team, homes)


class _Interrupt:
    """Inside the block Ctrl-C is noted and acted on between steps; a second one at once.

    Only where Ctrl-C would have raised: who ignores it or handles it otherwise is left alone.
    """

    def __enter__(self) -> Self:
        self.seen = False
        main = threading.current_thread() is threading.main_thread()
        self.owner = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.owner:
            signal.signal(signal.SIGINT, self._note)
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
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.seen and kind is None:  # it came after the last step was saved
            raise KeyboardInterrupt
