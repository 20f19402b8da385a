"""Errors of a machine that has too little memory: which they are, and what was computed then.

Raised by Python, by torch on a GPU, and by torch on the CPU, where it is a plain RuntimeError.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is missing."""
    # a script that never imported torch cannot have met torch's own error
    torch = sys.modules.get("torch")
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)
    )


@contextlib.contextmanager
def naming(words: Callable[[], str]) -> Iterator[None]:
    """Add to an error of missing memory what was being computed: a note, ``words()``."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            error.add_note(words())
        raise


def words_of(batches: Sequence) -> str:
    """Sizes of batches in a line: ``a batch of 32 structures, 288 atoms, 2304 edges``."""
    sizes = [
        f"{one.num_graphs} structures, {one.num_nodes} atoms, {one.num_edges} edges"
        for one in batches
    ]
    return " and ".join(f"a batch of {one}" for one in sizes)
