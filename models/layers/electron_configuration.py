"""Electron configurations of neutral atoms in their ground states, as features of an element.

Subshells fill in the order of n + l, then of n (the aufbau rule). Twenty atoms deviate: electrons
move from one subshell to another (NIST Atomic Spectra Database; Lr: Sato et al. 2015). Elements 104
to 118 follow the rule.

The 22 features of an element are Z, the electrons in the subshells 1s ... 5f, and the s, p, d and f
electrons outside the core of the last noble gas, each divided by its largest value. What is in 6d
and 7p shows in the last four.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.models.elements import MAX_ATOMIC_NUMBER

LETTERS = "spdf"
NOBLE_GASES = (2, 10, 18, 36, 54, 86)

# (n, l) in the order of their filling, 1s to 7p
FILLED = sorted(
    ((n, l) for n in range(1, 8) for l in range(4) if l < n and n + l <= 8),
    key=lambda shell: (sum(shell), shell[0]),
)
SUBSHELLS = [f"{n}{LETTERS[l]}" for n, l in FILLED]
SHOWN = SUBSHELLS[:17]  # up to 5f

# atomic number -> (from, to, electrons) that the rule puts elsewhere
MOVED: dict[int, tuple[str, str, int]] = {
    24: ("4s", "3d", 1),
    29: ("4s", "3d", 1),
    41: ("5s", "4d", 1),
    42: ("5s", "4d", 1),
    44: ("5s", "4d", 1),
    45: ("5s", "4d", 1),
    46: ("5s", "4d", 2),
    47: ("5s", "4d", 1),
    57: ("4f", "5d", 1),
    58: ("4f", "5d", 1),
    64: ("4f", "5d", 1),
    78: ("6s", "5d", 1),
    79: ("6s", "5d", 1),
    89: ("5f", "6d", 1),
    90: ("5f", "6d", 2),
    91: ("5f", "6d", 1),
    92: ("5f", "6d", 1),
    93: ("5f", "6d", 1),
    96: ("5f", "6d", 1),
    103: ("6d", "7p", 1),
}


def electron_configuration(number: int) -> dict[str, int]:
    """Electrons in each subshell of the atom with this atomic number, empty ones left out.

    >>> electron_configuration(24)
    {'1s': 2, '2s': 2, '2p': 6, '3s': 2, '3p': 6, '4s': 1, '3d': 5}
    """
    if not 1 <= number <= MAX_ATOMIC_NUMBER:
        raise ValueError(f"atomic numbers are 1 .. {MAX_ATOMIC_NUMBER}, got {number}")
    held, left = {}, number
    for subshell in SUBSHELLS:
        held[subshell] = min(left, 2 * (2 * LETTERS.index(subshell[1]) + 1))
        left -= held[subshell]

    if number in MOVED:
        source, target, count = MOVED[number]
        held[source] -= count
        held[target] += count
    return {subshell: count for subshell, count in held.items() if count}


def valence_electrons(number: int) -> dict[str, int]:
    """The s, p, d and f electrons outside the core of the last noble gas before the element."""
    core = max((noble for noble in NOBLE_GASES if noble < number), default=None)
    closed = {} if core is None else electron_configuration(core)
    found = dict.fromkeys(LETTERS, 0)
    for subshell, count in electron_configuration(number).items():
        found[subshell[1]] += count - closed.get(subshell, 0)
    return found


def configuration_table() -> Tensor:
    """Features of all elements (119, 22) in 0 .. 1, by atomic number; row 0 is zero."""
    rows = [[0.0] * (1 + len(SHOWN) + len(LETTERS))]
    for number in range(1, MAX_ATOMIC_NUMBER + 1):
        held = electron_configuration(number)
        shells = [held.get(subshell, 0) for subshell in SHOWN]
        rows.append([number, *shells, *valence_electrons(number).values()])
    table = torch.tensor(rows, dtype=torch.float64)
    return (table / table.amax(0)).to(torch.get_default_dtype())
