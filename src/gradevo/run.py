"""`fit`: the generation loop, and everything around it that no algorithm should know."""

import copy
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Generator, Tensor

from gradevo import interrupts, objectives, options, record, trees
from gradevo.admission import admitted
from gradevo.algorithms.base import Algorithm, Info
from gradevo.algorithms.gemonn import GEMONN
from gradevo.algorithms.saved import noted, states_of
from gradevo.arguments import callbacks_of, check_arguments, device_of
from gradevo.building import built
from gradevo.callbacks import Callback, JsonLines
from gradevo.checks import likely_cause, try_once
from gradevo.contents import contents_of
from gradevo.criteria import is_cross_entropy
from gradevo.data import DataLike, prepare
from gradevo.denormals import flushed
from gradevo.distributed.agreement import check_same, together
from gradevo.distributed.folder import SharedFolder
from gradevo.distributed.joining import check_shareable, current, layout
from gradevo.distributed.outcome import in_order, shared
from gradevo.distributed.placing import blocks, rows_at
from gradevo.distributed.team import Team
from gradevo.errors import CheckpointError, DivergedError, Terminated
from gradevo.folder import Checkpoint, Saved, healthy, placed, saved_in
from gradevo.front import Front
from gradevo.health import is_lost, summary, warn_unlearnt
from gradevo.identity import Identity, identity_of, readable
from gradevo.interrupts import Interrupt
from gradevo.loggers import Log, Logger, Run, named
from gradevo.loggers.base import Plain
from gradevo.loggers.logs import Logs
from gradevo.loggers.numbers import outcome_of, settings_of
from gradevo.nondominated import front_of
from gradevo.operators.selection import finite_or_worst
from gradevo.operators.survival import top
from gradevo.population import Build, Loss, Population
from gradevo.probe import check_real
from gradevo.problem import Problem
from gradevo.progress import display
from gradevo.randomness import generator_from, spawn
from gradevo.result import Result
from gradevo.share import Share
from gradevo.soup import greedy_soup
from gradevo.start import Source, Start
from gradevo.structure import Tensors
from gradevo.validation import flag
from gradevo.validation import seed as checked_seed

log = logging.getLogger("gradevo.run")
MANY = 10**6  # more than there are processes


