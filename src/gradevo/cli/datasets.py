"""`gradevo datasets`: what is there by name."""

from rich.box import SIMPLE
from rich.table import Table

from gradevo.cli.printing import Terminal


def datasets() -> None:
    """List the data sets that are there by name."""
    from gradevo.datasets import available

    table = Table("name", "rows", "inputs", "classes", "source", box=SIMPLE)
    for known in available():
        table.add_row(*(str(value) for value in known))
    Terminal().print(table)
    Terminal().print("Also: a CSV file, a folder of MNIST-style idx files, an OpenML name or id.")
