"""Ratios of all techniques on all workloads, as raw rows.

    OMP_NUM_THREADS=1 python benchmarks/speed/run.py --threads 1 [--only "MLP 4-10-3" ...]
    OMP_NUM_THREADS=2 python benchmarks/speed/run.py --threads 2

All techniques of a workload and a population size take turns in one process. Rows are appended
to docs/results/raw/speed.jsonl; `page.py` makes docs/results/speed.md of the newest ones.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import jaxes
import techniques
import torch
from measure import command_line, interleaved, machine, one_core
from techniques import Take
from workloads import WORKLOADS, Workload

from gradevo.denormals import flushed

RAW = Path(__file__).parents[2] / "docs" / "results" / "raw" / "speed.jsonl"


def makers(workload: Workload, members: int, threads: int) -> dict[str, Any]:
    """By name, what makes a technique; some of them cannot serve a network."""
    engine = partial(techniques.engine, workload, members)
    found: dict[str, Any] = {"loop": partial(engine, "loop")}
    images = len(workload.shape) == 3
    batched = [f"batched/{n}" for n in (2, 5, 10) if n < members] if images else []
    names = ["batched", *batched] if workload.name != "LSTM 9-32" else ["batched"]
    if threads > 1:
        share = -(-members // threads)
        names += [f"loop@{threads}", f"batched@{threads}"]
        names += [f"batched/{n}@{threads}" for n in (2, 5) if n < share and images]
    for name in names:
        found[name] = partial(engine, name)
    if threads == 1:
        found["vmap"] = partial(engine, "vmap")
        found["torch.func recipe"] = partial(techniques.recipe, workload, members)
    if workload.sizes:
        found["simd"] = partial(techniques.kernel, workload, members)
        found["simd, whole phase"] = partial(techniques.phase, workload, members, "simd")
        found["loop, whole phase"] = partial(techniques.phase, workload, members, "loop")
    if threads == 1 and (workload.sizes or workload.name == "LeNet-5"):
        for form in ("step", "scan") if workload.sizes else ("step", "unrolled"):
            found[f"JAX, {form}"] = partial(jaxes.take_of, workload, members, form)
    return found


def able(found: dict[str, Any]) -> tuple[dict[str, Take], dict[str, str]]:
    """The techniques that take a step, and why the others do not."""
    takes, reasons = {}, {}
    for name, make in found.items():
        try:
            takes[name] = make()
            takes[name](1)
        except Exception as error:  # whatever a package raises at a network it cannot handle
            takes.pop(name, None)
            reasons[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
    return takes, reasons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(WORKLOADS))
    parser.add_argument("--compile", action="store_true", help="torch.compile too: minutes")
    parser.add_argument("--out", type=Path, default=RAW)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.threads == 1:
        one_core()
    for key in arguments.only:
        workload = WORKLOADS[key]
        for members in workload.goals:
            with flushed():
                found = makers(workload, members, arguments.threads)
                if arguments.compile:
                    for name in ("batched+compile", "vmap+compile"):
                        found[name] = partial(techniques.engine, workload, members, name)
                takes, reasons = able(found)
                row = {
                    "part": "compile" if arguments.compile else "ratios",
                    "workload": key, "members": members,
                    "batch": workload.batch, "flops": workload.flops(),
                    "results": interleaved(takes, "loop"), "declined": reasons,
                    "machine": machine(), "command": command_line(),
                }  # fmt: skip
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            ratios = {n: round(r["ratio"], 2) for n, r in row["results"].items()}
            print(key, members, ratios, reasons, row["machine"]["load"], flush=True)


if __name__ == "__main__":
    main()
