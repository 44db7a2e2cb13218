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
