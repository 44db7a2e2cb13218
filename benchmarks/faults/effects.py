"""Fields of configs that have no effect in some mode, found by running with and without them.

    python -m benchmarks.faults.effects

A tiny run with a field at another value than its default must give other bits, or the value must
be refused. What is neither is printed; then the exit code is 1.
"""

import sys
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

import gradevo as ge
from gradevo.models import mlp
from gradevo.swarm import REMPSO

OTHER: dict[str, list[Any]] = {
    "steps": [9], "epochs": [3.0], "batch_size": [7], "optimizer": ["SGD"], "lr": [0.3],
    "weight_decay": [0.9], "options": [{"eps": 0.1}, {"maximize": False}],
    "schedule": ["linear"], "clip": [0.01],
    "shared_batch": [True], "checks": [2], "backoff": [True, False], "average": [0.0, 0.9],
    "population": [5], "generations": [4], "learners": ["both"], "selection": ["tournament"],
    "crossover": ["uniform", "sbx"], "crossover_rate": [1.0], "align": [False],
    "mutation": ["replace"], "mutation_rate": [0.5], "evolve": [("lr",)], "spread": [0.1],
    "perturb": [2.0], "rate_decay": [0.5], "validation_batch": [3], "theta": [1e9],
    "objectives": [("loss", "bytes"), ("density", "error")], "search": [], "dense": [0.5],
    "climb": [0.0], "lowest": [0.9], "blend": [False], "rate_power": [2.0], "index": [1.0],
    "low_side": [True], "reevaluate": [True, False], "box": [(0.1, 0.1)], "fine_tune": [3],
    "islands": [2], "every": [3], "migrants": [2], "topology": ["random"], "scope": ["batch"],
    "particles": [5], "iterations": [2], "dynamics": [REMPSO()], "estimator": ["tie"],
    "start": ["range"], "bounds": [(-2.0, 3.0)], "saturating": [True], "eta": [0.7],
}  # fmt: skip
SHORT = {"population": 4, "generations": 3, "steps": 4, "batch_size": 5, "lr": 0.5}
CROSSED = {name: value for name, value in SHORT.items() if name != "steps"}
MUTATED = {**SHORT, "mutation_rate": 0.5}
MODES: dict[str, Any] = {
    "GADAM": ge.GADAM(**MUTATED),
    "GADAM both": ge.GADAM(**MUTATED, learners="both"),
    "GADAM evolve=()": ge.GADAM(**MUTATED, evolve=()),
    "GADAM backoff=False": ge.GADAM(**MUTATED, backoff=False),
    "GADAM.paper": ge.GADAM.paper(**SHORT),
    "Independent": ge.Independent(**SHORT),
    "AdaSwarm": ge.AdaSwarm(**SHORT, bounds=(-1.0, 1.0)),
    "AdaSwarm.paper": ge.AdaSwarm.paper(**SHORT, saturating=False),
    "GEMONN": ge.GEMONN(**SHORT),
    "GEMONN backoff": ge.GEMONN(**SHORT, backoff=True),
    "GEMONN.paper": ge.GEMONN.paper(**CROSSED),
    "Islands": ge.Islands(ge.GADAM(**SHORT), islands=3, every=1),
}
HARMLESS = {("GEMONN.paper", "shared_batch")}


def outcome(config: Any) -> list[Any]:
    """Everything that a tiny run gives."""
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(dim=1)
    data = {"train": (x[:25], y[:25]), "valid": (x[25:], y[25:])}
    found = ge.fit(config, mlp(4, 6, 3), nn.CrossEntropyLoss(), **data, engine="loop", quiet=True)
    return [found.history, [t.tolist() for t in found.members.tensors.values()]]


def changed(config: Any, name: str, value: Any) -> Any:
    """The config with another value; None where it is refused."""
    try:
        return replace(config, **{name: value})
    except (ValueError, TypeError):
        return None


def main() -> None:
    """Try every field of every mode."""
    silent = 0
    for mode, config in MODES.items():
        usual = outcome(config)
        for field in fields(config):
            values = [v for v in OTHER.get(field.name, []) if v != getattr(config, field.name)]
            others = [other for v in values if (other := changed(config, field.name, v))]
            known = (mode, field.name) in HARMLESS  # what happens anyway
            if others and not known and all(outcome(other) == usual for other in others):
                silent += 1
                print(f"{mode}: {field.name} has no effect, and {values} are not refused")
    print(f"{silent} fields without effect")
    sys.exit(silent > 0)


if __name__ == "__main__":
    main()
