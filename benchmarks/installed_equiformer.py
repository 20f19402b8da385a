"""The public program equiformer-pytorch, with which benchmarks compare.

P. Wang, equiformer-pytorch (MIT licence), an implementation of Liao & Smidt 2023 and Passaro &
Zitnick 2023. ``make bench`` installs it from requirements-bench.txt.
"""

from __future__ import annotations

import importlib.util
import os

from torch import nn

PACKAGE = "equiformer-pytorch"


def equiformer_is_installed() -> bool:
    """Whether the public program can be imported."""
    return importlib.util.find_spec("equiformer_pytorch") is not None


def public_equiformer(**options) -> nn.Module:
    """A network of the public program; options are those of its constructor.

    Raises ModuleNotFoundError in one line where it is not installed.
    """
    if not equiformer_is_installed():
        raise ModuleNotFoundError(f"{PACKAGE} is not installed; run `make bench` to install it")
    os.environ.setdefault("CLEAR_CACHE", "1")  # keeps its constants out of the home folder
    from equiformer_pytorch import Equiformer

    return Equiformer(**options)
