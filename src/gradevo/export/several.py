"""An ensemble as torch can trace it: its members one after another, without a population."""

import copy
from collections.abc import Iterable
from typing import Any, cast

from torch import nn

from gradevo import trees
from gradevo.errors import ExportError
from gradevo.result import Ensemble


class Several(nn.Module):
    """Modules that see one batch; their outputs are stacked, `(g, B, ...)`, as a population's.

    Args:
        modules: of one architecture.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, x: Any) -> Any:
        return trees.stack([trees.call(module, x) for module in self.each])


def traceable(module: nn.Module) -> nn.Module:
    """A copy in eval mode on the CPU, in which ensembles are made of ordinary modules.

    Raises:
        ExportError: the module cannot be copied.
    """
    memo = {id(part): _twin(part) for part in module.modules() if isinstance(part, Ensemble)}
    try:
        return copy.deepcopy(module, cast(Any, memo)).cpu().eval()
    except Exception as error:  # whatever a user's module may hold
        name = type(module).__name__
        raise ExportError(
            f"module: must be one that can be copied, got {name} ({error})"
        ) from error


def _twin(ensemble: Ensemble) -> Ensemble:
    members = Several(members_of(ensemble))
    return Ensemble(cast(Any, members), probabilities=ensemble.probabilities)


def members_of(ensemble: Ensemble) -> list[nn.Module]:
    """The members of an ensemble as ordinary modules."""
    return [ensemble.members.member(i) for i in range(ensemble.members.size)]
