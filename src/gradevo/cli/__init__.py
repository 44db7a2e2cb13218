"""The command: `gradevo train`, `compare`, `front`, `export`, `report` and `datasets`.

Torch is imported inside the commands, so that `--help` answers at once.
"""

import sys
from contextlib import suppress

from cyclopts import App, CycloptsError

from gradevo import __version__
from gradevo.cli.compare import compare
from gradevo.cli.datasets import datasets
from gradevo.cli.export import export
from gradevo.cli.front import front
from gradevo.cli.printing import prepare, silence
from gradevo.cli.report import report
from gradevo.cli.train import train
from gradevo.cli.watching import words
from gradevo.errors import CheckpointError, DivergedError, EngineError, ExportError, Terminated
from gradevo.interrupts import follow_parent

MISTAKES = (
    CycloptsError, ValueError, TypeError, ImportError, OSError, CheckpointError, EngineError,
    ExportError,
)  # fmt: skip

PIPE = 13  # the number of SIGPIPE

app = App(
    name="gradevo",
    help="Train PyTorch networks with hybrids of gradient descent and evolution or swarms.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # it is for `main` to say where the run is
)
for command in (train, compare, front, export, report, datasets):
    app.command(command)


def main(arguments: list[str] | None = None) -> None:
    """The entry point: bad input is one line and exit code 2, never a traceback."""
    follow_parent()
    prepare()
    words[:] = sys.argv[1:] if arguments is None else arguments
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read what is printed has had enough
        silence()
        sys.exit(128 + PIPE)
    except KeyboardInterrupt as stop:
        _fail(f"stopped. {stop}", 130)  # as it is: it may quote the command line
    except Terminated as stop:
        _fail(f"stopped. {stop}", 128 + stop.number)
    except DivergedError as error:
        _fail(" ".join(str(error).split()), 1)
    except MISTAKES as error:
        _fail(" ".join(str(error).split()), 2)


def _fail(message: str, code: int) -> None:
    """One line on standard error, where there is one."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"gradevo: {message}".rstrip(), file=sys.stderr)
    sys.exit(code)
