"""What a value from the disk must look like, said once and checked before it is used.

A form is a function of a value and of where it stands; it raises `Misfit`. Whoever can be stored
says its own form; what a checksum cannot tell (a file of another run, or made by a tool) is found
here.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Generator, Tensor

from gradevo.errors import CheckpointError

Form = Callable[[Any, str], None]
Size = int | None  # of an axis; None: any
INT64 = 2**63 - 1
LONGEST = 60  # characters of a value in a message


class Misfit(ValueError):
    """A value is not of the form that is expected; says where it stands."""


def misfit(where: str, rule: str, value: Any) -> NoReturn:
    """Raise, with the value in few words."""
    raise Misfit(f"{where or 'it'} must be {rule}, got {_brief(value)}")


def _brief(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, str | bool | int | float | None):
        text = repr(value) if not isinstance(value, int) or abs(value) < 2**64 else "a huge number"
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return type(value).__name__


@contextmanager
def fitting(path: Path, rule: str = "fit the run") -> Iterator[None]:
    """Say of what is not as it should be which file it is in.

    Raises:
        CheckpointError: instead of what a value of another kind raises.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise CheckpointError(f"checkpoint: must {rule}, but {e} in {path}") from e


# --- plain values --------------------------------------------------------------------------


def anything(value: Any, where: str) -> None:
    """Every value is right."""


def flag(value: Any, where: str) -> None:
    """True or False."""
    if not isinstance(value, bool):
        misfit(where, "true or false", value)


def text(value: Any, where: str) -> None:
    """A string."""
    if not isinstance(value, str):
        misfit(where, "text", value)


def whole(least: int = 0, most: int = INT64) -> Form:
    """A whole number in a range, both ends included.

    Example:
        >>> whole(most=3)(4, "step")
        Traceback (most recent call last):
        gradevo.forms.Misfit: step must be a whole number from 0 to 3, got 4
    """

    def check(value: Any, where: str) -> None:
        if type(value) is not int or not least <= value <= most:
            misfit(where, f"a whole number from {least} to {most}", value)

    return check


def number(least: float = -math.inf, most: float = math.inf) -> Form:
    """A number in a range; NaN is one where there is no limit."""
    free = least == -math.inf and most == math.inf

    def check(value: Any, where: str) -> None:
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if not known or not (free or least <= value <= most):
            misfit(where, "a number" if free else f"a number from {least:g} to {most:g}", value)

    return check


def exactly(wanted: Any) -> Form:
    """That very value."""

    def check(value: Any, where: str) -> None:
        if type(value) is not type(wanted) or value != wanted:
            misfit(where, f"{wanted!r}"[:LONGEST], value)

    return check


def optional(form: Form) -> Form:
    """A form, or nothing."""
    return lambda value, where: None if value is None else form(value, where)


def either(one: Form, other: Form) -> Form:
    """One of two forms; what is neither is said of the second."""

    def check(value: Any, where: str) -> None:
        try:
            one(value, where)
        except Misfit:
            other(value, where)

    return check


def plain(value: Any, where: str) -> None:
    """Numbers, text, truth values, nothing, and lists and dicts of such."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    elif value is None or isinstance(value, bool | int | float | str):
        return
    else:
        misfit(where, "plain", value)
    for name, item in items:
        plain(name, where)
        plain(item, f"{where}.{name}")


# --- of several ----------------------------------------------------------------------------


def list_of(form: Form, length: int | None = None) -> Form:
    """A list, each item of a form."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list):
            misfit(where, "a list", value)
        if length is not None and len(value) != length:
            misfit(where, f"a list of {length}", len(value))
        for i, item in enumerate(value):
            form(item, f"{where}[{i}]")

    return check


def mapping(forms: Mapping[str, Form], others: Form | None = None) -> Form:
    """A dict of exactly these names.

    Args:
        forms: of the values by name.
        others: of what has another name; then names may be missing, too.
    """

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            misfit(where, "a dict of names", value)
        if others is None and value.keys() != forms.keys():
            different = ", ".join(sorted(value.keys() ^ forms.keys()))[:LONGEST]
            misfit(where, "of the run's names", f"others: {different}")
        for name, item in value.items():
            (forms.get(name) or others or anything)(item, f"{where}.{name}".lstrip("."))

    return check


def instance(
    cls: type, forms: Mapping[str, Form], also: Callable[[Any], str] | None = None
) -> Form:
    """An object of a dataclass, each field of a form.

    Args:
        cls: the class, no other.
        forms: of its fields, all of them.
        also: what must hold between fields: says what does not, else nothing.
    """
    assert {field.name for field in dataclasses.fields(cls)} == set(forms), cls

    def check(value: Any, where: str) -> None:
        if type(value) is not cls:
            misfit(where, cls.__name__, value)
        for name, form in forms.items():
            form(getattr(value, name), f"{where}.{name}".lstrip("."))
        if also is not None and (rule := also(value)):
            raise Misfit(f"{where or cls.__name__}: {rule}")

    return check


# --- tensors -------------------------------------------------------------------------------


def tensor(
    shape: Sequence[Size],
    dtype: torch.dtype | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Form:
    """A tensor of a shape and type.

    Args:
        shape: None for an axis of any size.
        dtype: None: any floating type.
        least, most: limits of the entries, which are then finite; None: none.
    """

    def check(value: Any, where: str) -> None:
        known = isinstance(value, Tensor) and _fits(value.shape, shape)
        if not known or not (value.is_floating_point() if dtype is None else value.dtype == dtype):
            kind = "a floating type" if dtype is None else str(dtype)
            misfit(where, f"{kind} of shape {tuple(shape)}", value)
        limits = (least is None or value >= least), (most is None or value <= most)
        if any(isinstance(limit, Tensor) and not bool(limit.all()) for limit in limits):
            misfit(where, f"within {least} and {most}", [])

    return check


def _fits(found: Sequence[int], wanted: Sequence[Size]) -> bool:
    pairs = zip(found, wanted, strict=False)
    return len(found) == len(wanted) and all(w is None or f == w for f, w in pairs)


def stacked(like: Mapping[str, Tensor], rows: int) -> Form:
    """Tensors of the names, types and shapes of others, but with so many rows."""
    forms = {n: tensor((rows, *t.shape[1:]), t.dtype, least_of(n)) for n, t in like.items()}
    return mapping(forms)


def least_of(name: str) -> float | None:
    """The lowest that a tensor of a module may be, which is known of counts of batches."""
    return 0 if name.endswith("num_batches_tracked") else None


def generator(value: Any, where: str) -> None:
    """A generator of random numbers."""
    if not isinstance(value, Generator):
        misfit(where, "a generator", value)


def generator_state(value: Any, where: str) -> None:
    """What a CPU generator can be set to."""
    tensor((None,), torch.uint8)(value, where)
    try:
        Generator().set_state(value.clone())  # torch crashes on a part of another tensor
    except (AttributeError, RuntimeError, TypeError):
        misfit(where, "the state of a generator", value)


def names_in(known: Collection[str]) -> Form:
    """A name among others."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or value not in known:
            misfit(where, "a name that is known", value)

    return check
