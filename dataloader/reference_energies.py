"""Reference energies of the elements: what an energy is before its geometry is known.

With share x_Z(s) = n_Z(s) / N(s) of element Z among the N atoms of structure s and mean energy per
atom m, the fit minimises

    sum_s ( E_s / N_s - m - sum_Z x_Z(s) d_Z )^2 + ridge sum_Z d_Z^2,      e_Z = m + d_Z

in float64. Energies count per atom, as in the loss: large structures do not outweigh small ones.
The ridge is the one of ``RIDGES`` with the smallest error of structures left out one at a time
(closed form). It keeps elements that few structures hold near the mean, where plain least squares
lets them take up whatever is left of these structures; energies that are sums over elements get no
ridge and are found exactly. Where the compositions do not tell the elements apart (one molecule, or
one ratio of elements) the smallest d is taken, so a single molecule gives exactly its mean energy
per atom for every element. Cost: structures x elements^2.

Energies of isolated atoms, or given ones, take the place of the fit where the user says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from farfield.dataloader.structure_inputs import find_input
from farfield.dataloader.structures import Structures
from farfield.models.heads.target_scaling import compositions

AVERAGE, ISOLATED = "average", "isolated"
REFERENCE_WORDS = (
    f"reference energies of the elements: {AVERAGE} (a regularised fit to the training energies), "
    f"{ISOLATED} (frames of single atoms, which then belong to no split), or numbers in eV, e.g. "
    "H:-13.6,O:-2041.8"
)
RIDGES = (0.0, *10.0 ** np.arange(-6, 2.1, 0.5))  # structures of that element alone, at the mean
SMALLEST = 1e-9  # of the singular values, relative: smaller ones tell nothing
LONE_SPACING = 8.0  # Angstrom between the images of an atom that counts as isolated


def fit_references(structures: Structures) -> dict[int, float]:
    """Reference energy of every element, Z -> eV.

    ``ValueError`` for an empty set or one without energies.
    """
    if not len(structures):
        raise ValueError("reference energies need at least one structure, got none")
    elements, counts = structures.elements, structures.counts
    composition = compositions(structures.atomic_numbers, counts, elements)
    energy = structures.energy_for("reference energies") / counts

    # shares = left diag(size) right; directions without a size are left at the mean
    mean = energy.mean()
    left, size, right = np.linalg.svd(composition / counts[:, None], full_matrices=False)
    told = size > SMALLEST * size[0]
    left, size, right = left[:, told], size[told], right[told]
    inside = left.T @ (energy - mean)

    # the error of a structure that is left out is its residual / (1 - leverage)
    scores = []
    for ridge in RIDGES:
        kept = size**2 / (size**2 + ridge)
        leverage = (left**2 @ kept).clip(max=1 - 1e-9)
        residual = energy - mean - left @ (kept * inside)
        scores.append(np.square(residual / (1 - leverage)).sum())
    ridge = RIDGES[int(np.argmin(scores))]

    deviation = right.T @ (size / (size**2 + ridge) * inside)
    return {
        int(number): float(mean + shift) for number, shift in zip(elements, deviation, strict=True)
    }


def parse_references(text: str) -> str | dict[int, float]:
    """The option ``--E0s``: "average", "isolated", or energies by atomic number, eV.

    >>> parse_references("H:-13.6,O:-2041.8")
    {1: -13.6, 8: -2041.8}

    ``ValueError`` in one line for anything else.
    """
    if text in (AVERAGE, ISOLATED):
        return text
    found = {}
    for part in text.split(","):
        symbol, _, value = (word.strip() for word in part.partition(":"))
        try:
            number, energy = atomic_numbers[symbol], float(value)
        except (KeyError, ValueError):
            number, energy = 0, np.nan
        if number < 1 or not np.isfinite(energy) or number in found:
            raise ValueError(
                f"--E0s must be {AVERAGE}, {ISOLATED}, or each element once with its energy in eV, "
                f"got {part.strip()!r}; write e.g. H:-13.6,O:-2041.8"
            )
        found[number] = energy
    return found


def chosen_references(structures: Structures, given: Mapping[int, float]) -> dict[int, float]:
    """Those of the ``given`` energies (Z -> eV) whose elements the training structures have.

    ``ValueError`` for an element without one.
    """
    missing = [chemical_symbols[number] for number in structures.elements if number not in given]
    if missing:
        raise ValueError(
            f"--E0s has no reference energy for {', '.join(missing)} of the training structures; "
            f"add {'it' if len(missing) == 1 else 'them'}, or give --E0s {AVERAGE}"
        )
    return {int(number): float(given[int(number)]) for number in structures.elements}


def isolated_atoms(structures: Structures) -> np.ndarray:
    """Which structures are single atoms without near images (structures,) bool."""
    alone = structures.counts == 1
    if structures.periodic is None:
        return alone
    lengths = np.linalg.norm(structures.cell, axis=2)
    nearest = np.where(structures.periodic, lengths, np.inf).min(1)
    return alone & (nearest >= LONE_SPACING)


def isolated_references(structures: Structures) -> dict[int, float]:
    """Energies of the isolated atoms among the structures, Z -> eV.

    ``ValueError`` where there is none, and for an element with several energies.
    """
    alone = structures[isolated_atoms(structures)]
    if not len(alone):
        raise ValueError(
            f"--E0s {ISOLATED} needs frames of single atoms, open or in a cell of "
            f"{LONE_SPACING:g} Angstrom or more; there is none; give --E0s {AVERAGE} or numbers"
        )
    found: dict[int, float] = {}
    energies = alone.energy_for("reference energies").tolist()
    for number, energy in zip(alone.atomic_numbers.tolist(), energies, strict=True):
        known = found.setdefault(number, energy)
        if known != energy:
            raise ValueError(
                f"--E0s {ISOLATED}: frames of a single {chemical_symbols[number]} have the "
                f"energies {known:g} and {energy:g} eV; keep one of them, or give numbers"
            )
    return found


def reference_limits(structures: Structures) -> str:
    """What the energies of a training set leave open, as one line; empty where nothing is.

    Fitted reference energies are determined only where the compositions tell all elements apart.
    """
    counts = compositions(structures.atomic_numbers, structures.counts, structures.elements)
    distinct = np.unique(counts, axis=0)
    if len(distinct) == 1:
        return "one composition: only energy differences between its geometries mean anything"
    rank, elements = int(np.linalg.matrix_rank(distinct)), len(structures.elements)
    if rank == elements:
        return ""
    return (
        f"{len(distinct)} compositions do not tell {elements} elements apart: energies of "
        "molecules with other ratios of elements mean nothing"
    )


def charge_offsets(structures: Structures, references: dict[int, float]) -> dict[float, float]:
    """Total charge, e -> mean energy less references of the structures that have it, eV.

    Reference energies of elements cannot express what an electron more or less costs: what is left
    of it is for the network. Empty where total charges are not known, or all are equal.
    """
    charges = find_input(structures.extra, "total_charge")
    if charges is None or np.shape(charges) != (len(structures),) or np.ptp(charges) == 0:
        return {}
    values, group = np.unique(charges, return_inverse=True)
    residual = structures.energy - reference_energy(structures, references)
    means = np.bincount(group, residual) / np.bincount(group)
    return dict(zip(values.tolist(), means.tolist(), strict=True))


def reference_energy(structures: Structures, references: dict[int, float]) -> np.ndarray:
    """Sum of the reference energies of the atoms of every structure (structures,) float64, eV.

    ``ValueError`` for an unknown element.
    """
    elements = sorted(references)
    counts = compositions(structures.atomic_numbers, structures.counts, elements)
    return counts @ np.array([references[number] for number in elements])
