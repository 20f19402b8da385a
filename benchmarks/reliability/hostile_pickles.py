"""Pickles that try to run code: whoever reads one of them by ``pickle.load`` calls the canary."""

from __future__ import annotations

import pickle

import numpy as np

from benchmarks.reliability.guarded_reader import sing

NAMED = (
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "exec"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("subprocess", "Popen"),
    ("importlib", "import_module"),
    ("torch.hub", "load"),
    ("numpy.testing._private.utils", "runstring"),
    ("benchmarks.reliability.guarded_reader", "sing"),
)


class Hostile:
    """Pickled as a call of the canary."""

    def __reduce__(self) -> tuple:
        return sing, ()


def hostile_pickle(generator: np.random.Generator, honest: object) -> bytes:
    """A pickle that names a function which could run code, alone or inside honest values."""
    if generator.random() < 0.5:
        inside = [honest, Hostile()] if generator.random() < 0.5 else {"points": Hostile()}
        return pickle.dumps(inside, protocol=int(generator.integers(2, 6)))

    # opcodes by hand: GLOBAL, its argument, REDUCE
    module, name = NAMED[int(generator.integers(len(NAMED)))]
    call = b"c" + f"{module}\n{name}\n".encode() + b"(X\x08\x00\x00\x00sleep 30tR"
    return b"\x80\x02" + call + b"."
