"""Fields of configs: checked, made plain, and refused where nothing would read them."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from gradevo.validation import at_least, one_of

Check = Callable[[str, Any], Any]


def settle(config: Any, **checks: Check) -> None:
    """Check fields of a frozen dataclass, and put plain values in their place.

    Raises:
        ValueError, TypeError: of the first check that fails.
    """
    for name, check in checks.items():
        object.__setattr__(config, name, check(name, getattr(config, name)))


def whole(least: int) -> Check:
    """The check for whole numbers of at least so much."""
    return lambda name, value: at_least(name, value, least)


def choice(choices: Collection[str]) -> Check:
    """The check for one of some names."""
    return lambda name, value: one_of(name, value, choices)


def optional(check: Check) -> Check:
    """The check for what may be None, too."""
    return lambda name, value: None if value is None else check(name, value)


# --- what has no effect --------------------------------------------------------------------


@dataclass(frozen=True)
class Unused:
    """Fields that nothing reads in some case.

    Attributes:
        case: as a user would write it, `evolve=()` for example.
        holds: whether a config is such a case.
        fields: their names, and by each the values, besides its default, that say nothing else
            than what happens anyway.
    """

    case: str
    holds: Callable[[Any], bool]
    fields: Mapping[str, Collection[Any]]


def unused(case: str, holds: Callable[[Any], bool], *names: str, **harmless: Any) -> Unused:
    """A rule: names of fields, and some with the one further value that does no harm.

    Example:
        >>> unused("backoff=False", lambda config: not config.backoff, checks=1).fields
        {'checks': (1,)}
    """
    return Unused(
        case, holds, {**dict.fromkeys(names, ()), **{n: (v,) for n, v in harmless.items()}}
    )


def refuse_unused(config: Any, rules: Iterable[Unused]) -> None:
    """Refuse fields of a dataclass that are set to what nothing will read.

    Raises:
        ValueError: names the field, the case and the value.
    """
    for rule in rules:
        if not rule.holds(config):
            continue
        for name, harmless in rule.fields.items():
            value = getattr(config, name)
            if value not in (default(config, name), *harmless):
                raise ValueError(
                    f"{name}: must be left out with {rule.case}, where it has no effect, "
                    f"got {value!r}"
                )


def default(config: Any, name: str) -> Any:
    """The default of a dataclass's field, or of an argument of another class."""
    if not is_dataclass(config):
        return inspect.signature(type(config)).parameters[name].default
    known = next(field for field in fields(config) if field.name == name)
    return known.default if known.default_factory is MISSING else known.default_factory()
