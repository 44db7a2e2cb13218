"""Processes that take tasks and may die of them."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

LIMIT = 90.0  # seconds of a task


def serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    """Do tasks until there are none."""
    while (task := connection.recv()) is not None:
        connection.send(work(task))


class Worker:
    """A process of its own, started anew after it has died."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work, self.task = work, None
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.work), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, task: Any) -> None:
        self.task = task
        self.connection.send(task)

    def take(self) -> Any:
        """The answer, or of what the process has died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            self.start()
            return "crash", f"exit code {code}"

    def kill(self) -> Any:
        self.process.kill()
        self.process.join()
        self.start()
        return "hang", f"no answer in {LIMIT:.0f} s"


Answers = Iterator[tuple[Any, Any]]


def each(work: Callable[[Any], Any], tasks: Iterable[Any], workers: int) -> Answers:
    """Tasks with their answers, as they come."""
    waiting, crew = iter(tasks), [Worker(work) for _ in range(workers)]
    busy = [worker for worker in crew if _next(worker, waiting)]
    while busy:
        ready = wait([worker.connection for worker in busy], timeout=LIMIT)
        for worker in list(busy):
            if ready and worker.connection not in ready:
                continue
            task = worker.task
            yield task, (worker.take() if ready else worker.kill())
            if not _next(worker, waiting):
                busy.remove(worker)
    for worker in crew:
        worker.process.kill()


def _next(worker: Worker, tasks: Iterator[Any]) -> bool:
    task = next(tasks, None)
    if task is not None:
        worker.give(task)
    return task is not None
