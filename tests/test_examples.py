"""Examples run from their own files, quickly, and say what they found.

Those that are slow even then run in `make examples` only, which CI calls, as the others do in full.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
PROGRAMS = sorted(FOLDER.glob("*.py"))
SLOW = {"cnn_front.py", "transformer.py", "two_processes.py"}
SAID = {
    "digits.py": r"GADAM, its best member .*%",
    "f1.py": r"F1 by a swarm +0\.\d",
    "phase.py": r"SwarmLoss anywhere, then Adam +0\.\d",
}


@pytest.mark.parametrize(
    "program", [p for p in PROGRAMS if p.name not in SLOW], ids=lambda program: program.name
)
def test_an_example_runs_and_reports(program: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(program), "--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(SAID[program.name], done.stdout), done.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_an_example_says_what_to_see_and_is_listed(program: Path) -> None:
    about = ast.get_docstring(ast.parse(program.read_text())) or ""
    assert f"python examples/{program.name}" in about
    assert "What to see" in about
    assert f"({program.name})" in (FOLDER / "README.md").read_text()
