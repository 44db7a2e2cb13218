"""Writes docs/results/speed.md and its figures from the raw rows.

python benchmarks/speed/page.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from run import RAW
from workloads import WORKLOADS

PAGE = RAW.parents[1] / "speed.md"
FIGURES = PAGE.parent / "figures"
TEXT = Path(__file__).with_name("page.md")
Row = dict[str, Any]
ENGINES = ("batched", "vmap", "simd", "loop@")


def table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def newest(rows: list[Row], part: str) -> list[Row]:
    """The last row of each workload, population size and number of threads."""
    kept = {
        (row.get("workload"), row.get("members"), row["machine"]["threads"]): row
        for row in rows
        if row["part"] == part
    }
    return list(kept.values())


def best(row: Row) -> tuple[str, Row]:
    """The fastest of gradevo's own engines that any user gets."""
    own = {n: r for n, r in row["results"].items() if n.startswith(ENGINES) and "whole" not in n}
    name = max(own, key=lambda n: own[n]["ratio"])
    return name, own[name]


def rival(row: Row, start: str) -> str:
    """The best ratio of techniques by the start of their names."""
    ratios = [r["ratio"] for n, r in row["results"].items() if n.startswith(start)]
    return f"{max(ratios):.2f}" if ratios else ""


def goals(rows: list[Row]) -> str:
    body = []
    for row in in_order(rows):
        workload, members = WORKLOADS[row["workload"]], row["members"]
        if row["machine"]["threads"] != workload.threads:
            continue
        name, found = best(row)
        goal = workload.goals[members]
        whole = row["results"].get("simd, whole phase") if name == "simd" else None
        rate = row["flops"] * members / found["seconds"] / 1e9
        body.append([
            f"{workload.name}, batch {workload.batch}", str(members),
            f"{1e3 * row['results']['loop']['seconds']:.2f}", name,
            f"**{found['ratio']:.2f}** ({found['low']:.2f} to {found['high']:.2f})",
            f"{whole['ratio']:.0f}" if whole else "", rival(row, "JAX"), rival(row, "torch.func"),
            f"{rate:.1f} ({100 * rate / row['machine']['gflops']:.0f} %)" if rate > 0.1 else "",
            f"{goal:g}: {'met' if found['ratio'] >= goal else 'missed'}",
        ])  # fmt: skip
    head = [
        "workload",
        "g",
        "loop, ms a step",
        "engine",
        "times faster (range of rounds)",
        "with drawing of rows",
        "JAX",
        "torch.func recipe",
        "GFLOP/s (of sgemm)",
        "goal",
    ]
    return table(head, body)


def in_order(rows: list[Row]) -> list[Row]:
    names = list(WORKLOADS)
    return sorted(rows, key=lambda row: (names.index(row["workload"]), row["members"]))


def techniques(rows: list[Row], threads: int) -> str:
    mine = [row for row in in_order(rows) if row["machine"]["threads"] == threads]
    body = []
    for row in mine:
        found = ", ".join(f"{n} {r['ratio']:.2f}" for n, r in row["results"].items())
        reasons = "; ".join(f"{n}: {why}" for n, why in row["declined"].items())
        body.append([row["workload"], str(row["members"]), found, reasons])
    return table(["workload", "g", "times faster than the loop", "could not"], body)


def machines(rows: list[Row]) -> str:
    body = []
    for row in in_order(rows):
        m = row["machine"]
        body.append([row["workload"], str(row["members"]), str(m["threads"]),
                     f"{m['gflops']:.0f}", f"{m['copy_gb']:.1f}",
                     ", ".join(map(str, m["load"])), f"`{row['command']}`"])  # fmt: skip
    head = ["workload", "g", "threads", "sgemm, GFLOP/s", "copy, GB/s (read and write)",
            "load (1, 5, 15 minutes)", "command"]  # fmt: skip
    return table(head, body)


def growth(row: Row) -> str:
    draw(row)
    sizes = sorted({r["members"] for found in row["results"].values() for r in found})
    body = []
    for name, found in row["results"].items():
        times = {r["members"]: r["seconds"] for r in found}
        cells = [f"{1e6 * times[g]:.3g}" if g in times else "" for g in sizes]
        body.append([name, *cells])
    return table(["microseconds a step and member", *map(str, sizes)], body)


