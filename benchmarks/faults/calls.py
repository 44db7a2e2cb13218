"""The public calls and what fits each of their arguments."""

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.faults.kinds import Fits, either, flag, name, never, perhaps, real, whole
from benchmarks.faults.values import MODEST, TYPED, Value
from torch import nn

import gradevo as ge
from gradevo.cli import main as command
from gradevo.models import FaceNet, LeNet5, mlp
from gradevo.sklearn import GADAMClassifier

SEED = whole(0, 2**63 - 1)
SHARE, POSITIVE, NOT_NEGATIVE = real(0, 1), real(0, above=True), real(0)


@dataclass(frozen=True)
class Call:
    """A call and its arguments.

    Attributes:
        name: of it.
        function: takes arguments by name.
        good: with which it runs.
        arguments: what fits each that is abused.
        values: what is thrown at them; nothing: values of every kind.
    """

    name: str
    function: Callable[..., Any]
    good: Mapping[str, Any]
    arguments: Mapping[str, Fits]
    values: list[Value] = field(default_factory=list)

    def run(self, argument: str, value: Any) -> None:
        """Call it with one argument replaced."""
        self.function(**{**self.good, argument: value})


# --- configs -------------------------------------------------------------------------------

LEARNING: dict[str, Fits] = {
    "steps": whole(1),
    "batch_size": perhaps(whole(1)),
    "lr": NOT_NEGATIVE,
    "weight_decay": perhaps(NOT_NEGATIVE),
    "optimizer": lambda value: value is torch.optim.Adam,
    "options": lambda value: isinstance(value, dict) and not value,
    "schedule": lambda value: None if callable(value) else False,
    "clip": perhaps(POSITIVE),
    "shared_batch": flag,
    "checks": whole(1),
    "backoff": flag,
    "average": SHARE,
}
GADAM: dict[str, Fits] = {
    **LEARNING,
    "population": whole(2),
    "generations": whole(1),
    "learners": name("children", "both"),
    "selection": never,
    "crossover": never,
    "mutation": never,
    "crossover_rate": SHARE,
    "mutation_rate": SHARE,
    "align": flag,
    "evolve": lambda value: isinstance(value, list | tuple) and list(value) in ([], ["lr"]),
    "spread": NOT_NEGATIVE,
    "perturb": NOT_NEGATIVE,
    "rate_decay": POSITIVE,
    "validation_batch": perhaps(whole(1)),
    "theta": perhaps(NOT_NEGATIVE),
}
LADDER: dict[str, Fits] = {
    **{known: fits for known, fits in LEARNING.items() if known != "shared_batch"},
    "population": whole(2),
    "generations": whole(1),
    "objectives": never,
    "search": never,
    "dense": SHARE,
    "climb": SHARE,
    "lowest": perhaps(real(0, 1, above=True)),
    "blend": flag,
    "rate_power": NOT_NEGATIVE,
    "validation_batch": perhaps(whole(1)),
}
CROSSED: dict[str, Fits] = {
    "population": whole(2),
    "generations": whole(1),
    "lr": NOT_NEGATIVE,
    "index": POSITIVE,
    "low_side": flag,
    "reevaluate": flag,
    "box": lambda value: isinstance(value, tuple) and value == (1, 2),
    "fine_tune": whole(0),
}
SWARM: dict[str, Fits] = {
    "scope": name("auto"),
    "particles": perhaps(whole(2)),
    "iterations": whole(0),
    "dynamics": perhaps(never),
    "estimator": perhaps(never),
    "start": never,
    "spread": perhaps(POSITIVE),
    "bounds": lambda value: value is None or (isinstance(value, tuple) and value == (1, 2)),
    "saturating": perhaps(flag),
    "eta": POSITIVE,
}
NEAR = {"estimator": "near", "iterations": 1}  # in which every field has an effect

# --- runs ----------------------------------------------------------------------------------

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(dim=1)
TINY = ge.GADAM(population=2, generations=1, steps=1, batch_size=4)
RUN: dict[str, Any] = {
    "algorithm": TINY, "build": mlp(4, 3), "loss": nn.CrossEntropyLoss(), "train": (X, Y),
    "engine": "loop", "quiet": True,
}  # fmt: skip


def device(value: Any) -> bool | None:
    """The processor, or an accelerator's number that may be there."""
    if value is None or value == torch.device("cpu"):
        return True
    return None if whole(0, 7)(value) and torch.cuda.is_available() else False


FIT: dict[str, Fits] = {
    "algorithm": never,
    "build": never,
    "loss": lambda value: None if callable(value) and not isinstance(value, type) else False,
    "train": never,
    "valid": perhaps(never),
    "seed": SEED,
    "device": device,
    "engine": name("auto", "loop"),
    "precision": never,
    "callbacks": either,
    "start": lambda value: None if isinstance(value, nn.Module) else value is None,
    "log": lambda value: value is None or (isinstance(value, list | tuple) and not value),
    "quiet": flag,
}


def checkpointed(folder: Any) -> None:
    """A run folder of that name, in a place of its own."""
    with tempfile.TemporaryDirectory() as place:
        text = isinstance(folder, str) and folder not in ("", "\0")
        ge.fit(**RUN, checkpoint=f"{place}/{folder[:40]}" if text else folder)


def evolved(**arguments: Any) -> None:
    """A generation of evolution in a new population."""
    members = ge.Population(mlp(4, 3), 3)
    ge.evolve(**{"population": members, "generator": torch.Generator(), **arguments})


EVOLVE: dict[str, Fits] = {
    "population": never,
    "losses": never,
    "generator": lambda value: isinstance(value, torch.Generator),
    "optimizer": lambda value: isinstance(value, list | tuple) and not value,
    "config": perhaps(never),
    "replace": SHARE,
}


