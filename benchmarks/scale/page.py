"""Writes docs/results/scale.md from the raw rows: python benchmarks/scale/page.py"""

import json
from pathlib import Path
from typing import Any

from run import RAW

PAGE = RAW.parents[1] / "scale.md"
TEXT = Path(__file__).with_name("page.md")


def table(head: list[str], body: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def speed(found: dict[str, Any]) -> str:
    one, two = found["seconds"]["1"], found["seconds"]["2"]
    met = "met" if found["ratio"] >= 1.8 else "missed"
    row = [f"{one:.2f}", f"{two:.2f}", f"**{found['ratio']:.2f}**",
           f"{found['low']:.2f} to {found['high']:.2f}", f"1.8: {met}"]  # fmt: skip
    return table(["one process, s", "two, s", "times faster", "range of rounds", "goal"], [row])


def traffic(found: list[dict[str, Any]]) -> str:
    body = [
        [str(r["members"]), str(r["ranks"]), f"{r['bytes'] / 1e3:,.0f}", f"{r['most'] / 1e3:,.0f}",
         f"{r['bound'] / 1e3:,.0f}", f"{r['bytes'] / r['bound']:.0%}"]
        for r in found
    ]  # fmt: skip
    head = ["g", "ranks", "kB a generation", "at most", "bound, kB", "of the bound"]
    return table(head, body)


def kills(found: dict[str, Any]) -> str:
    counts = [str(found[name]) for name in ("runs", "hit", "same", "failed")]
    row = [*counts, *(f"{found[name]:.1f}" for name in ("usual", "lost", "most lost"))]
    head = ["runs", "workers killed", "same bits", "failed or hung",
            "undisturbed, s", "lost, s (median)", "at most"]  # fmt: skip
    return table(head, [row])


def commands(rows: list[dict[str, Any]]) -> str:
    body = [[row["part"], f"`{row['command']}`", ", ".join(map(str, row["machine"]["load"]))]
            for row in rows]  # fmt: skip
    return table(["part", "command", "load (1, 5, 15 minutes)"], body)


def main() -> None:
    rows = [json.loads(line) for line in RAW.read_text().splitlines()]
    newest = {row["part"]: row for row in rows}
    text = TEXT.read_text()
    for part in (speed, traffic, kills):
        text = text.replace("{{" + part.__name__ + "}}", part(newest[part.__name__]["results"]))
    machine = newest["speed"]["machine"]
    versions = ", ".join(f"{n} {machine['versions'][n]}" for n in ("torch", "numba", "numpy"))
    text = text.replace(
        "{{machine}}", f"{machine['processor']}, Python {machine['python']}, {versions}"
    )
    PAGE.write_text(text.replace("{{commands}}", commands(list(newest.values()))))
    print(PAGE)


if __name__ == "__main__":
    main()
