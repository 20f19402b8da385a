"""Molecules as RDKit sees them: validity, SMILES, and relaxation by its MMFF94 force field.

RDKit (licence BSD-3-Clause, wheel of 32 MB) is not required by Farfield; a function that needs it
raises ``ValueError`` with :data:`INSTALL_RDKIT` where it is missing. Hydrogens are atoms, no
implicit one is added: CH3 stays a radical. Aromatic bonds are given by one Kekulé structure, and
RDKit finds aromatic rings itself. Cost: that of RDKit.
"""

from __future__ import annotations

import importlib.util

import numpy as np

from farfield.dataloader.chemistry.bond_rules import RuledBonds
from farfield.dataloader.structures import Structures

INSTALL_RDKIT = "{purpose} needs RDKit, which is missing; type: pip install rdkit"


def has_rdkit() -> bool:
    """Whether RDKit can be imported."""
    return importlib.util.find_spec("rdkit") is not None


def import_rdkit(purpose: str):
    """The module ``rdkit.Chem``; ``ValueError`` that names the purpose where it is missing."""
    try:
        from rdkit import Chem
    except ModuleNotFoundError:
        raise ValueError(INSTALL_RDKIT.format(purpose=purpose)) from None
    return Chem


def rdkit_molecules(structures: Structures, bonds: RuledBonds, purpose: str) -> list:
    """One ``rdkit.Chem.Mol`` with positions a structure; None where RDKit refuses its valences."""
    chem = import_rdkit(purpose)

    # atoms and bonds of a structure are one stretch of the arrays each; ends count its own atoms
    first_bond = bonds.table.offsets
    found = []
    for place in range(len(structures)):
        atoms = slice(*structures.offsets[place : place + 2])
        mine = slice(*first_bond[place : place + 2])
        found.append(
            _molecule(
                chem,
                structures.atomic_numbers[atoms].tolist(),
                bonds.charges[atoms].tolist(),
                bonds.table.ends[mine].tolist(),
                bonds.orders[mine].tolist(),
                structures.positions[atoms],
            )
        )
    return found


def _molecule(chem, numbers, charges, ends, orders, positions: np.ndarray):
    """A molecule of RDKit with its conformer, or None."""
    molecule = chem.RWMol()
    for number, charge in zip(numbers, charges, strict=True):
        atom = chem.Atom(number)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)
        molecule.AddAtom(atom)
    kinds = (chem.BondType.SINGLE, chem.BondType.DOUBLE, chem.BondType.TRIPLE)
    for (a, b), order in zip(ends, orders, strict=True):
        molecule.AddBond(a, b, kinds[order - 1])

    conformer = chem.Conformer(len(numbers))
    conformer.SetPositions(np.ascontiguousarray(positions, np.float64))
    molecule.AddConformer(conformer)
    with chem.rdBase.BlockLogs():  # what it refuses is no news
        failed = chem.SanitizeMol(molecule, catchErrors=True)
    return None if failed else molecule


def canonical_smiles(structures: Structures, bonds: RuledBonds) -> list[str | None]:
    """Canonical SMILES of the bond graph, without stereochemistry; None where RDKit refuses it."""
    chem = import_rdkit("identity by SMILES")
    return [
        None if one is None else chem.MolToSmiles(chem.RemoveHs(one), isomericSmiles=False)
        for one in rdkit_molecules(structures, bonds, "identity by SMILES")
    ]
