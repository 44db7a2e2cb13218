"""One population over many processes, by torch.distributed."""

from gradevo.distributed.joining import current, joined
from gradevo.distributed.team import Team

__all__ = ["Team", "current", "joined"]
