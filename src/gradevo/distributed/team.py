"""The processes that share a population, and what they tell each other.

Learning is local. Of a generation, all know every member's numbers (loss, parents, learning
rate); weights travel point to point, only from where they are to where they are wanted.
"""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from datetime import timedelta
from typing import Any, Protocol, cast
from weakref import ref

import torch
import torch.distributed as dist
from torch import Tensor

from gradevo.distributed.placing import rows_at
from gradevo.distributed.rows import from_bytes, row_bytes
from gradevo.structure import Tensors

TIMEOUT = timedelta(minutes=10)  # of one collective: a rank that is gone is noticed after it


class Team(Protocol):
    """One process, or several with one rank each.

    Attributes:
        rank: of this process.
        size: how many processes.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gathered(self, values: Tensor, homes: Tensor) -> Tensor:
        """Numbers of all members `(g, ...)` from those of this rank's, `(n, ...)`."""
        ...

    def fetch(self, tensors: Tensors, homes: Tensor, wanted: Sequence[Tensor]) -> Tensors:
        """Members' tensors that this rank wants, in that order, copied.

        Args:
            tensors: of this rank's members, stacked; row i is the i-th that is at home here.
            homes: every member's rank.
            wanted: for every rank the members that it wants; all ranks know all of it.
        """
        ...

    def total(self, number: int) -> int:
        """The sum of all ranks' numbers."""
        ...

    def agree(self, value: Any) -> Any:
        """What rank 0 has; a plain value."""
        ...

    def everyone(self, value: Any) -> list[Any]:
        """What every rank has, by rank; plain values."""
        ...

    def split(self, groups: Sequence[Sequence[int]]) -> "Team":
        """The team of that group which this rank is in; one that is in none is alone.

        Args:
            groups: ranks; all processes must call with the same ones.
        """
        ...


class Alone:
    """One process, which has all members."""

    rank, size = 0, 1

    def gathered(self, values: Tensor, homes: Tensor) -> Tensor:
        return values

    def fetch(self, tensors: Tensors, homes: Tensor, wanted: Sequence[Tensor]) -> Tensors:
        return {name: t[wanted[0].to(t.device)] for name, t in tensors.items()}

    def total(self, number: int) -> int:
        return number

    def agree(self, value: Any) -> Any:
        return value

    def everyone(self, value: Any) -> list[Any]:
        return [value]

    def split(self, groups: Sequence[Sequence[int]]) -> Team:
        return self


@dataclass
class Group:
    """The ranks of a process group of torch.distributed.

    It does not keep the group: whoever holds a result or an error of a run would keep the group's
    threads, too, and Python ends with an abort when one of them wants to speak to it later.

    Attributes:
        of: the process group.
        sent: bytes that this rank has sent so far: weights, and numbers to gather.
    """

    of: InitVar[dist.ProcessGroup]
    sent: int = 0
    rank: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self, of: dist.ProcessGroup) -> None:
        self._group = ref(of)
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        nccl = dist.get_backend(self.group) == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if nccl else CPU

    @property
    def group(self) -> dist.ProcessGroup:
        """torch's.

        Raises:
            RuntimeError: it has ended.
        """
        group = self._group()
        if group is None:
            raise RuntimeError(
                f"team: must be used while its processes are joined, got rank {self.rank} of "
                f"{self.size} whose group has ended; gather before"
            )
        return group

    def gathered(self, values: Tensor, homes: Tensor) -> Tensor:
        counts = torch.bincount(homes, minlength=self.size)
        most = int(counts.max())
        mine = values.new_zeros(most, *values.shape[1:])
        mine[: len(values)] = values
        mine = mine.to(self.device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine, group=self.group)
        self.sent += mine.numel() * mine.element_size()
        found = values.new_empty(len(homes), *values.shape[1:])
        for rank, part in enumerate(parts):
            rows = rows_at(homes, rank)
            found[rows] = part[: len(rows)].to(values.device)
        return found

    def fetch(self, tensors: Tensors, homes: Tensor, wanted: Sequence[Tensor]) -> Tensors:
        place = torch.empty_like(homes)  # of each member among its rank's
        for rank in range(self.size):
            rows = rows_at(homes, rank)
            place[rows] = torch.arange(len(rows))
        packages = {
            rank: row_bytes(tensors, place[self._missing(homes, wanted[rank], rank, self.rank)])
            for rank in range(self.size)
            if rank != self.rank
        }
        received = self._exchanged(packages, homes, wanted)
        return self._joined(tensors, place, homes, wanted[self.rank], received)

    def total(self, number: int) -> int:
        return int(self.gathered(torch.tensor([number]), torch.arange(self.size)).sum())

    def agree(self, value: Any) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=dist.get_global_rank(self.group, 0), group=self.group)
        return box[0]

    def everyone(self, value: Any) -> list[Any]:
        boxes: list[Any] = [None] * self.size
        dist.all_gather_object(boxes, value, group=self.group)
        return boxes

    def split(self, groups: Sequence[Sequence[int]]) -> Team:
        found: Team = ALONE
        for ranks in groups:
            if len(ranks) > 1:
                known = [dist.get_global_rank(self.group, rank) for rank in ranks]
                group = dist.new_group(known, timeout=self._timeout())
                found = Group(cast(Any, group)) if self.rank in ranks else found
        return found

    def _timeout(self) -> timedelta:
        """The group's own."""
        try:
            return cast(Any, self.group)._get_backend(self.device).options._timeout
        except (AttributeError, RuntimeError):  # another torch
            return TIMEOUT

    # --- parts of fetch ------------------------------------------------------------------

    def _missing(self, homes: Tensor, wanted: Tensor, at: int, source: int) -> Tensor:
        """Members that rank `at` wants from `source`, each once, ascending."""
        return wanted[homes[wanted] == source].unique()

    def _exchanged(
        self, packages: dict[int, Tensor], homes: Tensor, wanted: Sequence[Tensor]
    ) -> dict[int, Tensor]:
        """What others send to this rank, while it sends its packages to them."""
        mine, received, work = wanted[self.rank], {}, []
        width = next(iter(packages.values())).shape[1]
        for other, package in packages.items():
            count = len(self._missing(homes, mine, self.rank, other))
            peer = dist.get_global_rank(self.group, other)
            if len(package):
                package = package.to(self.device)
                work.append(dist.P2POp(dist.isend, package, peer, self.group))
                self.sent += package.numel()
            if count:
                received[other] = torch.empty(count, width, dtype=torch.uint8, device=self.device)
                work.append(dist.P2POp(dist.irecv, received[other], peer, self.group))
        for request in dist.batch_isend_irecv(work) if work else []:
            request.wait()
        return received

    def _joined(
        self, tensors: Tensors, place: Tensor, homes: Tensor, wanted: Tensor,
        received: dict[int, Tensor],
    ) -> Tensors:  # fmt: skip
        """The wanted rows from what is here and what has come."""
        found = {name: t.new_empty(len(wanted), *t.shape[1:]) for name, t in tensors.items()}
        for rank in range(self.size):
            spots = torch.nonzero(homes[wanted] == rank).flatten()
            if not len(spots):
                continue
            if rank == self.rank:
                rows, source = place[wanted[spots]], tensors
            else:
                known = self._missing(homes, wanted, self.rank, rank)
                rows = torch.searchsorted(known, wanted[spots])
                source = from_bytes(received[rank], tensors)
            for name, t in found.items():
                t[spots.to(t.device)] = source[name][rows.to(t.device)]
        return found


CPU = torch.device("cpu")
ALONE = Alone()
