"""An optimiser and its numbers as configs have them: asked of torch's own constructor."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradevo.fields import default
from gradevo.operators.mutation import changed
from gradevo.optimisers import FASTER, options_of, resolve
from gradevo.validation import at_least, flag, number, plain

OWN = ("lr", "weight_decay")  # of the optimiser's numbers, those that are fields of a config
EXTREMES = (1e-3, 1e3)  # factors that evolution may well put on a number


def optimizer_of(name: str, value: Any) -> str | type[Optimizer]:
    """An optimiser's class, or its name as a plain string.

    Raises:
        ValueError: there is none, or it cannot train members.
    """
    if resolve(value) is torch.optim.SparseAdam:
        raise ValueError(f"{name}: must take dense gradients, got {value!r}")
    return value if isinstance(value, type) else str(value)


def options_given(name: str, value: Any) -> dict[str, Any]:
    """Options by name, a dict of plain values.

    Raises:
        TypeError: they are something else.
        ValueError: one of them has a field of its own, or goes against what members are for.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name}: must be a mapping from names to values, got {value!r}")
    options = {str(key): _plain(item) for key, item in value.items()}
    for key in (*OWN, "params"):
        if key in options:
            whose = "what members have" if key == "params" else "a field of the config"
            raise ValueError(f"{name}: must leave out {key!r}, {whose}, got {options[key]!r}")
    for key in ("maximize", "differentiable"):
        if options.get(key):
            raise ValueError(
                f"{name}: must leave out {key!r}, as members take steps down their losses and "
                f"are compared by them, got {options[key]!r}"
            )
    return options


def check_options(config: Any) -> None:
    """Refuse numbers and options of a config that its optimiser does not have or take.

    Raises:
        ValueError: names the field, the rule and what was given.
    """
    kind, options = resolve(config.optimizer), config.options
    known = _parameters(kind)
    for name in OWN:
        value = getattr(config, name)
        if known is not None and name not in known and value not in (default(config, name), 0):
            raise ValueError(
                f"{name}: must be left out with optimizer={kind.__name__}, which has none, "
                f"got {value!r}"
            )
    if not options:
        return
    for name, value in options.items():
        if known is not None and name not in known:
            names = ", ".join(key for key in known if key not in (*OWN, "params"))
            raise ValueError(
                f"options: must be options of {kind.__name__} ({names or 'none'}), got {name!r}"
            )
        if known is not None:
            _check_kind(f"options[{name!r}]", value, known[name])
    if (reason := refusal(kind, config.start_values(), options)) is not None:
        raise ValueError(f"options: must be such that {kind.__name__} takes them, got {reason}")


def check_evolved(config: Any) -> None:
    """Refuse evolved numbers that may not move freely: a child must not be one torch refuses.

    Raises:
        ValueError: names the number and what the optimiser says of it.
    """
    kind, start = resolve(config.optimizer), config.start_values()
    for name in config.evolve:
        for factor in () if name in OWN else EXTREMES:
            moved = float(changed(name, torch.tensor([start[name]]).double(), factor))
            reason = refusal(kind, {**start, name: moved}, config.options)
            if reason is not None:
                raise ValueError(
                    f"evolve: must name numbers of {kind.__name__} that may change freely, got "
                    f"{name!r}: {reason}"
                )


def refusal(
    kind: type[Optimizer], numbers: Mapping[str, float], options: Mapping[str, Any]
) -> str | None:
    """What a class says against such numbers; None: it takes them."""
    matrix = torch.zeros(2, 2, requires_grad=True)  # Muon takes matrices only
    made: Any = kind
    try:
        made([matrix], **options_of(numbers, options))
    except Exception as error:  # whatever a class of the user's may raise
        return f"{type(error).__name__}: {error}"
    return None


def check_steps(config: Any, like: Tensor) -> None:
    """Take a step with a config's options where members are: some kinds refuse only then.

    Raises:
        ValueError: says what the optimiser says.
    """
    options = getattr(config, "options", None)
    if not options or not (kind := resolve(config.optimizer)).__module__.startswith("torch."):
        return
    matrix = torch.zeros(2, 2, dtype=like.dtype, device=like.device, requires_grad=True)
    matrix.grad = torch.ones_like(matrix)
    made: Any = kind
    try:
        made([matrix], **options_of(config.start_values(), options)).step(lambda: matrix.sum())
    except Exception as error:
        raise ValueError(
            f"options: must be such that {kind.__name__} can step on {like.device} with them, "
            f"got {options!r}: {error}"
        ) from error


def _parameters(kind: type[Optimizer]) -> Mapping[str, inspect.Parameter] | None:
    """What a class takes by name; None: anything."""
    known = inspect.signature(kind.__init__).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return None
    return {name: parameter for name, parameter in known.items() if name != "self"}


def _check_kind(name: str, value: Any, parameter: inspect.Parameter) -> None:
    """What torch's constructors do not look at: numbers and flags are what they are."""
    usual = parameter.default
    if isinstance(usual, bool) or (parameter.name in FASTER and value is not None):
        flag(name, value)
    elif parameter.annotation in (int, "int"):
        at_least(name, value, 1)
    elif isinstance(usual, int | float):
        number(name, value)
    elif isinstance(usual, tuple):
        if not isinstance(value, tuple) or len(value) != len(usual):
            raise ValueError(f"{name}: must be {len(usual)} numbers, got {value!r}")
        for own, one in zip(value, usual, strict=True):
            if own is not None or one is not None:
                number(name, own)


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, in pairs as well."""
    if isinstance(value, tuple | list):
        return tuple(map(plain, value))
    return plain(value)
