"""One population over many processes, by torch.distributed."""

from gradevo.distributed.team import ALONE, Alone, Group, Team

__all__ = ["ALONE", "Alone", "Group", "Team"]
