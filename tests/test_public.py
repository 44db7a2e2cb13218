"""What is public: a list that changes on purpose only.

`python tests/test_public.py` writes the list anew, after a change that was meant. A name that goes
is entered in `gradevo.deprecation.FORMER` first.
"""

import inspect
from importlib import import_module
from pathlib import Path

import pytest

import gradevo
from gradevo import deprecation

LIST = Path(__file__).parent / "public.txt"
MODULES = (
    "gradevo",
    "gradevo.datasets",
    "gradevo.distributed",
    "gradevo.export",
    "gradevo.lightning",
    "gradevo.loggers",
    "gradevo.losses",
    "gradevo.models",
    "gradevo.ray",
    "gradevo.report",
    "gradevo.shrink",
    "gradevo.sklearn",
    "gradevo.swarm",
)


def public() -> list[str]:
    """Every public name with its parameters, a line each."""
    return [
        f"{module}.{name}{_parameters(getattr(import_module(module), name))}"
        for module in MODULES
        for name in _names(module)
    ]


def _names(module: str) -> list[str]:
    """What a module lists, or else defines, under names without an underscore."""
    room = import_module(module)
    own = (n for n, thing in vars(room).items() if getattr(thing, "__module__", "") == module)
    return sorted(getattr(room, "__all__", [n for n in own if not n.startswith("_")]))


def _parameters(thing: object) -> str:
    if not callable(thing) or (isinstance(thing, type) and issubclass(thing, Exception)):
        return ""
    found = inspect.signature(thing).parameters.values()
    return f"({', '.join(_written(p) for p in found)})"


def _written(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
    must = parameter.default is parameter.empty and parameter.kind not in stars
    only = parameter.kind is parameter.KEYWORD_ONLY
    return stars.get(parameter.kind, "") + parameter.name + ("!" if must else "") + ":" * only


def test_the_public_names_and_their_parameters_are_those_of_the_list() -> None:
    assert public() == LIST.read_text().splitlines()


@pytest.mark.parametrize("line", LIST.read_text().splitlines() if LIST.exists() else [])
def test_every_public_name_says_what_it_is(line: str) -> None:
    module, name = line.split("(")[0].rsplit(".", 1)
    thing = getattr(import_module(module), name)
    if callable(thing):
        assert (thing.__doc__ or "").strip().split("\n")[0].rstrip().endswith((".", ":"))


@pytest.mark.parametrize("name", MODULES[1:])
def test_every_public_module_is_there_once_the_package_is_imported(name: str) -> None:
    short = name.removeprefix("gradevo.")
    assert getattr(gradevo, short) is import_module(name)
    assert short in dir(gradevo)


def test_a_former_name_works_with_a_warning_that_says_what_to_use(monkeypatch) -> None:
    former = deprecation.Former("gradevo.algorithms.gadam", "GADAM", "0.1")
    monkeypatch.setitem(deprecation.FORMER, "GAdam", former)
    with pytest.warns(DeprecationWarning, match="GAdam is now gradevo.algorithms.gadam.GADAM"):
        assert gradevo.GAdam is gradevo.GADAM
    with pytest.raises(AttributeError, match="no attribute 'Gadam'"):
        _ = gradevo.Gadam


def test_former_names_are_dropped_after_one_minor_version() -> None:
    minor = gradevo.__version__.rsplit(".", 1)[0]
    assert {name: f for name, f in deprecation.FORMER.items() if f.since != minor} == {}


if __name__ == "__main__":
    LIST.write_text("\n".join(public()) + "\n")
