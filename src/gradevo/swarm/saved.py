"""The state of a minimisation on disk, checked as a whole when it is read."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from gradevo import checkpoint
from gradevo.errors import CheckpointError
from gradevo.forms import (
    Form,
    anything,
    either,
    fitting,
    flag,
    generator_state,
    instance,
    list_of,
    mapping,
    misfit,
    number,
    optional,
    tensor,
    text,
    whole,
)  # fmt: skip
from gradevo.swarm.constraints import Constrained
from gradevo.swarm.dynamics import Swarm
from gradevo.swarm.stopping import RUNNING, TARGET, MinimizeState, each

log = logging.getLogger(__name__)


def read_state(path: Path) -> MinimizeState:
    """A state from a file, its tensors back on their device.

    Raises:
        CheckpointError: there is none, it is damaged, or its parts do not go together.
    """
    state = checkpoint.read(path)
    if not isinstance(state, MinimizeState):
        raise CheckpointError(
            f"checkpoint: must be the state of a minimisation, got {type(state).__name__} in {path}"
        )
    with fitting(path, "be the state of a minimisation"):
        _state(state)
        state.swarm = each(lambda t: t.to(state.device), state.swarm)
        for name in ("moved", "iterations", "stopped"):
            setattr(state, name, getattr(state, name).to(state.device))
    return state


def _state(state: MinimizeState) -> None:
    """Held against itself: the number of swarms, particles and dimensions is the swarm's."""
    tensor((None, None, None))(getattr(state.swarm, "x", None), "swarm.x")
    swarms, particles, dims = state.swarm.x.shape
    if not state.swarm.x.numel():
        misfit("swarm.x", "of at least one swarm, particle and dimension", state.swarm.x)
    limits = _limits(state)
    counts = ["iteration", "running", "evaluations", *(["feasible"] if limits else [])]
    numbers = dict.fromkeys(("best", "mean", "spread"), number())
    row = mapping({**dict.fromkeys(counts, whole()), **numbers})
    side = optional(either(tensor(()), tensor((dims,))))
    forms: dict[str, Form] = {
        "swarm": _swarm(swarms, particles, dims, state.swarm.x.dtype, limits),
        "random": anything,
        "device": _device,
        "single": flag,
        "iteration": whole(),
        "moved": tensor((None,), torch.int64, 0, swarms - 1),
        "iterations": tensor((swarms,), torch.int64, 0),
        "stopped": tensor((swarms,), torch.int64, RUNNING, TARGET),
        "history": list_of(row),
        "setting": mapping(
            {"dynamics": text, "low": side, "high": side, "tolerance": list_of(number(0))}
        ),
    }
    instance(MinimizeState, forms, _together)(state, "")


def _limits(state: MinimizeState) -> int:
    """How many constraints there are, as far as a setting says that."""
    tolerance = state.setting.get("tolerance") if isinstance(state.setting, dict) else None
    return len(tolerance) if isinstance(tolerance, list) else 0


def _swarm(swarms: int, particles: int, dims: int, dtype: torch.dtype, limits: int) -> Form:
    place = tensor((swarms, particles, dims), dtype)
    pull = tensor((swarms, 1, None), dtype, 0, torch.finfo(dtype).max)

    def fits(swarm: Swarm) -> str:
        known = swarm.pbest_loss.isfinite().unsqueeze(-1)
        if bool((known & swarm.pbest.isnan()).any()):
            return "pbest: must be numbers where there is a loss"
        if {swarm.cr1.shape[-1], swarm.cr2.shape[-1]} not in ({1}, {dims}):
            return "cr1 and cr2: must be one a swarm, or one a dimension"
        for name in ("x", "v", "m"):
            if bool(getattr(swarm, name).isnan().any()):
                log.warning("minimize: %s of saved swarms has NaN; such particles are lost", name)
        return ""

    forms: dict[str, Form] = {
        **dict.fromkeys(("x", "v", "m", "pbest"), place), 
        "pbest_loss": tensor((swarms, particles), dtype, -torch.finfo(dtype).max),
        "leader": tensor((swarms,), torch.int64, 0, particles - 1),
        "cr1": pull, "cr2": pull, "moves": whole(),
    }  # fmt: skip
    if not limits:
        return instance(Swarm, forms, fits)
    each = {"excess": (swarms, particles, limits), "unit": (swarms, limits),
            "allowance": (swarms, limits), "best_excess": (swarms,)}  # fmt: skip
    forms |= {name: tensor(shape, dtype, 0) for name, shape in each.items()}
    forms |= {"best": tensor((swarms, dims), dtype), "best_loss": tensor((swarms,), dtype)}
    return instance(Constrained, forms, fits)


def _device(value: Any, where: str) -> None:
    """A device that is here."""
    try:
        Generator(value)
    except (RuntimeError, TypeError):
        misfit(where, "a device of this machine", value)


def _together(state: MinimizeState) -> str:
    if state.device == "cpu":
        generator_state(state.random, "random")
    else:
        Generator(state.device).set_state(state.random)
    if state.single and len(state.stopped) > 1:
        return "single: must be false for several swarms"
    if state.swarm.moves != state.iteration or bool((state.iterations > state.iteration).any()):
        return "iteration: must be that of the swarms"
    running = (state.stopped == RUNNING).nonzero()[:, 0]
    ordered = torch.equal(state.moved, state.moved.unique())
    in_step = bool((state.iterations[running] == state.iteration).all())  # nobody catches up
    if not ordered or (in_step and not bool(torch.isin(running, state.moved).all())):
        return "moved: must name the swarms that run"
    numbers = [row["iteration"] for row in state.history]
    if numbers != sorted(set(numbers)):
        return "history: must be in order"
    return ""