def estimated(**parameters: Any) -> None:
    """An estimator, trained for a moment."""
    GADAMClassifier(**{"population": 2, "generations": 1, "epochs": 1, **parameters}).fit(X, Y)


def size(value: Any) -> bool | None:
    """Hidden layers: one or several of a size that fits into memory."""
    sizes = value if isinstance(value, list | tuple | range | np.ndarray | set) else [value]
    return None if all(whole(-10, 10**6)(one) for one in sizes) else False


ESTIMATOR: dict[str, Fits] = {
    "hidden": lambda value: True if whole(1, 10)(value) else None,
    "module": perhaps(never),
    "population": whole(2, 10),
    "generations": whole(1, 10),
    "epochs": lambda value: None if value is None else real(0, 10, above=True)(value),
    "batch_size": perhaps(whole(1, 19)),
    "lr": NOT_NEGATIVE,
    "class_weight": lambda value: True if value is None else None,
    "predict_with": never,
    "settings": lambda value: value is None or (isinstance(value, dict) and not value),
    "engine": lambda value: value is None or value in ("auto", "loop"),
    "random_state": either,
    "verbose": flag,
}

# --- the command ---------------------------------------------------------------------------

QUICK = {"population": "2", "generations": "1", "steps": "1", "engine": "loop"}


def typed(**options: str) -> None:
    """`gradevo train iris`; an exit with code 2 is an error of ours."""
    words = [f"--{option.replace('_', '-')}={word}" for option, word in options.items()]
    with tempfile.TemporaryFile("w+") as said:
        try:
            with contextlib.redirect_stderr(said):
                command(["train", "iris", *words, "--quiet", "--json"])
        except SystemExit as stop:
            said.seek(0)
            if stop.code == 2:
                raise ValueError(said.read().strip().replace("--", "")) from None
            if stop.code:
                raise


def read(fits: Callable[[float], bool], kind: Callable[[str], Any] = float) -> Fits:
    """A word that is read as a number which fits."""

    def words(value: Any) -> bool:
        try:
            return fits(kind(value))
        except (ValueError, OverflowError):
            return False

    return words


TRAIN: dict[str, Fits] = {
    "population": read(lambda n: n >= 2, int),
    "generations": read(lambda n: n >= 1, int),
    "steps": read(lambda n: n >= 1, int),
    "batch_size": read(lambda n: n >= 1, int),
    "lr": read(lambda n: 0 <= n < float("inf")),
    "seed": read(lambda n: 0 <= n < 2**32, int),
    "loss": never,
    "method": never,
    "engine": lambda value: value in ("loop", "auto"),
    "hidden": either,
    "device": never,
    "log": never,
    "processes": lambda value: value == "1",
    "islands": lambda value: value in ("1", "2"),
    "timeout": read(lambda n: 0 < n < 1e6),
}

CALLS = [
    Call("GADAM", ge.GADAM, {"evolve": ("lr",)}, GADAM),
    Call("GADAM with epochs", ge.GADAM, {}, {"epochs": perhaps(POSITIVE)}),
    Call("GEMONN", ge.GEMONN, {"backoff": True}, {**LADDER, "checks": whole(1)}),
    Call("GEMONN.paper", ge.GEMONN.paper, {}, CROSSED),
    Call("Independent", ge.Independent, {},
         {**LEARNING, "population": whole(1), "generations": whole(1), "spread": NOT_NEGATIVE}),
    Call("AdaSwarm", ge.AdaSwarm, {}, {**SWARM, "eta": real(0.1, 0.1), "dynamics": perhaps(never)}),
    Call("AdaSwarm near", ge.AdaSwarm, NEAR, {"eta": POSITIVE, "iterations": whole(0)}),
    Call("SwarmLoss", ge.SwarmLoss, {"loss": nn.MSELoss()},
         {**SWARM, "eta": real(0.1, 0.1), "seed": SEED, "engine": never}),
    Call("Islands", ge.Islands, {"algorithm": ge.GADAM()},
         {"algorithm": never, "islands": whole(2), "every": whole(1), "migrants": whole(1, 9),
          "topology": never}),
    Call("Checkpoint", ge.Checkpoint, {"folder": "runs/none"},
         {"folder": lambda v: bool(v) and v != "\0" if isinstance(v, str) else None
          if isinstance(v, Path) else False, "seconds": NOT_NEGATIVE}),
    Call("Start", ge.Start, {"source": nn.Linear(2, 1)}, {"noise": NOT_NEGATIVE, "dropout": SHARE}),
    Call("OnLogits", ge.OnLogits, {},
         {"loss": lambda v: callable(v) and not isinstance(v, type)}),
    Call("LeNet5", LeNet5, {},
         {"classes": whole(1, 99), "channels": whole(1, 99), "dropout": SHARE}, MODEST),
    Call("FaceNet", FaceNet, {},
         {"classes": whole(1, 99), "dropout": SHARE, "side": never}, MODEST),
    Call("mlp", lambda sizes, dropout=0.0: mlp(4, sizes, 3, dropout=dropout), {"sizes": 3},
         {"sizes": whole(1), "dropout": SHARE}, MODEST),
    Call("fit", ge.fit, RUN, FIT),
    Call("fit", lambda checkpoint: checkpointed(checkpoint), {},
         {"checkpoint": lambda v: v is None or (isinstance(v, str) and v not in ("", "\0"))
          or (None if isinstance(v, Path) else False)}),
    Call("evolve", evolved, {"losses": [0.3, 0.1, 0.2]}, EVOLVE),
    Call("GADAMClassifier", estimated, {}, ESTIMATOR, MODEST),
    Call("gradevo train", typed, QUICK, TRAIN, TYPED),
]  # fmt: skip
