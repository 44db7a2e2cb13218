"""What the history of a run looks like on disk: a dict of plain values a generation."""

from collections.abc import Collection
from typing import Any

from gradevo.forms import (
    Form,
    list_of,
    mapping,
    misfit,
    number,
    optional,
    plain,
    text,
    whole,
)  # fmt: skip

NUMBERS = list_of(optional(number()))  # what is not finite is None
INFO: dict[str, Form] = {
    "generation": whole(1),
    "best": number(),
    "mean": number(),
    "losses": NUMBERS,
    "adoption": optional(number(0, 1)),
    "diversity": optional(number()),
    "member_steps": whole(),
    "skipped": whole(),
    "skips": mapping({"gradient": list_of(whole()), "loss": list_of(whole())}),
    "improved": optional(whole()),
    "hyper": mapping({}, others=NUMBERS),
    "parents": list_of(list_of(whole(), 2)),
    "survivors": list_of(whole()),
    "islands": NUMBERS,
    "guests": list_of(whole()),
    "densities": NUMBERS,
    "objectives": list_of(NUMBERS),
    "front": whole(),
}


ALWAYS = ("generation", "best", "mean", "member_steps")


def history(needed: Collection[str] = ALWAYS) -> Form:
    """Generations in order, each with these names and perhaps others.

    Example:
        >>> history()([{"generation": 1, "best": 0.5, "mean": 0.6, "member_steps": 9}], "history")
        >>> history()([{"generation": 1}], "history")
        Traceback (most recent call last):
        gradevo.forms.Misfit: history[0] must be with best, mean, member_steps, got dict
    """

    def check(value: Any, where: str) -> None:
        list_of(mapping(INFO, others=plain))(value, where)
        known = {*needed}.union(*map(_names, value))  # what is known of one is known of all
        for i, info in enumerate(value):
            if missing := known - _names(info):
                misfit(f"{where}[{i}]", f"with {', '.join(sorted(missing))}", info)
        for name in ("generation", "member_steps"):
            counts = [info[name] for info in value if name in info]
            if sorted(counts) != counts or (name == "generation" and len(set(counts)) < len(value)):
                misfit(f"{where}.{name}", "one that grows", counts)

    return check


def _names(info: dict[str, Any]) -> set[str]:
    return {*(info.keys() & INFO.keys()), *(f"hyper.{name}" for name in info.get("hyper", {}))}


def last_generation(infos: list[dict[str, Any]]) -> int:
    """Generations that a history has behind it.

    Example:
        >>> last_generation([]), last_generation([{"generation": 2}])
        (0, 2)
    """
    return infos[-1]["generation"] if infos else 0


def engine(value: Any, where: str) -> None:
    """The name of an engine that this machine may be asked for."""
    from gradevo.engines import known

    text(value, where)
    threads = value.partition("@")[2]
    if not (value == "auto" or (len(value) < 40 and known(value))) or int(threads or 1) > THREADS:
        misfit(where, f"an engine's name, of at most {THREADS} threads", value)


THREADS = 1024  # of an engine, at most
