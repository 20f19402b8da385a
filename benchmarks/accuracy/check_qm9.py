"""QM9 as it is read here, against what follows from its geometries and from its own columns.

    # the data path is a ragged npz file, see dataloader/sources/qm9.py
    python -m benchmarks.accuracy.check_qm9 --data-path qm9.npz
    python -m benchmarks.accuracy.check_qm9 --data-path qm9.npz --json rows.json

    A, B, C                 h / (8 pi^2 I) of the moments of inertia of the geometry, most abundant
                            isotopes: worst relative difference
    U0_atom, U_atom, ...    total energy less the energies of the free atoms, in the kcal/mol of the
                            table: worst difference
    gap, H - U              lumo - homo, and R T of an ideal gas at 298.15 K, in hartree: worst
                            difference (4 and 6 digits)
    elements                molecules whose C, N, O, F are not the ones of their SMILES
    usual valence           share of molecules whose perceived bonds, with formal charges, give
                            every atom its usual valence
    bonds of the SMILES     share of molecules with as many bonds between heavy atoms as their
                            SMILES has
    charged                 molecules in which formal charges were needed

Rows whose columns the file does not have are left out. Exits with 1 if a row misses its bar. Cost:
0.1 ms a molecule.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/accuracy/check_qm9.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import re
import time
from collections.abc import Iterator

from benchmarks import harness  # before torch: it sets the thread count

import numpy as np  # isort: skip
from ase.data import atomic_masses_common
from scipy import constants

from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.chemistry.bonds import BondTable, perceive
from farfield.dataloader.sources.qm9_arrays import read_ragged
from farfield.dataloader.sources.qm9_targets import (
    ATOMISED,
    ELEMENTS,
    HARTREE,
    TABLE_KCAL,
    with_atomisation,
)
from farfield.dataloader.structures import Structures
from farfield.models.heads.target_scaling import compositions

COLUMNS = {"check": "check", "value": "found", "bar": "bar", "unit": "unit", "ok": "holds"}

# Bars.
MOST_ROTATION = 1e-4  # relative
MOST_ATOMISATION = 1e-3  # kcal/mol
MOST_GAP = 1.5e-4  # hartree
MOST_HEAT = 2e-6  # hartree
LEAST_SHARE = 0.999

# R T in hartree.
GAS_ENERGY = constants.k * 298.15 / constants.physical_constants["Hartree energy"][0]

# The words of a SMILES: an atom in brackets, an atom, a ring closure, a dot, a bond or branch.
WORD = re.compile(
    r"\[\d*([A-Z][a-z]?|[a-z])[^\]]*\]|(Cl|Br|[BCNOPSFIbcnops])|(%\d\d|\d)|(\.)|[-=#:/\\()]"
)


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("check_qm9", __doc__)
    check = parser.section("check", "what is checked")
    check.add("--data-path", str, None, help="ragged npz file")
    check.add("--json", str, None, help="file for the rows")
    return parser


def rotational_constants(structures: Structures) -> np.ndarray:
    """A >= B >= C in GHz (structures, 3); A of a line of atoms is inf or very large."""
    masses = atomic_masses_common[structures.atomic_numbers]
    first = structures.offsets[:-1]

    # Positions from the centre of mass.
    weighted = np.add.reduceat(masses[:, None] * structures.positions, first)
    centre = weighted / np.add.reduceat(masses, first)[:, None]
    x = structures.positions - centre[structures.structure_of_atom]

    # Tensors of inertia, sum_i m_i (x_i^2 - x_i x_i^T); moments in u Angstrom^2, ascending.
    square = np.square(x).sum(1)[:, None, None] * np.eye(3) - x[:, :, None] * x[:, None, :]
    inertia = np.add.reduceat(masses[:, None, None] * square, first)
    moments = np.linalg.eigvalsh(inertia)

    unit = constants.atomic_mass * constants.angstrom**2
    scale = constants.h / (8 * np.pi**2 * unit) / constants.giga
    with np.errstate(divide="ignore"):
        return scale / np.maximum(moments, 0.0)


def read_smiles(text: str) -> tuple[dict[str, int], int]:
    """Heavy atoms by element, and the number of bonds between them.

    Bonds are atoms - fragments + ring closures / 2. Raises ValueError for an unknown word.
    """
    atoms: dict[str, int] = {}
    closures, fragments, place = 0, 1, 0
    while place < len(text):
        match = WORD.match(text, place)
        if match is None:
            raise ValueError(f"the SMILES {text!r} cannot be read from {text[place:]!r} on")
        bracket, plain, ring, dot = match.groups()

        symbol = (bracket or plain or "H").capitalize()
        if symbol != "H":
            atoms[symbol] = atoms.get(symbol, 0) + 1
        closures += ring is not None
        fragments += dot is not None
        place = match.end()
    return atoms, sum(atoms.values()) - fragments + closures // 2


def check_labels(structures: Structures) -> list[dict]:
    """Rows of what follows from geometry and from other columns."""
    return [*check_rotations(structures), *check_atomisation(structures), *check_sums(structures)]


def check_rotations(structures: Structures) -> Iterator[dict]:
    """Rotational constants against the geometry."""
    found = rotational_constants(structures)
    for column, name in enumerate("ABC"):
        if name in structures.extra:
            worst = np.abs(found[:, column] / structures.extra[name] - 1).max()
            yield _at_most(f"{name} from the geometry", worst, MOST_ROTATION, "relative")


def check_atomisation(structures: Structures) -> Iterator[dict]:
    """Energies of atomisation against total energies."""
    held = structures.extra
    for name, atomised in ATOMISED.items():
        if name in held and atomised in held:
            total = {name: held[name]}
            made = with_atomisation(total, structures.atomic_numbers, structures.counts)[atomised]
            worst = np.abs(made - held[atomised]).max() / TABLE_KCAL
            yield _at_most(f"{atomised} from {name}", worst, MOST_ATOMISATION, "kcal/mol")


def check_sums(structures: Structures) -> Iterator[dict]:
    """Columns that are sums of others."""
    held = structures.extra
    if {"gap", "lumo", "homo"} <= held.keys():
        worst = np.abs(held["gap"] - held["lumo"] + held["homo"]).max() / HARTREE
        yield _at_most("gap", worst, MOST_GAP, "hartree")
    if {"H", "U"} <= held.keys():
        worst = np.abs((held["H"] - held["U"]) / HARTREE - GAS_ENERGY).max()
        yield _at_most("H - U", worst, MOST_HEAT, "hartree")


def check_bonds(structures: Structures) -> list[dict]:
    """Rows of perceived bonds against usual valences and SMILES."""
    start = time.process_time()
    found = perceive(structures)
    milliseconds = 1e3 * (time.process_time() - start) / len(structures)

    charged = np.add.reduceat(found.charges != 0, structures.offsets[:-1]) > 0
    rows = [
        _at_least("usual valence", 1 - found.unusual.mean(), LEAST_SHARE),
        {"check": "charged", "value": int(charged.sum()), "unit": "molecules"},
    ]
    if structures.names is not None:
        rows += check_smiles(structures, found.table)
    timing = {"value": f"{milliseconds:.3f}", "unit": "ms a molecule"}
    return [*rows, {"check": "perceiving bonds", **timing}]


def check_smiles(structures: Structures, bonds: BondTable) -> list[dict]:
    """Rows of elements and perceived bonds against the SMILES, which leave hydrogen out."""
    read = [read_smiles(text) for text in structures.names.tolist()]

    counts = compositions(structures.atomic_numbers, structures.counts, list(ELEMENTS.values()))
    expected = np.array([[atoms.get(symbol, 0) for symbol in ELEMENTS] for atoms, _ in read])
    heavy = np.array(list(ELEMENTS)) != "H"
    wrong = int((counts != expected)[:, heavy].any(1).sum())

    # Bonds of each molecule whose two ends are heavy atoms.
    ends = structures.offsets[bonds.structure_of_bond][:, None] + bonds.ends
    between_heavy = (structures.atomic_numbers[ends] > 1).all(1)
    found = np.bincount(bonds.structure_of_bond, between_heavy, minlength=len(structures))
    share = (found == [count for _, count in read]).mean()
    return [
        _at_most("elements", wrong, 0, "molecules"),
        _at_least("bonds of the SMILES", share, LEAST_SHARE),
    ]


def _at_most(name: str, value: float, bar: float, unit: str) -> dict:
    return {
        "check": name,
        "value": f"{value:.2g}",
        "bar": f"<= {bar:g}",
        "unit": unit,
        "ok": bool(value <= bar),
    }


def _at_least(name: str, value: float, bar: float) -> dict:
    return {
        "check": name,
        "value": f"{value:.5f}",
        "bar": f">= {bar:g}",
        "unit": "share",
        "ok": bool(value >= bar),
    }


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).check
    if options.data_path is None:
        raise ValueError("--data-path is missing; give a ragged npz file of QM9")
    report = harness.start(output=options.json)

    start = time.process_time()
    structures, _, read = read_ragged(options.data_path)
    print(f"{read}\n{structures.summary()}\nread in {time.process_time() - start:.2f} CPU s")

    rows = check_labels(structures) + check_bonds(structures)
    words = {True: "yes", False: "NO"}
    print(harness.table([row | {"ok": words.get(row.get("ok"))} for row in rows], COLUMNS))
    harness.keep(options, report, report=str(read), rows=rows)
    if any(row.get("ok") is False for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
