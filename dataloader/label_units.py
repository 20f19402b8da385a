"""Guesses of units: ratios between energies and forces, and energies of all electrons.

The energy of all electrons of a structure is below the sum over its atoms by well under 3 %, and
never below it by more: an energy of 23 times that sum is one in kcal/mol. Energies of single atoms:
Hartree-Fock limits (Froese Fischer, The Hartree-Fock Method for Atoms, 1977), hartree, rounded.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from farfield.dataloader.structures import Structures
from farfield.dataloader.units import ENERGY_UNITS, LENGTH_UNITS

HARTREE = ENERGY_UNITS["hartree"]
# Z -> hartree
ATOM_ENERGIES = {
    1: -0.5,
    2: -2.862,
    3: -7.433,
    4: -14.573,
    5: -24.529,
    6: -37.689,
    7: -54.401,
    8: -74.809,
    9: -99.409,
    10: -128.547,
    11: -161.859,
    12: -199.615,
    13: -241.877,
    14: -288.854,
    15: -340.719,
    16: -397.505,
    17: -459.482,
    18: -526.818,
}
NEAR_RATIO = (
    0.2  # largest |ln| between a slope and a ratio of units: a slope is up to 1.2 too small
)
MOST_GUESSES = 3
NEAR_TOTAL = 0.03  # largest |ln| between a total energy and the sum over the atoms
COMPARED_FRAMES = 1000


class Told(NamedTuple):
    """A guess in words, and whether it cannot be otherwise."""

    text: str
    certain: bool


def _ratios() -> dict[str, float]:
    """Words -> slope of energies over work where a unit is taken for another one."""
    energy = {}
    for name, value in ENERGY_UNITS.items():
        if name not in ("eV", "meV"):
            energy[f"energies are in {name} and forces are not"] = 1 / value
            energy[f"forces are in {name} per length and energies are not"] = value
    for one, other in itertools.permutations(("kcal/mol", "kJ/mol", "hartree"), 2):
        words = f"energies are in {one} and forces in {other} per length"
        energy[words] = ENERGY_UNITS[other] / ENERGY_UNITS[one]
    bohr = LENGTH_UNITS["bohr"]
    lengths = {
        "positions are in bohr and forces per Angstrom": bohr,
        "forces are per bohr and positions in Angstrom": 1 / bohr,
    }

    # forces in hartree/bohr and energies in eV: both are wrong at once
    both = {
        f"{words}, and {other}": ratio * factor
        for (words, ratio), (other, factor) in itertools.product(energy.items(), lengths.items())
        if "hartree" in words
    }
    return lengths | energy | both


RATIOS = _ratios()


def ratio_words(slope: float) -> str | None:
    """What a slope > 0 of energies over work tells of units, None where it is the ratio of none."""
    off = {words: abs(np.log(slope / ratio)) for words, ratio in RATIOS.items()}
    near = sorted((words for words in off if off[words] < NEAR_RATIO), key=off.get)
    if not near:
        return None
    return (
        f"energies change {slope:.4g} times as much as the forces say, as where "
        f"{', or '.join(near[:MOST_GUESSES])}; name the units of the file (--energy-unit, "
        "--length-unit, --force-unit)"
    )


def total_energy_words(structures: Structures) -> Told | None:
    """What the size of the energies tells of their unit, None where they may be eV."""
    frames = np.unique(np.linspace(0, len(structures) - 1, COMPARED_FRAMES).astype(int))
    ratios = []
    for frame in frames.tolist():
        rows = slice(structures.offsets[frame], structures.offsets[frame + 1])
        numbers = structures.atomic_numbers[rows]
        if np.isin(numbers, list(ATOM_ENERGIES)).all():
            total = HARTREE * sum(ATOM_ENERGIES[number] for number in numbers.tolist())
            ratios.append(structures.energy[frame] / total)
    if not ratios:
        return None

    ratio = float(np.median(ratios))
    for name in ("kcal/mol", "kJ/mol", "hartree"):
        if ratio > 0 and abs(np.log(ratio * ENERGY_UNITS[name])) < NEAR_TOTAL:
            text = (
                f"energies are {ratio:.4g} times as large as those of all electrons in eV: they "
                f"are in {name}; give --energy-unit {name}"
            )
            # below the sum over the atoms lies no energy; energies of some electrons lie above
            return Told(text, certain=ratio > 1)
    return None
