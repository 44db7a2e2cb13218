"""What a file says of the network in it."""

import json
from collections.abc import Mapping
from typing import Any

from gradevo import __version__
from gradevo.checkpoint import strict


def noted(about: Mapping[str, Any]) -> dict[str, str]:
    """Facts as text by name, as metadata have them: words as they are, the rest as JSON.

    Example:
        >>> noted({"what": "best", "classes": ["a", "b"]})["gradevo.classes"]
        '["a", "b"]'
    """
    facts = {"version": __version__, **about}
    return {f"gradevo.{name}": _text(value) for name, value in facts.items() if value is not None}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(strict(value))
