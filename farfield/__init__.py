"""Equivariant attention on molecules and materials with an exact far field.

    import farfield
    model = farfield.load("runs/ethanol/checkpoint_best.pt")
    model.predict(structures)                                # many structures of ASE at once

The folders beside this file are relative links to the top-level folders of the repository, so that
all code has one import name, ``farfield.models``, ``farfield.train``, ..., wherever it runs. The
names below are imported when they are first used, so that ``import farfield`` costs nothing.
"""

from importlib import import_module

# name -> module that defines it
_HOMES = {
    "load": "farfield.train.prediction",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
