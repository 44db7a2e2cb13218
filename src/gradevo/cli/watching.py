"""What a command says while it trains, and how to go on after Ctrl-C."""

import logging
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gradevo.cli.options import Options
from gradevo.errors import Terminated
from gradevo.interrupts import error_of, speaking
from gradevo.progress import is_terminal

words: list[str] = []  # of the command line, which other processes get


@contextmanager
def watched(options: Options, words: Sequence[str], rank: int = 0) -> Iterator[None]:
    """A block that trains: its progress has lines where no terminal has charts.

    Args:
        options: say whether anything is shown, and where the run is saved.
        words: of the command, to say after Ctrl-C how to go on.
        rank: of this process; only the first speaks.

    Raises:
        KeyboardInterrupt, Terminated: Ctrl-C or SIGTERM, with what the user wants to know.
    """
    log = logging.getLogger("gradevo.progress")
    handler = logging.StreamHandler(sys.stderr)
    if not (options.quiet or options.json or is_terminal(sys.stderr)):
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        with speaking():
            yield
    except (KeyboardInterrupt, Terminated) as stop:
        number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
        if rank > 0:
            sys.exit(128 + number)
        raise error_of(number, going_on(options.out, words)) from None
    finally:
        log.removeHandler(handler)


def going_on(out: Path | None, words: Sequence[str]) -> str:
    """Where the state of a stopped command is, and the command that goes on from there.

    Example:
        >>> going_on(None, ["train", "iris"])
        'Nothing was saved: it needs --out, a run folder'
        >>> going_on(Path("no/such/folder"), ["train", "iris", "--out", "no/such/folder"])
        'Nothing was saved in no/such/folder yet'
    """
    from gradevo.folder import saved_in

    if out is None:
        return "Nothing was saved: it needs --out, a run folder"
    single = saved_in(out)
    if not (single or any(saved_in(folder) for folder in out.glob("*/"))):
        return f"Nothing was saved in {out} yet"
    resume = ["--resume"] if single and "--resume" not in words else []
    command = shlex.join(["gradevo", *words, *resume])
    return f"The last good checkpoint is in {out}; go on with: {command}"
