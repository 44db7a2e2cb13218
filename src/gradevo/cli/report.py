"""`gradevo report`: runs on one page."""

from pathlib import Path

from gradevo.cli.options import check_free
from gradevo.cli.printing import say_where

PAGE = "report.html"


def report(*runs: Path, out: Path | None = None) -> None:
    """Write one HTML page on runs: losses, family tree, front, comparison, settings.

    Needs plotly and jinja2: pip install 'gradevo[report]'.

    Parameters
    ----------
    runs
        Run folders, or folders with runs below them, as `train --out` and `compare --out` leave
        them. The first method is what the others are compared with.
    out
        The page. Default: report.html, in the folder where one is given, else here.
    """
    from gradevo.report import write
    from gradevo.report.reading import find

    found = find(runs)
    for run in found:
        check_free(out, run)
    folder = runs[0] if len(runs) == 1 else Path()
    say_where(write(found, out or folder / PAGE), "Report")
