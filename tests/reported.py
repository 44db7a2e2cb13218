"""Short real runs to report on, and what a page says of them."""

import json
import re
from pathlib import Path
from typing import Any

from gradevo.cli import main

SHORT = ["--steps", "6", "--population", "4", "--generations", "3", "--engine", "loop"]
FRONT = ["--method", "gemonn", "--population", "12", "--generations", "24", "--steps", "8"]


def compared(folder: Path, methods: str = "gadam,adam,adam-best-of", seeds: int = 2) -> Path:
    """Run folders of several methods on iris, at equal cost."""
    main(["compare", "iris", "--methods", methods, "--seeds", str(seeds), *SHORT,
          "--out", str(folder), "--json"])  # fmt: skip
    return folder


def front(folder: Path) -> Path:
    """The run folder of a front."""
    main(["train", "iris", *FRONT, "--engine", "loop", "--out", str(folder), "--json"])
    return folder


def figures(page: str) -> dict[str, Any]:
    """Data and layout of every figure of a page, by its id."""
    found = re.findall(r'<script type="application/json" data-plot="(.*?)">(.*?)</script>', page)
    return {name: json.loads(text) for name, text in found}


def words(page: str) -> str:
    """A page without its scripts, styles and tags, in single spaces."""
    bare = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    return " ".join(bare.replace("\u202f", " ").split())
