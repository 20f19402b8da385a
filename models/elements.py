"""Atomic numbers: the range that exists, and the errors for elements that a model does not know."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from torch import Tensor

from farfield.models.tracing import is_tracing

MAX_ATOMIC_NUMBER = 118
MAX_LISTED = 10  # elements in a message


def unknown_element(number: int, known: Iterable[int]) -> str:
    """Error text for atomic number ``number`` in a model that was trained on ``known`` ones."""
    from ase.data import chemical_symbols  # here: only an error needs the names

    symbols = [chemical_symbols[one] for one in known]
    if len(symbols) > MAX_LISTED:
        elements = f"{len(symbols)} others ({', '.join(symbols[:MAX_LISTED])}, ...)"
    else:
        elements = ", ".join(symbols) or "no element yet"
    return (
        f"unknown element {chemical_symbols[number]} (Z = {number}); this model was trained on "
        f"{elements}: leave such structures out, or train with them"
    )


def refuse_unknown(atomic_numbers: Tensor, known: Tensor) -> None:
    """Raise ValueError for an atomic number Z for which ``known[Z]`` (bool) is False."""
    if is_tracing():  # Potential.check has looked
        return
    unknown = atomic_numbers[~known[atomic_numbers]]
    if len(unknown):
        raise ValueError(unknown_element(int(unknown[0]), known.nonzero().flatten().tolist()))


def refuse_unknown_structures(
    atomic_numbers: np.ndarray, counts: np.ndarray, known: Collection[int]
) -> None:
    """Raise ValueError for the first structure with an element that is not ``known``.

    atomic_numbers (atoms,) of all structures end to end, counts (structures,) atoms of each.
    """
    wrong = np.flatnonzero(~np.isin(atomic_numbers, list(known)))
    if len(wrong):
        place = int(np.searchsorted(np.cumsum(counts), wrong[0], side="right"))
        words = unknown_element(int(atomic_numbers[wrong[0]]), sorted(known))
        raise ValueError(f"structure {place}: {words}")


def check_elements(atomic_numbers: Tensor | None) -> None:
    """Raise ValueError unless there are atomic numbers, and all of them name an element."""
    if atomic_numbers is None:
        raise ValueError(
            "the batch has no atomic_numbers, but the network needs the element of every atom; "
            "give AtomBatch(atomic_numbers=...)"
        )
    if is_tracing() or not atomic_numbers.numel():  # of a trace Potential.check has looked
        return
    low, high = (int(number) for number in atomic_numbers.aminmax())
    if low < 1 or high > MAX_ATOMIC_NUMBER:
        wrong = low if low < 1 else high
        raise ValueError(f"atomic numbers must lie in 1 .. {MAX_ATOMIC_NUMBER}, got {wrong}")
