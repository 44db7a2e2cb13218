"""What goes wrong, by name.

Bad input is a `ValueError` that names the argument, the rule and the value; these say
what else can happen.
"""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, written or continued: truncated, foreign, or a full disk."""


class DivergedError(RuntimeError):
    """Every member of the population has a loss that is NaN or infinite."""


class EngineError(RuntimeError):
    """The engine that was asked for cannot compute this module; the message says why."""


class ExportError(RuntimeError):
    """A network cannot be written in a format, or what was written computes something else."""


class Terminated(SystemExit):
    """The system wants the process to end (SIGTERM, SIGHUP); what there was to save is saved.

    Nobody has to catch it: the process ends with the exit code that shells give to the signal.

    Args:
        number: of the signal.
        said: where the state is, and how to go on.
    """

    def __init__(self, number: int, said: str = "") -> None:
        super().__init__(128 + number)
        self.number, self.said = number, said

    def __str__(self) -> str:
        return self.said
