"""What every engine asks of a batch and of a loss."""

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from gradevo.guards import fresh


def rows_of(name: str, batch: Any, members: int, per_member: bool) -> list[Any]:
    """Each member's batch, one a member.

    Args:
        name: what errors call the batch.
        batch: a tensor or a tree of tensors.
        members: how many there are, g.
        per_member: whether the tensors have a leading member axis; if not, all see the same, in
            containers of their own.

    Raises:
        ValueError: a leading axis that is not the members'.
    """
    if not per_member:
        return [fresh(batch) for _ in range(members)]
    leaves, tree = pytree.tree_flatten(batch)
    for leaf in leaves:
        if leaf.dim() == 0 or len(leaf) != members:
            raise ValueError(
                f"{name}: must have the {members} members on its first axis with "
                f"per_member=True, got shape {tuple(leaf.shape)}"
            )
    rows = zip(*(leaf.unbind(0) for leaf in leaves), strict=True)
    return [pytree.tree_unflatten(row, tree) for row in rows]


class Declined(Exception):
    """An engine cannot compute this batch; the loop may. The message is one line that says why."""


NOTE = "gradevo: some members' gradients had been added to before this error"


def mark_partial(error: BaseException) -> BaseException:
    """Say on an error that gradients are not as they were: nobody may compute them again."""
    if not is_partial(error):
        error.add_note(NOTE)
    return error


def is_partial(error: BaseException) -> bool:
    """Whether gradients had been added to before an error."""
    return NOTE in getattr(error, "__notes__", ())


def backward(losses: Tensor) -> Tensor:
    """Add the gradients of members' losses; returns them detached."""
    try:
        losses.sum().backward()
    except Exception as error:
        raise mark_partial(error) from error.__cause__
    return losses.detach()


def scalar(value: Any) -> Tensor:
    """The loss itself, or a word on what it must be.

    Raises:
        ValueError: it is not a tensor with no axes.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"loss: must return a scalar tensor, got {type(value).__name__}")
    if value.dim() != 0:
        raise ValueError(
            f"loss: must return a scalar for one member's batch, got shape {tuple(value.shape)}; "
            "reduce it, with .mean() for example"
        )
    return value
