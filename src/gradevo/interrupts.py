"""Ctrl-C and what clusters send: noted during a step, acted on once the state is saved."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from gradevo.errors import Terminated

ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
PATIENCE, LAST = 15.0, 25.0
"""Seconds that several processes wait for the end of their generation, and that any one takes at
most: clusters and torchrun kill after thirty."""
PARENT = "GRADEVO_PARENT"  # the process that started this one, in the environment
DEATH = 1  # prctl's PR_SET_PDEATHSIG


def at_once(number: int, frame: FrameType | None) -> NoReturn:
    """A handler for a program that has something to say before it ends."""
    raise Terminated(number)


@contextmanager
def speaking() -> Iterator[None]:
    """A block in which SIGTERM and SIGHUP raise, as Ctrl-C does, where they would just end."""
    former: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                if signal.getsignal(number) is signal.SIG_DFL:
                    former[number] = signal.signal(number, at_once)
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def error_of(number: int, said: str = "") -> BaseException:
    """What a signal raises."""
    if number == signal.SIGINT:
        return KeyboardInterrupt(said) if said else KeyboardInterrupt()
    return Terminated(number, said)


class Interrupt:
    """A block in which Ctrl-C, SIGTERM and SIGHUP are noted; a second one is acted on at once.

    Only where Ctrl-C would have raised and the others would have ended the process: who ignores
    them or handles them otherwise is left alone. A process that does not come to save is ended
    within `LAST` seconds all the same, but not for Ctrl-C alone.

    Args:
        several: whether other processes take part, which may stop before this one.
        said: words on how to go on, for a process that must end at once.

    Attributes:
        number: of the signal that was noted; 0: none.
    """

    def __init__(self, said: Callable[[], str], *, several: bool) -> None:
        self.said, self.several = said, several
        self.number, self.since = 0, 0.0

    def __enter__(self) -> Self:
        self.former: dict[int, Any] = {}
        self.timer: threading.Timer | None = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *ENDING):
                handler = signal.getsignal(number)
                if handler in (signal.default_int_handler, at_once) or (
                    number in ENDING and handler is signal.SIG_DFL
                ):
                    self.former[number] = handler
                    signal.signal(number, self._note)
        return self

    @property
    def overdue(self) -> bool:
        """Whether several processes have waited long enough for each other."""
        return self.number > 0 and time.monotonic() - self.since > PATIENCE

    def error(self) -> BaseException:
        """What is to be raised; another process may have been told."""
        return error_of(self.number or signal.SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise error_of(number)
        self.number, self.since = number, time.monotonic()
        if number != signal.SIGINT or self.several:
            self.timer = threading.Timer(LAST, self._end)
            self.timer.daemon = True
            self.timer.start()

    def _end(self) -> None:
        """In another thread: the step under way does not end."""
        with suppress(Exception):
            os.write(2, f"gradevo: stopped. {self.said()}\n".encode(errors="replace"))
        os._exit(128 + self.number)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)
        if self.timer is not None:
            self.timer.cancel()
        left = kind is not None and self.several and issubclass(kind, RuntimeError)
        if self.number and (kind is None or left):  # it came after the last step was saved
            raise self.error()


# --- the end of a parent -------------------------------------------------------------------


def follow_parent(environment: MutableMapping[str, str] = os.environ) -> None:
    """End with the process that started this one, however that ends; only for such processes.

    Linux sends a signal; elsewhere a thread looks every second.
    """
    parent = int(environment.pop(PARENT, "0"))  # children of this one have it as their parent
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it has ended before
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
