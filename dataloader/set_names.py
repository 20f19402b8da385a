"""Several data sets in one option: ``water=data/water,salts=data/salts.lmdb``.

A part without a name has that of its folder or file. One set is the path alone, as it always was;
a path that exists is never taken apart.
"""

from __future__ import annotations

import re
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9_.+-]+")


def parse_sets(text: str) -> dict[str, str]:
    """Name -> path of each set of the option ``--data-path``, in their order.

    >>> parse_sets("water=data/water,data/salts.lmdb")
    {'water': 'data/water', 'salts': 'data/salts.lmdb'}

    ``ValueError`` in one line for names that occur twice and parts without a path.
    """
    if Path(text).exists() or not any(mark in text for mark in ",="):
        return {_usual_name(text): text}

    found: dict[str, str] = {}
    for part in text.split(","):
        name, mark, path = part.strip().partition("=")
        if not mark:
            name, path = _usual_name(part.strip()), part.strip()
        if not path or not NAME.fullmatch(name):
            raise ValueError(
                f"--data-path {text}: {part.strip()!r} names no set; write NAME=PATH, with letters "
                "and digits in the name, and commas between sets"
            )
        if name in found:
            raise ValueError(
                f"--data-path {text}: two sets are called {name!r}; give them names, as in "
                "one=PATH,two=PATH"
            )
        found[name] = path
    return found


def _usual_name(path: str) -> str:
    return Path(path).stem if Path(path).suffix == ".lmdb" else Path(path).name or "data"


def parse_weights(text: str | None, names: list[str]) -> list[float]:
    """Weight of each set of the option ``--set-weights`` (None: 1 each).

    >>> parse_weights("1,0.5", ["water", "salts"])
    [1.0, 0.5]

    ``ValueError`` in one line for another number of weights, and weights that are not positive.
    """
    if text is None:
        return [1.0] * len(names)
    try:
        weights = [float(word) for word in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != len(names) or not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(
            f"--set-weights must be {len(names)} numbers > 0 joined by commas, one for each set "
            f"({', '.join(names)}), got {text!r}"
        )
    return weights
