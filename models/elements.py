"""Atomic numbers: which there are, and the errors for those that are not known."""

from __future__ import annotations

from torch import Tensor

MAX_ATOMIC_NUMBER = 118


def refuse_unknown(atomic_numbers: Tensor, known: Tensor) -> None:
    """Raises ValueError for an atomic number Z for which ``known[Z]`` (bool) is False."""
    unknown = atomic_numbers[~known[atomic_numbers]]
    if len(unknown):
        held = known.nonzero().flatten().tolist()
        raise ValueError(
            f"there is no reference of Z = {int(unknown[0])} (there are those of Z = {held}); "
            "train with that element"
        )


def check_elements(atomic_numbers: Tensor | None) -> None:
    """Raises ValueError unless there are atomic numbers, and all of them name an element."""
    if atomic_numbers is None:
        raise ValueError(
            "the batch has no atomic_numbers: the network needs the element of every atom"
        )
    if atomic_numbers.numel():
        low, high = (int(number) for number in atomic_numbers.aminmax())
        if low < 1 or high > MAX_ATOMIC_NUMBER:
            raise ValueError(
                f"atomic numbers must lie in 1 .. {MAX_ATOMIC_NUMBER}, got "
                f"{low if low < 1 else high}"
            )
