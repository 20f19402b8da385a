"""Which molecules are sampled: compositions by formula, and molecules drawn from a folder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.formula import Formula

from farfield.dataloader.datasets.diffusion_data import open_structures
from farfield.dataloader.datasets.molecule_sizes import MoleculeSizes
from farfield.dataloader.structure_inputs import find_input
from farfield.dataloader.structures import Structures


def elements_of_formula(formula: str) -> np.ndarray:
    """Atomic numbers (atoms,) of ``C2H6O``, heavy ones first; ValueError for anything else."""
    try:
        numbers = [atomic_numbers[symbol] for symbol in Formula(formula)]
    except (ValueError, KeyError):
        numbers = []
    if not numbers or 0 in numbers:
        raise ValueError(
            f"--composition must be a formula of elements such as C2H6O, got {formula!r}"
        )
    return np.sort(np.array(numbers))[::-1].copy()


def blank_of_formulas(formulas: Sequence[str], number: int) -> Structures:
    """``number`` molecules with all atoms at the origin; the formulas take turns."""
    numbers = [elements_of_formula(formula) for formula in formulas]
    chosen = [numbers[place % len(numbers)] for place in range(number)]
    counts = np.array([len(one) for one in chosen])
    blank = np.zeros((int(counts.sum()), 3))
    return Structures(np.concatenate(chosen), blank, counts, check=False)


def molecules_of_split(folder: str, split: str, sizes: MoleculeSizes) -> Structures:
    """Molecules of a prepared folder that have the sizes; FileNotFoundError or ValueError."""
    structures = open_structures(folder, split)
    return structures[sizes.chosen(structures)]


def choose(number: int, among: int, seed: int) -> np.ndarray:
    """Places (number,) int64 in 0 .. among - 1, in an order of the seed.

    Each at most once where there are enough, otherwise in turns. Fewer are the first of more.
    """
    generator = np.random.default_rng(seed)
    turns = -(-number // among)
    return np.concatenate([generator.permutation(among) for _ in range(turns)])[:number]


def unlabelled(structures: Structures, inputs: Sequence[str]) -> Structures:
    """The geometry alone, since labels belong to it, and the ``inputs`` that a network reads."""
    held = {name: find_input(structures.extra, name) for name in inputs}
    return Structures(
        structures.atomic_numbers,
        structures.positions,
        structures.counts,
        cell=structures.cell,
        periodic=structures.periodic,
        extra={name: values for name, values in held.items() if values is not None},
        check=False,
    )


def with_compositions_of(structures: Structures, others: Structures) -> Structures:
    """Those of the structures whose composition one of the others has."""
    wanted = set(map(bytes, compositions(others)))
    return structures[np.array([bytes(row) in wanted for row in compositions(structures)], bool)]


def compositions(structures: Structures) -> np.ndarray:
    """Number of atoms of every element (structures, elements that exist + 1) uint16."""
    elements = len(chemical_symbols)
    place = structures.structure_of_atom * elements + structures.atomic_numbers
    found = np.bincount(place, minlength=len(structures) * elements)
    return found.reshape(len(structures), elements).astype(np.uint16)
