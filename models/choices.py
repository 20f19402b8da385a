"""Names that a user chooses from, and the one way to refuse a wrong value.

Names that a user may add to (networks, tasks, norms, ...) are keys of a :class:`Registry`; closed
sets of names (units, splits, ...) are dicts or tuples. :func:`check_choice` checks both. Adding an
entry to a registry is one decorator on the class:

    NORMS = Registry("norm")

    @NORMS.register("layer_norm")
    class LayerNorm(nn.Module): ...

All errors are ``ValueError`` with one line: the option, the value, the limit, and a guess where the
value looks mistyped.
"""

from __future__ import annotations

import difflib
import importlib
import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")
MISSPELLING = 0.75  # share of equal letters in a word that is only mistyped


def nearest(value: object, known: Iterable[str]) -> str | None:
    """The known name that ``value`` looks like a misspelling of, or None.

    A guess corrects a spelling, it never offers another concept ("nve" for "nvt", "md22" for
    "md17"): every word of a name must nearly agree, and every digit.
    """
    likeness = {name: _likeness(str(value), name) for name in known}
    best = max(likeness, key=likeness.__getitem__, default=None)
    return best if best is not None and likeness[best] >= MISSPELLING else None


def _likeness(one: str, other: str) -> float:
    """Smallest ratio of equal letters over the words of two names; 0 where digits differ."""
    words, others = (re.findall(r"[^\W_]+", text.lower()) for text in (one, other))
    if "".join(words) == "".join(others):
        return 1.0
    if re.findall(r"\d", one) != re.findall(r"\d", other) or len(words) != len(others):
        return 0.0
    ratios = [
        difflib.SequenceMatcher(None, word, reference).ratio()
        for word, reference in zip(words, others, strict=True)
    ]
    return min(ratios, default=0.0)


def check_choice(option: str, value: object, known: Iterable[str]) -> None:
    """Raise ValueError unless ``value`` is one of the ``known`` names of ``option``."""
    names = list(known)
    if isinstance(value, str) and value in names:
        return
    near = nearest(value, names)
    guess = f"; did you mean {near!r}?" if near else ""
    raise ValueError(f"{option} must be one of {', '.join(names)}, got {value!r}{guess}")


def check_choices(options: object, known: Mapping[str, Iterable[str]], of: str = "") -> None:
    """Check several attributes of ``options`` at once: attribute name -> known names.

    of: what the options belong to, for the message ("of the far field").
    """
    for name, names in known.items():
        check_choice(f"{name} {of}".rstrip(), getattr(options, name), names)


def check_at_least(options: object, least: float, names: Iterable[str], of: str = "") -> None:
    """Raise ValueError for an attribute of ``options`` below ``least``."""
    for name in names:
        value = getattr(options, name)
        if not value >= least:
            raise ValueError(f"{f'{name} {of}'.rstrip()} must be >= {least}, got {value}")


def check_positive(options: object, names: Iterable[str], of: str = "") -> None:
    """Raise ValueError for an attribute of ``options`` that is not positive and finite."""
    for name in names:
        value = getattr(options, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{f'{name} {of}'.rstrip()} must be > 0 and finite, got {value}")


class Registry(Mapping[str, Entry]):
    """Entries by name, in the order of their registration.

    what: the noun of an entry, for messages ("network"). package: its modules register the entries
    and are imported when somebody looks into the registry, so that a new file in that folder is
    found without a list of files (None: whoever imports the modules fills the registry). A registry
    is a read-only mapping; :meth:`register` is the only way in, and a name is taken once.
    """

    def __init__(self, what: str, package: str | None = None):
        self.what = what
        self._entries: dict[str, Entry] = {}
        self._unread_package = package

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator that adds what it decorates as ``name``; ValueError if the name is taken."""

        def add(entry: Entry) -> Entry:
            """``entry`` itself, known by its name from now on."""
            if self._entries.get(name, entry) is not entry:
                raise ValueError(
                    f"the {self.what} {name!r} is registered already; choose another name"
                )
            self._entries[name] = entry
            return entry

        return add

    def find(self, name: Any) -> Entry:
        """The entry called ``name``; ValueError with a guess where there is none."""
        check_choice(self.what, name, self)
        return self[name]

    def _read_package(self) -> None:
        """Import the modules of the package, once; modules that import each other meet it empty."""
        package, self._unread_package = self._unread_package, None
        if package is None:
            return
        try:
            folders = importlib.import_module(package).__path__
            for module in pkgutil.iter_modules(folders, f"{package}."):
                importlib.import_module(module.name)
        except BaseException:
            self._unread_package = package  # the next look says again what is wrong
            raise

    def __getitem__(self, name: str) -> Entry:
        self._read_package()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._read_package()
        return iter(self._entries)

    def __len__(self) -> int:
        self._read_package()
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Registry({self.what}: {', '.join(self)})"
