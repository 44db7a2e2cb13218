"""Whom the winner descends from, told by the parents and survivors of every generation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Key = tuple[int, int]  # generation of birth, place among the members then


@dataclass(frozen=True)
class Ancestor:
    """One network, as it was when it entered the population.

    Attributes:
        generation: of its birth; 0 for the first members.
        member: its place then, 0 the best; the first members have no order.
        loss: validation loss then; None where it was not recorded.
        lr: learning rate that it carries; None likewise.
        parents: the fitter first; one for a copy that learnt on, none for the first members.
    """

    generation: int
    member: int
    loss: float | None
    lr: float | None
    parents: tuple[Key, ...]


@dataclass(frozen=True)
class Family:
    """The winner and everybody it descends from.

    Attributes:
        winner: the best of the last generation.
        members: the winner and its ancestors, oldest first.
    """

    winner: Key
    members: dict[Key, Ancestor]

    def line(self) -> list[Key]:
        """From the winner back over the fitter parents."""
        found = [self.winner]
        while parents := self.members[found[-1]].parents:
            found.append(parents[0])
        return found


def family(history: Sequence[dict[str, Any]]) -> Family | None:
    """The family of the winner; None where a history does not tell parents.

    A network that survives stays the same one, so a generation may lie between parent and child
    or many.

    Args:
        history: infos of GADAM, from its first generation on: `survivors` are indices into the
            members before and then the children, `parents` of a child those of its parents.

    Example:
        >>> first = {"generation": 1, "losses": [0.2, 0.3], "parents": [[1, 0], [0, 0]],
        ...          "survivors": [2, 0]}
        >>> found = family([first])
        >>> found.winner, found.members[1, 0].parents, list(found.members)
        ((1, 0), ((0, 1), (0, 0)), [(0, 0), (0, 1), (1, 0)])
    """
    if not _tells(history):
        return None
    now: list[Key] = [(0, i) for i in range(len(history[0]["survivors"]))]
    known: dict[Key, Ancestor] = {}
    for info in history:
        before, now = now, []
        for place, origin in enumerate(info["survivors"]):
            now.append(_enter(known, info, place, origin, before))
    losses = history[-1]["losses"]
    places = [i for i, loss in enumerate(losses) if loss is not None]
    winner = now[min(places, key=lambda i: losses[i])] if places else now[0]
    return Family(winner, _descent(winner, known))


def _tells(history: Sequence[dict[str, Any]]) -> bool:
    infos = enumerate(history, start=1)
    whole = all(
        info["generation"] == k and "parents" in info and "survivors" in info for k, info in infos
    )
    return whole and len(history) > 0


def _enter(
    known: dict[Key, Ancestor], info: dict[str, Any], place: int, origin: int, before: list[Key]
) -> Key:
    """Note a survivor if it is new; its key."""
    key, parents = (info["generation"], place), ()
    if origin < len(before):
        key = before[origin]
    else:
        pair = info["parents"][origin - len(before)]
        parents = tuple(dict.fromkeys(before[parent] for parent in pair))
    if key not in known:
        rates = info.get("hyper", {}).get("lr")
        lr = rates[place] if rates else None
        known[key] = Ancestor(*key, info["losses"][place], lr, parents)
    return key


def _descent(winner: Key, known: dict[Key, Ancestor]) -> dict[Key, Ancestor]:
    """A network and its ancestors, oldest first. The first members may have left no numbers."""
    found: dict[Key, Ancestor] = {}
    waiting = [winner]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found[key] = known.get(key) or Ancestor(*key, None, None, ())
            waiting.extend(found[key].parents)
    return dict(sorted(found.items()))
