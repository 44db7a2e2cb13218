"""Joining a process group, by what torchrun, Ray Train or SLURM put in the environment."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from gradevo.distributed.placing import blocks
from gradevo.distributed.team import ALONE, TIMEOUT, Group, Team

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


_blocks = count()  # of this process: a block does not meet what the one before has left
_teams: WeakKeyDictionary[dist.ProcessGroup, Group] = WeakKeyDictionary()


def current() -> Team:
    """The process group that this process is in; one without others is alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    group = dist.group.WORLD
    assert group is not None
    return ALONE if dist.get_world_size(group) == 1 else _team(group)


def _team(group: dist.ProcessGroup) -> Group:
    """One team a group, which counts what is sent."""
    if group not in _teams:
        _teams[group] = Group(group)
    return _teams[group]


def layout(algorithm: Any, processes: int) -> Tensor:
    """Rank of every member at the start, `(g,)`: neighbours together, or as the algorithm says."""
    own = getattr(algorithm, "layout", None)
    return blocks(algorithm.population, processes) if own is None else own(processes)


def check_shareable(algorithm: Any, processes: int) -> None:
    """Refuse what cannot be spread over so many processes.

    Raises:
        ValueError: the algorithm cannot be shared, or there are fewer members than processes.
    """
    reason = getattr(algorithm, "unshared", "cannot be spread over them")
    if processes > 1 and reason:
        raise ValueError(
            'algorithm: must be GADAM, Islands, or GEMONN with search="crossover", for several '
            f"processes, got {type(algorithm).__name__}, which {reason}; or run it in one process"
        )
    if algorithm.population < processes:
        raise ValueError(
            f"population: must be at least the number of processes, {processes}, got "
            f"{algorithm.population}"
        )


@contextmanager
def joined(timeout: timedelta = TIMEOUT) -> Iterator[Team]:
    """A block inside a process group, which `fit` shares its population over.

    Outside of torchrun, SLURM and the like, and for a group that is there already, nothing is
    done. A restarted attempt of torchrun does not meet what the one before left in their store.

    Args:
        timeout: how long a rank waits for the others, at each exchange.

    Yields:
        The team: `team.rank`, `team.size`.

    Raises:
        ValueError: the environment says that there are several processes, but not where they meet.

    Example:
        >>> with joined() as team:
        ...     team.rank, team.size
        (0, 1)
    """
    place = environment(os.environ)
    if dist.is_initialized() or int(place.get("WORLD_SIZE", "1")) == 1:
        yield current()
        return
    import_module("torch.distributed.nn.functional")  # its defaults keep a group that is there
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    before = {name: os.environ.get(name) for name in NAMES}
    os.environ.update(place)
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"gradevo attempt {attempt} block {next(_blocks)}", store)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(place.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        yield current()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def environment(found: Mapping[str, str]) -> dict[str, str]:
    """torch's variables, as they are or from SLURM's; nothing for a process that is alone.

    Example:
        >>> environment({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
        ...              "SLURM_JOB_NODELIST": "node[03-04]", "SLURM_JOB_ID": "7"})["MASTER_ADDR"]
        'node03'
    """
    if "RANK" in found and "WORLD_SIZE" in found:
        place = {name: found[name] for name in NAMES if name in found}
    elif int(found.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in found:
        port = 20000 + int(found.get("SLURM_JOB_ID", "0")) % 20000
        place = {
            "RANK": found["SLURM_PROCID"], "WORLD_SIZE": found["SLURM_STEP_NUM_TASKS"],
            "LOCAL_RANK": found.get("SLURM_LOCALID", "0"),
            "MASTER_ADDR": found.get("MASTER_ADDR", _first(found.get("SLURM_JOB_NODELIST", ""))),
            "MASTER_PORT": found.get("MASTER_PORT", str(port)),
        }  # fmt: skip
    else:
        return {}
    missing = [n for n in ("MASTER_ADDR", "MASTER_PORT") if not place.get(n)]
    if missing and int(place["WORLD_SIZE"]) > 1:
        raise ValueError(
            f"{missing[0]}: must be set where there are several processes, got nothing"
        )
    return place


def _first(nodes: str) -> str:
    """The first host of SLURM's list, such as a[03-07,9],b1."""
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodes)
    return "" if found is None else found[1] + (found[2] or "")
