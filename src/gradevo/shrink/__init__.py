"""From zeros to small networks: units really removed, files that follow the non-zeros."""

from gradevo.shrink.compact import compact, flops
from gradevo.shrink.sparse import load, save

__all__ = ["compact", "flops", "load", "save"]
