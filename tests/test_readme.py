"""What the README and the guides print runs as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TEXTS = {
    path.name: path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
}
PROGRAMS = {
    f"{name}-{number}": program
    for name, text in TEXTS.items()
    for number, program in enumerate(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
}


def test_the_first_program_has_at_most_ten_lines() -> None:
    assert 0 < len(PROGRAMS["README.md-0"].strip().splitlines()) <= 10


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_every_program_runs_as_printed(program: str) -> None:
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", re.findall(r"^make \w+|^gradevo .*", README, flags=re.MULTILINE))
def test_every_command_exists(line: str) -> None:
    words = line.split("#")[0].split()
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE)
    else:
        help_text = subprocess.run(
            [sys.executable, "-m", "gradevo.cli", words[1], "--help"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        options = [word for word in words if word.startswith("--")]
        assert all(option in help_text for option in options)