@overload
def fit(
    algorithm: GEMONN,
    build: Build,
    loss: Loss,
    train: DataLike,
    *,
    valid: DataLike | None = None,
    seed: int = 0,
    device: str | int | torch.device | None = None,
    engine: str = "auto",
    precision: str = "full",
    callbacks: Callback | Sequence[Callback] = (),
    start: Start | Source | Sequence[Source] | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    log: Log = None,
    force: bool = False,
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
    device: str | int | torch.device | None = None,
    engine: str = "auto",
    precision: str = "full",
    callbacks: Callback | Sequence[Callback] = (),
    start: Start | Source | Sequence[Source] | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    log: Log = None,
    force: bool = False,
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
    device: str | int | torch.device | None = None,
    engine: str = "auto",
    precision: str = "full",
    callbacks: Callback | Sequence[Callback] = (),
    start: Start | Source | Sequence[Source] | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    log: Log = None,
    force: bool = False,
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
        train: `(x, y)` tensors, arrays or pandas tables, a `Dataset`, or a `DataLoader`; what the
            networks do not take is cast to their type, with a word in the log. Class labels are
            0..C-1, other targets have the outputs' shape. Where x is a mapping of tensors the
            module gets them by name, `module(**x)`; a tuple or list by position, `module(*x)`; y
            may be a mapping or tuple, too. A mapping alone, as Hugging Face's collators give, has y
            as its "labels" or "label".
        valid: the same, rows on which members are compared; default: a fifth of `train` is
            held out, by class where there are class labels.
        seed: everything random follows from it, a whole number from 0; global random state is left
            untouched.
        device: where to compute; default: where `build` puts the module.
        engine: "auto" or an engine's name, see `Population`; "auto" times them on the first
            step. Same seed gives same bits with the same engine.
        precision: "full", or "bfloat16" for forward passes under autocast.
        callbacks: functions of a generation's info, or one of them; one that returns True ends the
            run; the same call made again goes on after it.
        start: trained networks to begin with instead of new ones: a module, several, files, a
            former run, or a `Start` that says how the other members differ from them.
        checkpoint: a folder to save to and go on from, or a `Checkpoint`.
        log: "tensorboard", "wandb", "mlflow", one of `gradevo.loggers` with its settings, or a
            list of them. One that fails is warned of, and the run goes on. The run folder has
            `log.jsonl` in any case.
        force: go on from `checkpoint` even if other data, another network or loss, or other
            settings were saved there; what differs is in the log.
        quiet: no display. Else charts where errors go to a terminal, and elsewhere lines at
            level INFO of Python's logger "gradevo.progress".

    Returns:
        A `Result` with `best`, `ensemble`, `soup`, `members`, `history`. For `GEMONN` a `Front`
        with `knee`, `best()`, `sparsest(max_loss=)`, `members`, `table()`, `history`.

    Raises:
        TypeError, ValueError: bad data or arguments, before any work.
        ImportError: a package that `log` asks for is not installed.
        CheckpointError: the folder holds another run, is used by one, or cannot be read or written.
            A disk that is full later is warned of, and only the last save must succeed.
        DivergedError: every member's loss is NaN or infinite.
        KeyboardInterrupt: Ctrl-C, after the state was saved to `checkpoint`.
        SystemExit: SIGTERM or SIGHUP, likewise, within 25 seconds; exit code 143 or 129.

    Example:
        >>> import gradevo as ge
        >>> from torch import nn
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> algorithm = ge.GADAM(population=2, generations=1, steps=5, batch_size=16)
        >>> result = ge.fit(algorithm, lambda: nn.Linear(4, 1), nn.MSELoss(), (x, x[:, :1]))
        >>> result.best(x).shape
        torch.Size([64, 1])
    """
    began, seed = time.monotonic(), checked_seed("seed", seed)
    loggers, team, root = named(log), current(), generator_from(seed)
    settings = None if checkpoint is None else Checkpoint.of(checkpoint)
    with torch.inference_mode(False), torch.enable_grad(), together(team):
        check_arguments(algorithm, build, loss)
        functions, quiet = callbacks_of(callbacks), flag("quiet", quiet)
        force, device = flag("force", force), device_of(device)
        check_shareable(algorithm, team.size)
        share = _share(algorithm, team)
        modules = built(build, share.ids, spawn(root))
        population = Population.of_built(modules, engine=engine, precision=precision)
        check_real(population)
        if device is not None:
            population.to(device)
        rows = {"batch_size": algorithm.batch_size, "seed": seed, "device": population.device}
        split, begun = prepare(train, valid, **rows), None
        if start is not None:
            last = isinstance(algorithm, GEMONN)  # whose last member is the densest, and first
            few = trees.take(split.valid[0], slice(8))
            where = {"share": share, "backwards": last, "example": few}
            begun = Start.of(start).into(population, generator=spawn(root), **where)
        criterion = algorithm.criterion(loss)
        split = admitted(split, population, criterion)
        given = Problem(population, criterion, split.source, split.valid, team=team)
        try_once(given, modules)
        del modules
        objectives.check_targets(given, getattr(algorithm, "objectives", ()))
        options.check_steps(getattr(algorithm, "algorithm", algorithm), population.flat)
        identity: Identity = {}  # nobody asks
        if settings is not None or team.size > 1:
            contents = contents_of(given.source, given.valid)
            identity = identity_of(algorithm, given, contents, seed, begun)
    check_same(team, identity, engine=engine, precision=precision)
    folder = None
    if settings is not None:
        states, names = states_of(algorithm, given), noted(algorithm)
        homes = layout(algorithm, team.size)
        folder = SharedFolder(settings, identity, states, names, team, homes, force=force)
    with torch.inference_mode(False), torch.enable_grad(), folder or nullcontext():
        run = _Run(algorithm, given, spawn(root), functions, folder, began)
        run.show(loggers, settings_of(algorithm, given, seed), quiet=quiet)
        return run.to_the_end()


def _share(algorithm: Algorithm, team: Team) -> Share:
    """The members that this process builds."""
    homes = layout(algorithm, team.size)
    return Share(tuple(rows_at(homes, team.rank).tolist()), algorithm.population)


class _Run:
    """One call of `fit`, once the data and the population are made."""

    def __init__(
        self,
        algorithm: Algorithm,
        problem: Problem,
        generator: Generator,
        callbacks: Sequence[Callback],
        folder: SharedFolder | None,
        began: float,
    ) -> None:
        self.algorithm, self.problem, self.folder = algorithm, problem, folder
        self.callbacks = list(callbacks)
        self.history: list[Info] = []
        self.begun = self.unsaved = self.unnoted = False
        saved = folder.load() if folder else None  # before anything is written
        self.resumed = saved is not None
        if saved is None:
            self.state = algorithm.init(problem, generator)
        else:
            self.state = placed(saved.state, problem.population)
            self.history = saved.history
            problem.population.choice.resume(saved.engine)
        self.began, self.before = began, 0.0
        if folder is not None and problem.team.rank == 0:
            self.before = record.seconds(folder.root) if self.resumed else 0.0
            self.callbacks.append(JsonLines(folder.log, self.history))
            run = {**readable(folder.identity), "generations": algorithm.generations}
            self._note(**folder.notes, run=run, **record.circumstances(), finished=None)
            if saved is None:
                self._note(started=record.now(), seconds=0.0)
        self.begun = True

    def show(self, loggers: Sequence[Logger], asked: Mapping[str, Plain], *, quiet: bool) -> None:
        """Open the display and the loggers."""
        team, generations = self.problem.team, self.algorithm.generations
        self.display = display(generations, self.history, shown=team.rank == 0 and not quiet)
        folder = None if self.folder is None else self.folder.root
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
                learning = summary(self.history, aloud=self.problem.team.rank == 0)
                self._note(finished={"member_steps": steps, "engine": engine, **learning})
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(*(stop.args or [self._stopped()])) from None
        except Terminated as stop:
            raise self._terminated(stop) from None
        finally:
            self._note(seconds=round(self.before + time.monotonic() - self.began, 3))
        return result

    def _steps(self) -> None:
        several = self.problem.team.size > 1
        with Interrupt(self._stopped, several=several) as interrupt, self.display, flushed():
            stop = False
            while not stop and not self.algorithm.finished(self.state):
                info, interrupted = self._step(), False
                self.display.update(self.algorithm.progress(self.problem, self.state), info)
                if info is not None:
                    stop, interrupted = self._end_generation(info, interrupt)
                if not several:
                    interrupted = interrupt.number > 0
                elif interrupt.overdue:  # the others may not know
                    raise interrupt.error()
                last = stop or self.algorithm.finished(self.state)
                self._save(ended=info is not None, last=last, interrupted=interrupted)
                if interrupted:
                    raise interrupt.error()

    def _step(self) -> Info | None:
        try:
            self.state, info = self.algorithm.step(self.problem, self.state)
        except DivergedError as error:
            cause = likely_cause(self.problem)
            raise DivergedError(f"{error}; the likely cause is {cause}. {self._where()}") from None
        return info

    def _end_generation(self, info: Info, interrupt: Interrupt) -> tuple[bool, bool]:
        """Note a generation's numbers and call everybody.

        Returns:
            Whether somebody wants to stop, and whether a process was interrupted.
        """
        self.history.append(info)
        if not self.problem.team.rank:
            warn_unlearnt(info, self.problem.said)
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
        total = team.total(int(wanted) + MANY * (interrupt.number > 0))
        return total % MANY > 0, total >= MANY

    def _note(self, **parts: Any) -> None:
        """Add to the record in the run folder, which one of several processes writes.

        A run that is under way goes on without.
        """
        if self.folder is None or self.problem.team.rank > 0:
            return
        try:
            record.note(self.folder.root, **parts)
        except CheckpointError as error:
            if not self.begun:
                raise
            if not self.unnoted:
                log.warning("record: %s; the run goes on without", error)
            self.unnoted = True

    def _where(self) -> str:
        return self.folder.where() if self.folder else "No checkpoint was asked for"

    def _stopped(self) -> str:
        """What Ctrl-C says: where the state is, and how to go on."""
        where = self._where()
        if self.folder is None or not saved_in(self.folder.root):
            return where
        again = f"checkpoint={str(self.folder.root)!r}"
        return f"{where}; the same call of fit with {again} goes on from there"

    def _terminated(self, stop: Terminated) -> Terminated:
        """What SIGTERM says; logged where no program of ours will say it."""
        said = stop.said or self._stopped()
        ours = signal.getsignal(stop.number) is interrupts.at_once
        if not ours and self.problem.team.rank == 0:
            log.warning("stopped by a signal. %s", said)
        return Terminated(stop.number, said)

    def _save(self, *, ended: bool, last: bool, interrupted: bool) -> None:
        """Save when asked or when it is time.

        Within a generation, not while nobody learns or every member's weights have become NaN:
        then what is on disk is the last that is good. A disk that is full is tried again, and only
        at the end of the run it is an error.
        """
        population, several = self.problem.population, self.problem.team.size > 1
        if self.folder is None or (several and not ended):
            return
        if not (last or interrupted or self.folder.due(ended=ended)):
            return
        if not ended and self._lost():
            return
        try:
            self.folder.save(Saved(self.state, self.history, population.engine))
            self.unsaved = False
        except CheckpointError as error:
            if last and not interrupted:
                raise
            if not self.unsaved and self.problem.team.rank == 0:
                log.warning("%s; the run goes on, and the next save tries again", error)
            self.unsaved = True
            self.folder.failed()

    def _lost(self) -> bool:
        """Whether nobody learns in the phase under way."""
        phase = getattr(self.state, "phase", None)
        skips = phase is not None and is_lost(phase.lost, phase.step)
        return skips or not healthy(self.problem.workplace)

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