def draw(row: Row) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for name, found in row["results"].items():
        first = found[0]["seconds"]
        axes.plot([r["members"] for r in found], [r["seconds"] / first for r in found],
                  marker="o", label=name)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="members g",
             ylabel="seconds a step and member, one member's is 1")  # fmt: skip
    axes.legend()
    figure.tight_layout()
    figure.savefig(FIGURES / "speed-growth.png", dpi=120)
    plt.close(figure)


def threads(row: Row) -> str:
    body = [
        [name, label, f"{1e3 * r['seconds']:.1f}", f"{r['ratio']:.2f}",
         f"{r['low']:.2f} to {r['high']:.2f}"]
        for name, found in row["results"].items()
        for label, r in found.items()
    ]  # fmt: skip
    return table(["workload", "engine", "ms a step", "times faster", "range of rounds"], body)


def memory(row: Row) -> str:
    body = [[r["workload"], r["engine"], str(r["members"]), f"{r['needed'] / 2**20:.0f}",
             f"{r['used'] / 2**20:.0f}", f"{r['used'] / r['needed']:.2f}"]
            for r in row["results"]]  # fmt: skip
    return table(["workload", "engine", "g", "must have, MiB", "peak, MiB", "times"], body)


def operators(row: Row) -> str:
    body = [[name, f"{1e3 * r['seconds']:.0f}", f"{1 / r['ratio']:.2f}"]
            for name, r in row["results"].items()]  # fmt: skip
    return table(["operator", "ms", "times a copy"], body)


def swarms(row: Row) -> str:
    body = []
    for name, found in row["results"].items():
        times = [f"{1e6 * found[n]['seconds']:.0f}" for n in ("plain", "torch", "simd")]
        body.append([name, *times, f"{found['simd']['ratio']:.1f}"])
    head = ["criterion", "plain, us", "SwarmLoss, us", "engine simd, us", "times faster"]
    return table(head, body)


def runs(row: Row) -> str:
    body = [[f"{name}, {'-'.join(map(str, r['sizes']))}", ", ".join(r["engines"]),
             f"{r['loop']:.1f}", f"{r['auto']:.2f}", f"{r['loop'] / r['auto']:.0f}"]
            for name, r in row["results"].items()]  # fmt: skip
    head = ["data, network", "engine chosen", "loop, s", "auto, s", "times faster"]
    return table(head, body)


def peers(rows: list[Row]) -> str:
    body = []
    for row in in_order(rows):
        for name, r in row["results"].items():
            body.append([row["workload"], str(row["members"]), name,
                         f"{1e3 * r['seconds']:.3g}", f"{r['ratio']:.1f}"])  # fmt: skip
    return table(["workload", "g", "technique", "ms an evaluation", "times EvoTorch"], body)


def sections(rows: list[Row]) -> Iterator[tuple[str, str]]:
    ratios = newest(rows, "ratios")
    versions = ratios[-1]["machine"]
    yield (
        "versions",
        f"{versions['processor']}, Python {versions['python']}, "
        + ", ".join(f"{name} {number}" for name, number in versions["versions"].items()),
    )
    yield "goals", goals(ratios)
    yield "text", Path(__file__).with_name("misses.md").read_text().strip()
    yield "one", techniques(ratios, 1)
    yield "two", techniques(ratios, 2)
    yield "machines", machines(ratios)
    parts = (growth, threads, memory, operators, swarms, runs)
    for part, write in {write.__name__: write for write in parts}.items():
        found = [row for row in rows if row["part"] == part]
        yield part, write(found[-1]) if found else "not measured"
    yield "peers", peers(newest(rows, "peers"))


def main() -> None:
    rows = [json.loads(line) for line in RAW.read_text().splitlines()]
    text = TEXT.read_text()
    for name, content in sections(rows):
        text = text.replace("{{" + name + "}}", content)
    PAGE.write_text(text)
    print(PAGE)


if __name__ == "__main__":
    main()
