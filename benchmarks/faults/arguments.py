"""Wrong arguments thrown at the public calls: is each refused by name, or used as it was meant?

    python -m benchmarks.faults.arguments --count 300 --seed 0

One argument of one call is replaced by a value of some kind, and the answer is judged: *clear*, an
error of ours that names the argument; *right*, the value is one that fits, and it ran; *obscure*,
an error that does not say which argument; *ran on*, a value that does not fit was taken; *refused*,
one that fits was not. The last three are printed, and then the exit code is 1.
"""

import argparse
import collections
import contextlib
import io
import logging
import random
import re
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.faults.calls import CALLS, Call
from benchmarks.faults.values import VALUES

import gradevo as ge
from gradevo.datasets import DataError

OURS = (
    ValueError, TypeError, ImportError, DataError,
    ge.CheckpointError, ge.DivergedError, ge.EngineError,
)  # fmt: skip
ALSO = {"folder": "checkpoint"}  # as `fit` calls it
BAD = ("obscure", "ran on", "refused")


def places() -> Iterator[tuple[Call, str]]:
    """Every argument of every call."""
    for call in CALLS:
        for name in call.arguments:
            yield call, name


def judged(call: Call, name: str, value: Any) -> tuple[str, str]:
    """One of the words above, and what was said."""
    fits = call.arguments[name](value)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            call.run(name, value)
    except OURS as error:
        said = f"{type(error).__name__}: {error}"
        known = "|".join(map(re.escape, (name, ALSO.get(name, name), name.replace("_", "-"))))
        clear = re.search(rf"(?<!\w)({known})(?!\w)", str(error)) is not None
        return ("refused" if fits else "clear") if clear else "obscure", said
    except Exception as error:
        return "obscure", f"{type(error).__name__}: {error}"
    return "ran on" if fits is False else "right", ""


def main() -> None:
    """Throw so many values, print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable()
    draw, counts, every = random.Random(options.seed), collections.Counter[str](), list(places())
    for _ in range(options.count):
        call, name = draw.choice(every)
        word, make = draw.choice(call.values or VALUES)
        verdict, said = judged(call, name, make())
        counts[verdict] += 1
        if verdict in BAD:
            print(f"{verdict}: {call.name}({name}={word}): {said[:160]}")
    print(", ".join(f"{counts[word]} {word}" for word in ("clear", "right", *BAD)))
    sys.exit(any(counts[word] for word in BAD))


if __name__ == "__main__":
    main()
