"""Ranks that are to work together: all of them start, on the same run, or none does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gradevo.distributed.team import Team
from gradevo.identity import CIRCUMSTANCES, Identity, differing

VERSIONS = ("gradevo", "torch", "python")  # machines may differ in all else


@contextmanager
def together(team: Team) -> Iterator[None]:
    """A block in which a rank works by itself; if one fails, all do, and at once.

    Raises:
        RuntimeError: on the ranks that have not failed themselves.
    """
    reason = ""
    try:
        yield
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        reasons = team.everyone(reason)
    failed = next((rank for rank, text in enumerate(reasons) if text), None)
    if failed is not None:
        raise RuntimeError(f"rank {failed}: must start as all do, got {reasons[failed]}")


def check_same(team: Team, identity: Identity, **more: Any) -> None:
    """Refuse ranks that differ in what they are about to do.

    Args:
        team: the processes.
        identity: of the run, as this rank sees it: config, network, loss, data, seed, versions.
        more: what else must be the same.

    Raises:
        ValueError: on every rank, with what differs.
    """
    if team.size == 1:
        return
    versions = {name: identity[CIRCUMSTANCES][name] for name in VERSIONS}
    seen = team.everyone({**identity, CIRCUMSTANCES: versions, **more})
    for rank, theirs in enumerate(seen):
        for name, one, other in differing(seen[0], theirs):
            raise ValueError(
                f"{name}: must be the same on all ranks, got {one} on rank 0 and {other} on rank "
                f"{rank}"
            )
