"""Writes docs/results/scale.md from the raw rows: python benchmarks/scale/page.py"""

import json
from pathlib import Path
from typing import Any

from model import BATCH, RANKS, fitted
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
    apart = ["", f"{found['apart']:.2f}", f"{found['ceiling']:.2f}",
             f"{found['ceiling low']:.2f} to {found['ceiling high']:.2f}",
             "two strangers, ten members each"]  # fmt: skip
    head = ["one process, s", "two, s", "times faster", "range of rounds", "goal"]
    return table(head, [row, apart])


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


def ray(found: dict[str, Any]) -> str:
    return kills(found)


def jobs(found: dict[str, Any]) -> str:
    row = [str(found[name]) for name in ("runs", "killed", "same")]
    ranks = "; ".join(", ".join(map(str, run["ranks"])) for run in found["each"])
    return table(["runs", "jobs killed", "same bits", "ranks of the attempts"], [[*row, ranks]])


def slow(found: dict[str, Any]) -> str:
    body = [
        [kind, f"{r['even']:.1f}", f"{r['slow']:.1f}", f"{r['slow'] / r['even']:.2f}",
         "yes" if r["digests"] == 1 else "NO"]
        for kind, r in found["kinds"].items()
    ]  # fmt: skip
    head = ["", "even, s", "one rank three times slower, s", "times longer", "same bits"]
    return table(head, body)


def constants(found: dict[str, Any]) -> str:
    on = fitted(found)
    steps = ", ".join(f"{name} {seconds:.3g}" for name, seconds in found["steps"].items())
    body = [
        ["a gathering: first, every further rank", f"{on.call * 1e3:.2f} ms, "
         f"{on.latency * 1e3:.2f} ms"],
        ["bytes a second of a row, packing included", f"{on.bandwidth / 1e6:,.0f} MB"],
        ["bytes hashed a second", f"{on.hashing / 1e6:,.0f} MB"],
        ["scatter of a phase's time", f"{on.scatter:.1%}"],
        [f"a step on a batch of {BATCH}, s, by parameters", steps],
    ]  # fmt: skip
    return table(["", ""], body)


def check(found: list[dict[str, Any]]) -> str:
    body = [
        [f"{r['latency'] * 1e3:.0f} ms",
         "none" if r["bandwidth"] > 1e11 else f"{r['bandwidth'] / 1e6:.1f} MB/s",
         f"islands, every {r['every']}" if r["every"] else "one population", str(r["ranks"]),
         f"{r['measured']:.2f}", f"{r['model']:.2f}", f"{r['measured'] / r['model'] - 1:+.0%}"]
        for r in found
    ]  # fmt: skip
    head = ["latency", "bandwidth limit", "", "ranks", "measured, s", "model, s", "off by"]
    return table(head, body)


def model(found: list[dict[str, Any]]) -> str:
    body = [
        [r["network"], r["machine"], f"{r['learning']:,.0f}",
         f"islands, every {r['every']}" if r["every"] else "one population",
         *(f"{share:.0%}" for share in r["efficiency"].values())]
        for r in found
    ]  # fmt: skip
    head = ["parameters", "ranks are", "learning a generation, s", "", *map(str, RANKS)]
    return table(head, body)


def commands(rows: list[dict[str, Any]]) -> str:
    body = [[row["part"], f"`{row['command']}`", ", ".join(map(str, row["machine"]["load"]))]
            for row in rows]  # fmt: skip
    return table(["part", "command", "load (1, 5, 15 minutes)"], body)


def main() -> None:
    rows = [json.loads(line) for line in RAW.read_text().splitlines()]
    newest = {row["part"]: row for row in rows}
    text = TEXT.read_text()
    newest["model"] = newest.pop("table")
    for part in (speed, traffic, kills, ray, jobs, slow, constants, check, model):
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
