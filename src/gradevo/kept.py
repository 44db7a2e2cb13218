"""What a finished run leaves: one file of its networks and numbers, checked when it is read."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradevo import checkpoint, disk
from gradevo.errors import CheckpointError
from gradevo.forms import (
    Form,
    Misfit,
    anything,
    fitting,
    flag,
    least_of,
    mapping,
    misfit,
    names_in,
    optional,
    tensor,
    whole,
)  # fmt: skip
from gradevo.history import engine, history
from gradevo.names import HISTORY
from gradevo.names import RESULT as FILE
from gradevo.plan import LARGEST, not_numbers
from gradevo.population import Build, Population
from gradevo.randomness import generator_from, isolated
from gradevo.structure import Tensors, check_members, structure_of, tensors_of

log = logging.getLogger(__name__)
BOTH: dict[str, Form] = {
    "tensors": anything, "keys": anything, "history": history(), "member_steps": whole(),
    "engine": engine,
}  # fmt: skip
RESULT = mapping({**BOTH, "losses": anything, "probabilities": flag, "soup": anything})
FRONT = mapping({**BOTH, "points": anything})


def put_away(folder: Path, value: dict[str, Any]) -> None:
    """Write a tree of tensors and numbers, and its history once more for people to read."""
    checkpoint.write(folder / FILE, value)
    with disk.replacing(folder / HISTORY) as new:
        new.write_text(json.dumps(checkpoint.strict(value["history"]), indent=1))


def read(folder: str | Path) -> dict[str, Any]:
    """The result or the front in a folder; a front has `points`.

    Raises:
        CheckpointError: there is neither, it is damaged, or its parts do not go together.
    """
    path = Path(folder) / FILE
    value = checkpoint.read(path)
    with fitting(path, "hold a run's result"):
        (FRONT if isinstance(value, dict) and "points" in value else RESULT)(value, "")
        count = _members(value["tensors"])
        mapping({}, others=names_in(value["tensors"]))(value["keys"], "keys")
        if "points" in value:
            _points(count)(value["points"], "points")
            losses = value["points"]["losses"]
        else:
            losses = value["losses"]
            tensor((count,), torch.float64)(losses, "losses")
            tensors = value["tensors"]
            forms = {n: tensor(t.shape[1:], t.dtype, least_of(n)) for n, t in tensors.items()}
            mapping(forms)(value["soup"], "soup")
        _check_numbers(value, losses, path)
    return value


def _members(tensors: Any) -> int:
    """How many networks there are tensors of."""
    mapping({}, others=_stacked)(tensors, "tensors")
    counts = {len(t) for t in tensors.values()}
    if len(counts) != 1 or 0 in counts:
        misfit("tensors", "of as many members each", sorted(counts))
    return counts.pop()


def _stacked(value: Any, where: str) -> None:
    if not isinstance(value, Tensor) or value.dim() == 0:
        misfit(where, "a stacked tensor", value)
    tensor((None,) * value.dim(), value.dtype, least_of(where))(value, where)


def _points(count: int) -> Form:
    """The numbers of a front of so many networks."""

    def check(value: Any, where: str) -> None:
        forms["weights"](value["weights"] if isinstance(value, dict) else value, f"{where}.weights")
        counts = tensor((count,), torch.int64, 0, value["weights"])
        mapping({**forms, "nonzeros": counts})(value, where)

    forms: dict[str, Form] = {
        "weights": whole(1),
        "nonzeros": anything,
        "losses": tensor((count,), torch.float64, -LARGEST, LARGEST),
        "accuracies": optional(tensor((count,), torch.float64, 0, 1)),
        "others": mapping({}, others=tensor((count,))),
    }
    return check


def _check_numbers(value: dict[str, Any], losses: Tensor, path: Path) -> None:
    """A network with a loss has weights that are numbers; of one without it is said."""
    wrong = not_numbers(value["tensors"])
    soup = {name: t[None] for name, t in value.get("soup", {}).items()}
    if bool((wrong & losses.isfinite()).any()):
        raise Misfit("a member that has a loss has NaN in its tensors")
    if soup and bool(losses.isfinite().any()) and bool(not_numbers(soup).any()):
        raise Misfit("the soup has NaN in its tensors")
    if bool(wrong.any()):
        members = ", ".join(map(str, wrong.nonzero().flatten().tolist()))
        log.warning("%s: tensors of members %s have NaN, as they had in the run", path, members)


def restored(build: Build, tensors: Tensors, engine: str, folder: str | Path) -> Population:
    """Members of stacked tensors that were saved in `folder`, in eval mode, each of its own type.

    Raises:
        CheckpointError: `build` returns another architecture.
    """
    with isolated(generator_from(0)):
        module = build()
    check_members([module])
    mine = {name: _kind(t) for name, t in tensors_of(module).items()}
    theirs = {name: _kind(t[0]) for name, t in tensors.items()}
    if mine != theirs:
        raise CheckpointError(
            f"build: must return the architecture saved in {folder}, got tensors that "
            f"differ in {sorted(set(mine.items()) ^ set(theirs.items()))[:4]}"
        )
    _check_types(module, tensors, folder)
    return Population.of_tensors(module, tensors, engine=engine).eval()


def _check_types(module: nn.Module, tensors: Tensors, folder: str | Path) -> None:
    """Each of the type that `build` gives it, or all that were cast of one type."""
    trainable = structure_of(module).trainable
    cast = {tensors[name].dtype for name in trainable}
    if len(cast) > 1:
        raise CheckpointError(
            f"checkpoint: must have trainable tensors of one type, got {sorted(map(str, cast))} in "
            f"{Path(folder) / FILE}"
        )
    own = tensors_of(module)
    same = cast == {own[name].dtype for name in trainable}
    for name, mine in own.items():
        if tensors[name].dtype not in ({mine.dtype} if same else {mine.dtype, *cast}):
            raise CheckpointError(
                f"build: must return the types saved in {folder}, got {mine.dtype} for {name}, "
                f"which is {tensors[name].dtype} there"
            )


def _kind(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    """Shape and type; floating types may differ, since a network can be cast."""
    kind = "floating" if tensor.is_floating_point() else str(tensor.dtype)
    return tuple(tensor.shape), kind
