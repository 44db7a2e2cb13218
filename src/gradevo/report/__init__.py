"""What runs were, on one page: losses, family tree, front, comparison, settings, versions.

`gradevo report` on the command line; needs plotly and jinja2, `pip install 'gradevo[report]'`.
"""

from collections.abc import Sequence
from pathlib import Path

from gradevo import disk
from gradevo.report.reading import find, read


def write(runs: Sequence[str | Path], path: str | Path) -> Path:
    """Write one HTML page on some runs, which opens from disk and asks for nothing else.

    The file has some 5 MB, nearly all of it the plot library.

    Args:
        runs: run folders, or folders with runs below them; at least one. The first method is
            what the others are compared with.
        path: the page; replaced if it is there.

    Returns:
        The path.

    Raises:
        ImportError: plotly or jinja2 is not installed: pip install 'gradevo[report]'.
        ValueError: no run in a folder.
        CheckpointError: a file of a run is damaged, or the page cannot be written. A last line
            of a log that a crash cut off is left out, and the page says so.

    Example:
        >>> import tempfile, torch
        >>> import gradevo as ge
        >>> from gradevo import report
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> algorithm = ge.GADAM(population=2, generations=2, steps=5, batch_size=16)
        >>> given = algorithm, lambda: torch.nn.Linear(4, 1), torch.nn.MSELoss(), (x, x[:, :1])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = ge.fit(*given, checkpoint=folder)
        ...     report.write([folder], folder + "/report.html").name
        'report.html'
    """
    from gradevo.report.page import html

    text = html([read(folder) for folder in find([Path(run) for run in runs])])
    with disk.replacing(Path(path)) as new:
        new.write_text(text, encoding="utf-8")
    return Path(path)
