"""`fit`: the generation loop, and everything around it that no algorithm should know."""

import copy
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, overload

import numpy as np
import torch
from torch import Generator, Tensor

from gradevo import record
from gradevo.algorithms.base import Algorithm, Info
from gradevo.algorithms.gemonn import GEMONN
from gradevo.callbacks import Callback, JsonLines
from gradevo.checks import check_arguments, is_cross_entropy, not_finite, try_once
from gradevo.data import DataLike, prepare
from gradevo.denormals import flushed
from gradevo.distributed.folder import SharedFolder
from gradevo.distributed.joining import layout, team_for
from gradevo.distributed.outcome import in_order, shared
from gradevo.distributed.placing import blocks, rows_at
from gradevo.errors import DivergedError
from gradevo.folder import Checkpoint, Saved, healthy, identity_of, placed, saved_in
from gradevo.front import Front
from gradevo.loggers import Log, Logger, Run, named
from gradevo.loggers.base import Plain
from gradevo.loggers.logs import Logs
from gradevo.loggers.numbers import outcome_of, settings_of
from gradevo.nondominated import front_of
from gradevo.operators.selection import finite_or_worst
from gradevo.operators.survival import top
from gradevo.population import Build, Loss, Population
from gradevo.problem import Problem
from gradevo.progress import display
from gradevo.randomness import generator_from, spawn
from gradevo.result import Result
from gradevo.share import Share
from gradevo.soup import greedy_soup
from gradevo.start import Source, Start
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
    start: Start | Source | Sequence[Source] | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    log: Log = None,
    quiet: bool = False,
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
    start: Start | Source | Sequence[Source] | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    log: Log = None,
    quiet: bool = False,
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
    start: Start | Source | Sequence[Source] | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    log: Log = None,
    quiet: bool = False,
) -> Result | Front:
    """Train a population of networks and return what came of it.

    The same call made again with the same `checkpoint` goes on from what is there, bit for
    bit as if it had never stopped; with more generations it extends a finished run, but for
    `GEMONN` and `Islands`, which plan all of them ahead.

    Args:
        algorithm: a config, `GADAM(...)` for example.
        build: returns a new module at every call; called once a member.
        loss: `loss(output, target)` returns a scalar for one member's batch, a mean over
            its rows for example; `AdaSwarm` also takes one number a row. Where modules return a
            mapping or tuple, `OnLogits(loss)` is a loss of its `logits`, or of its first tensor.
        train: `(x, y)` tensors, a `Dataset`, or a `DataLoader`. Class labels are 0..C-1. Where x
            is a mapping of tensors the module gets them by name, `module(**x)`; a tuple or list
            by position, `module(*x)`; y may be a mapping or tuple, too. A mapping alone, as
            Hugging Face's collators give, has y as its "labels" or "label".
        valid: the same, rows on which members are compared; default: a fifth of `train` is
            held out, by class where there are class labels.
        seed: everything random follows from it; global random state is left untouched.
        device: where to compute; default: where `build` puts the module.
        engine: "auto" or an engine's name, see `Population`; "auto" times them on the first
            step. Same seed gives same bits with the same engine.
        precision: "full", or "bfloat16" for forward passes under autocast.
        callbacks: functions of a generation's info; one that returns True ends the run;
            the same call made again goes on after it.
        start: trained networks to begin with instead of new ones: a module, several, files, a
            former run, or a `Start` that says how the other members differ from them.
        checkpoint: a folder to save to and go on from, or a `Checkpoint`.
        log: "tensorboard", "wandb", "mlflow", one of `gradevo.loggers` with its settings, or a
            list of them. One that fails is warned of, and the run goes on. The run folder has
            `log.jsonl` in any case.
        quiet: no display. Else charts where errors go to a terminal, and elsewhere lines at
            level INFO of Python's logger "gradevo.progress".

    Returns:
        A `Result` with `best`, `ensemble`, `soup`, `members`, `history`. For `GEMONN` a `Front`
        with `knee`, `best()`, `sparsest(max_loss=)`, `members`, `table()`, `history`.

    Raises:
        TypeError, ValueError: bad data or arguments, before any work.
        ImportError: a package that `log` asks for is not installed.
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
    loggers = named(log)
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
    begun = None
    if start is not None:
        last = isinstance(algorithm, GEMONN)  # whose last member is the densest, and learns first
        begun = Start.of(start).into(population, generator=spawn(root), share=share, backwards=last)
    split = prepare(
        train, valid, batch_size=algorithm.batch_size, seed=seed, device=population.device
    )
    problem = Problem(population, algorithm.criterion(loss), split.source, split.valid, team=team)
    try_once(problem)
    identity = identity_of(algorithm, problem, seed, begun)
    run = _Run(algorithm, problem, spawn(root), identity, callbacks, settings)
    run.show(loggers, settings_of(algorithm, problem, seed), quiet=quiet)
    return run.to_the_end()


class _Run:
    """One call of `fit`, once the data and the population are made."""

    def __init__(
        self,
        algorithm: Algorithm,
        problem: Problem,
        generator: Generator,
        identity: dict[str, Any],
        callbacks: Sequence[Callback],
        settings: Checkpoint | None,
    ) -> None:
        self.algorithm, self.problem = algorithm, problem
        self.callbacks = list(callbacks)
        self.history: list[Info] = []
        self.looked = False  # whether NaN weights were traced to the data already
        self.folder = None
        if settings is not None:
            homes = layout(algorithm, problem.team.size)
            self.folder = SharedFolder(settings, identity, problem.team, homes)
        saved = self.folder.load() if self.folder else None
        self.resumed = saved is not None
        if saved is None:
            self.state = algorithm.init(problem, generator)
        else:
            self.state = placed(saved.state, problem.population)
            self.history = saved.history
            problem.population.choice.resume(saved.engine)
        if self.folder is not None and problem.team.rank == 0:
            self.callbacks.append(JsonLines(self.folder.log, self.history))
            self._note(run={**self.folder.identity, "generations": algorithm.generations})
            self._note(**record.circumstances(), finished=None)
            if saved is None:
                self._note(started=record.now())

    def show(self, loggers: Sequence[Logger], asked: Mapping[str, Plain], *, quiet: bool) -> None:
        """Open the display and the loggers."""
        team, generations = self.problem.team, self.algorithm.generations
        self.display = display(generations, self.history, shown=team.rank == 0 and not quiet)
        folder = None if self.folder is None else self.folder.path.parent
        run = Run(asked, folder=folder, done=len(self.history), quiet=quiet)
        self.logs = Logs(loggers, run, self.history, self.resumed, team)
        self.callbacks.append(self.logs)

    def to_the_end(self) -> Result | Front:
        """Step until the algorithm has finished, saving, showing and logging."""
        try:
            with self.logs as logs:
                self._steps()
                result = self._outcome()
                logs.outcome = outcome_of(result)
                steps, engine = result.member_steps, result.engine
                self._note(finished={"member_steps": steps, "engine": engine})
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(*(stop.args or [self._stopped()])) from None
        return result

    def _steps(self) -> None:
        several = self.problem.team.size > 1
        with _Interrupt(several=several) as interrupt, self.display, flushed():
            stop = False
            while not stop and not self.algorithm.finished(self.state):
                info = self._step()
                self.display.update(self.algorithm.progress(self.problem, self.state), info)
                stop = info is not None and self._end_generation(info)
                interrupted = interrupt.seen
                if interrupted and several:  # the others may not know
                    raise KeyboardInterrupt
                last = stop or self.algorithm.finished(self.state)
                self._save(ended=info is not None, now=interrupted or last)
                if interrupted:
                    raise KeyboardInterrupt

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
        if len(self.history) == 1:
            choice = self.problem.choice
            self._note(engine={"name": choice.name, "measured": choice.report})
        team, failed, wanted = self.problem.team, None, False
        try:
            answers = [callback(copy.deepcopy(info)) for callback in self.callbacks]
            wanted = any(isinstance(answer, bool | np.bool_) and answer for answer in answers)
        except Exception as error:
            failed = error
        if team.total(int(failed is not None)):  # none of several goes on alone
            raise failed or RuntimeError("callbacks: one has failed in another process")
        return team.total(int(wanted)) > 0

    def _note(self, **parts: Any) -> None:
        """Add to the record in the run folder, which one of several processes writes."""
        if self.folder is not None and self.problem.team.rank == 0:
            record.note(self.folder.path.parent, **parts)

    def _where(self) -> str:
        return self.folder.where() if self.folder else "No checkpoint was asked for"

    def _stopped(self) -> str:
        """What Ctrl-C says: where the state is, and how to go on."""
        where = self._where()
        if self.folder is None or not saved_in(self.folder.path.parent):
            return where
        again = f"checkpoint={str(self.folder.path.parent)!r}"
        return f"{where}; the same call of fit with {again} goes on from there"

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

    Only where Ctrl-C would have raised: who ignores it or handles it otherwise is left alone. Of
    several processes one may stop before the others, whose exchange with it then fails.
    """

    def __init__(self, *, several: bool) -> None:
        self.several = several

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
        left = kind is not None and self.several and issubclass(kind, RuntimeError)
        if self.seen and (kind is None or left):  # it came after the last step was saved
            raise KeyboardInterrupt
