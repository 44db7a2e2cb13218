"""Numbers and settings in words, for tables and hovers."""

import html
import math
from collections.abc import Mapping
from typing import Any

NARROW = "\u202f"  # a space where no line is broken


def number(value: Any) -> str:
    """A loss or a rate in four digits.

    Example:
        >>> number(0.0429387), number(None), number(0.0), number(3e-7)
        ('0.04294', 'not finite', '0', '3e-07')
    """
    finite = isinstance(value, int | float) and math.isfinite(value)
    return f"{value:.4g}" if finite else "not finite"


def percent(share: float, digits: int = 2) -> str:
    """A share in per cent.

    Example:
        >>> percent(0.98765) == "98.77" + NARROW + "%"
        True
    """
    return f"{100 * share:.{digits}f}{NARROW}%"


def duration(seconds: float) -> str:
    """Seconds, as people say it.

    Example:
        >>> duration(0.004321), duration(7.86), duration(3700)
        ('4.32 ms', '7.9 s', '1 h 2 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms" if seconds < 0.1 else f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def setting(value: Any) -> str:
    """A value of a run's settings.

    Example:
        >>> setting(None), setting(True), setting(["lr", "decay"]), setting({"betas": [0.9, 0.99]})
        ('none', 'yes', 'lr, decay', 'betas: 0.9, 0.99')
    """
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {setting(item)}" for key, item in value.items())
    return ", ".join(map(setting, value)) if isinstance(value, list | tuple) else str(value)


def literal(text: str) -> str:
    """Text as plotly shows it as it is: its labels know some tags.

    Example:
        >>> literal("<b>bold</b>")
        '&lt;b&gt;bold&lt;/b&gt;'
    """
    return html.escape(text, quote=False)
