"""What README and documentation print holds: programs run, commands parse, names exist.

Every fenced `python` block is a program of its own. It runs in a fresh namespace and an empty
folder; a warning is an error. Blocks that import other people's frameworks run in a process of
their own, where only gradevo's warnings are errors. The commands of a fenced `sh` block are read
by the real command line, which says whether each option and value is one. Pages of results hold
the commands of long benchmarks, indented: they are not run, but their scripts must be there.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from matplotlib import pyplot

import gradevo
from gradevo.algorithms import gadam
from gradevo.cli import app
from gradevo.swarm import ESTIMATORS

ROOT = Path(__file__).parent.parent
OURS = {"gradevo", "matplotlib", "numpy", "sklearn", "torch", *sys.stdlib_module_names}
FENCE = re.compile(r"^```([^`\n]*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
LANGUAGES = ("python", "sh", "text", "json")  # besides directives, which Sphinx checks
ALONE = "import runpy, warnings; warnings.filterwarnings('error', module='gradevo|__main__'); "
TABLES: list[dict[str, Any]] = [
    gadam.SELECTIONS, gadam.CROSSOVERS, gadam.MUTATIONS, ESTIMATORS,
]  # fmt: skip


class Block(NamedTuple):
    """A fenced block: the page and line it stands at, its language and text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README, contributor's guide, and all pages of the site."""
    found = (ROOT / "docs").rglob("*.md")
    site = sorted(page for page in found if "_build" not in page.parts)
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *site]


def blocks(page: Path) -> Iterator[Block]:
    text, name = page.read_text(), page.relative_to(ROOT).as_posix()
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(name, line, match[1], match[2])


BLOCKS = [block for page in pages() for block in blocks(page)]
PROGRAMS = [block for block in BLOCKS if block.language == "python"]
LINES = [
    pytest.param(command, id=f"{block.place} {command}")
    for block in BLOCKS
    if block.language == "sh"
    for line in block.text.splitlines()
    if (command := line.partition("#")[0].strip())
]
RESULTS = [page for page in pages() if page.parent.name == "results"]


# --- programs ------------------------------------------------------------------------------


@pytest.fixture
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder; what a program enters in a table or draws is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    before = [dict(table) for table in TABLES]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield tmp_path
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)
    pyplot.close("all")


def imports(program: str) -> set[str]:
    """Top-level names of the packages that a program imports."""
    found = set[str]()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.place)
def test_every_program_runs_as_printed(block: Block, own_world: Path) -> None:
    if imports(block.text) <= OURS:
        padded = "\n" * block.line + block.text  # a traceback names the page's own line
        exec(compile(padded, block.page, "exec"), {"__name__": "__main__"})
        return
    (own_world / "program.py").write_text(block.text)
    command = [sys.executable, "-c", ALONE + "runpy.run_path('program.py', run_name='__main__')"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_first_program_has_at_most_ten_lines() -> None:
    assert 0 < len(PROGRAMS[0].text.strip().splitlines()) <= 10


def test_every_block_says_its_language_so_that_none_is_overlooked() -> None:
    known = (*LANGUAGES, "{")
    assert [b.place for b in BLOCKS if not b.language.startswith(known)] == []
    assert [p.name for p in pages() if re.search(r"^[ \t]+```", p.read_text(), re.MULTILINE)] == []


# --- commands ------------------------------------------------------------------------------


def check_gradevo(words: list[str]) -> None:
    """The real command line reads the words, without running them."""
    app.parse_args(words, exit_on_error=False, print_error=False)


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in words:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def check_pip(words: list[str]) -> None:
    """Extras that are asked for are there, and files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"\[([^]]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(project["optional-dependencies"]), extras
    for name in re.findall(r"\S+\.txt", " ".join(words)):
        assert (ROOT / name).exists(), name


def check_python(words: list[str]) -> None:
    assert (ROOT / words[0]).exists(), words[0]


CHECKS = {
    "gradevo": check_gradevo, "make": check_make, "pip": check_pip, "python": check_python,
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_every_command_is_understood(line: str) -> None:
    name, *words = line.replace("'", "").split()
    assert name in CHECKS, "say how to check such a command"
    CHECKS[name](words)


@pytest.mark.parametrize("line", ["gradevo train", "gradevo train iris --stepps 3"])
def test_a_command_that_is_none_would_be_seen(line: str) -> None:
    with pytest.raises(Exception, match=r"stepps|requires an argument"):
        test_every_command_is_understood(line)


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.name)
def test_the_scripts_behind_results_exist(page: Path) -> None:
    scripts = re.findall(r"benchmarks/[\w/]+\.py", page.read_text())
    assert all((ROOT / script).exists() for script in scripts), scripts
    assert "```python" not in page.read_text(), "results have commands, no programs"


EXTRAS = re.compile(r"gradevo\[([\w,]+)\]")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_extras_that_are_named_exist(page: Path) -> None:
    for extras in EXTRAS.findall(page.read_text()):
        check_pip([f"[{extras}]"])


@pytest.mark.parametrize("name", gradevo.__all__)
def test_the_reference_has_every_name_of_the_front_door(name: str) -> None:
    reference = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    assert re.search(rf":: gradevo\.{name}$", reference, flags=re.MULTILINE)
