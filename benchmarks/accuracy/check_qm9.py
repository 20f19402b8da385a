"""QM9 as it is read here against what follows from the geometries and from its own columns; exits
with 1 if a row misses its bar.

    python benchmarks/accuracy/check_qm9.py \\
        --data-path qm9.npz                 ragged npz (see dataloader.sources.qm9)
    python benchmarks/accuracy/check_qm9.py --data-path qm9.npz --json rows.json

    A, B, C                      h / (8 pi^2 I) of the moments of inertia of the geometry, most
                                 abundant isotopes: worst relative difference
    U0_atom, U_atom, ...         total energy less the free atoms', in the kcal/mol of the table:
                                 worst difference
    gap, H - U                   lumo - homo, and R T of an ideal gas at 298.15 K, in hartree: worst
                                 difference (4 and 6 digits)
    elements                     molecules whose C, N, O, F are not those of their SMILES
    usual valence                share of molecules whose perceived bonds, with formal charges, give
                                 every atom its usual valence
    bonds of the SMILES          share of molecules with as many bonds between heavy atoms as their
                                 SMILES has
    charged                      molecules in which formal charges were needed

Rows whose columns the file does not have are left out. Cost: 0.1 ms a molecule.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/accuracy/check_qm9.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import re
import time

from benchmarks import harness  # before torch: it sets the thread count

import numpy as np  # isort: skip
from ase.data import atomic_masses_common
from scipy import constants

from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.chemistry.bonds import perceive
from farfield.dataloader.sources.qm9_arrays import read_ragged
from farfield.dataloader.sources.qm9_targets import (
    ATOMISED,
    ELEMENTS,
    HARTREE,
    TABLE_KCAL,
    with_atomisation,
)
from farfield.dataloader.storage.files import write_json
from farfield.dataloader.structures import Structures
from farfield.models.heads.property_readouts import compositions

COLUMNS = {"check": "check", "value": "found", "bar": "bar", "unit": "unit", "ok": "holds"}
MOST_ROTATION, MOST_ATOMISATION, MOST_GAP, MOST_HEAT = (
    1e-4,
    1e-3,
    1.5e-4,
    2e-6,
)  # relative, kcal/mol, hartree, hartree
LEAST_SHARE = 0.999
GAS_ENERGY = constants.k * 298.15 / constants.physical_constants["Hartree energy"][0]
ATOM = re.compile(
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
    masses, owner = atomic_masses_common[structures.atomic_numbers], structures.structure_of_atom
    first = structures.offsets[:-1]
    centre = (
        np.add.reduceat(masses[:, None] * structures.positions, first)
        / np.add.reduceat(masses, first)[:, None]
    )
    x = structures.positions - centre[owner]
    square = np.square(x).sum(1)[:, None, None] * np.eye(3) - x[:, :, None] * x[:, None, :]
    moments = np.linalg.eigvalsh(
        np.add.reduceat(masses[:, None, None] * square, first)
    )  # u Angstrom^2, ascending
    scale = (
        constants.h
        / (8 * np.pi**2 * constants.atomic_mass * constants.angstrom**2)
        / constants.giga
    )
    with np.errstate(divide="ignore"):
        return scale / np.maximum(moments, 0.0)


def read_smiles(text: str) -> tuple[dict[str, int], int]:
    """Heavy atoms by element, and bonds between them: atoms - fragments + ring closures / 2.
    ``ValueError`` for a word it does not know.
    """
    atoms, closures, fragments, place = {}, 0, 1, 0
    while place < len(text):
        match = ATOM.match(text, place)
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
    """Rows of what follows from geometry and other columns."""
    held, rows = structures.extra, []
    constants_here = rotational_constants(structures)
    for column, name in enumerate("ABC"):
        if name in held:
            worst = np.abs(constants_here[:, column] / held[name] - 1).max()
            rows.append(_at_most(f"{name} from the geometry", worst, MOST_ROTATION, "relative"))
    for name, atomised in ATOMISED.items():
        if name in held and atomised in held:
            made = with_atomisation(
                {name: held[name]}, structures.atomic_numbers, structures.counts
            )[atomised]
            rows.append(
                _at_most(
                    f"{atomised} from {name}",
                    np.abs(made - held[atomised]).max() / TABLE_KCAL,
                    MOST_ATOMISATION,
                    "kcal/mol",
                )
            )
    if {"gap", "lumo", "homo"} <= held.keys():
        rows.append(
            _at_most(
                "gap",
                np.abs(held["gap"] - held["lumo"] + held["homo"]).max() / HARTREE,
                MOST_GAP,
                "hartree",
            )
        )
    if {"H", "U"} <= held.keys():
        rows.append(
            _at_most(
                "H - U",
                np.abs((held["H"] - held["U"]) / HARTREE - GAS_ENERGY).max(),
                MOST_HEAT,
                "hartree",
            )
        )
    return rows


def check_bonds(structures: Structures) -> list[dict]:
    """Rows of perceived bonds against usual valences and SMILES."""
    start = time.process_time()
    found = perceive(structures)
    seconds = time.process_time() - start
    charged = np.add.reduceat(found.charges != 0, structures.offsets[:-1]) > 0
    rows = [_at_least("usual valence", 1 - found.unusual.mean(), LEAST_SHARE)]
    rows += [{"check": "charged", "value": int(charged.sum()), "unit": "molecules"}]
    if structures.names is not None:
        atoms, bonds = zip(*(read_smiles(text) for text in structures.names.tolist()), strict=True)
        wanted = np.array([[each.get(symbol, 0) for symbol in ELEMENTS] for each in atoms])
        counts = compositions(structures.atomic_numbers, structures.counts, list(ELEMENTS.values()))
        heavy_atoms = np.array(list(ELEMENTS)) != "H"  # SMILES leave hydrogen out
        rows.append(
            _at_most(
                "elements", int((counts != wanted)[:, heavy_atoms].any(1).sum()), 0, "molecules"
            )
        )
        ends = structures.atomic_numbers[
            structures.offsets[found.table.structure_of_bond][:, None] + found.table.ends
        ]
        heavy = np.bincount(
            found.table.structure_of_bond, (ends > 1).all(1), minlength=len(structures)
        )
        rows.append(_at_least("bonds of the SMILES", (heavy == bonds).mean(), LEAST_SHARE))
    return [
        *rows,
        {
            "check": "perceiving bonds",
            "value": f"{1e3 * seconds / len(structures):.3f}",
            "unit": "ms a molecule",
        },
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
        raise ValueError("give --data-path a ragged npz file of QM9")
    report = harness.start(output=options.json)
    start = time.process_time()
    structures, _, read = read_ragged(options.data_path)
    print(f"{read}\n{structures.summary()}\nread in {time.process_time() - start:.2f} CPU s")
    rows = check_labels(structures) + check_bonds(structures)
    print(
        harness.table(
            [row | {"ok": {True: "yes", False: "NO"}.get(row.get("ok"))} for row in rows], COLUMNS
        )
    )
    if options.json:
        write_json(
            options.json,
            {"environment": report, "options": dict(options), "report": str(read), "rows": rows},
        )
    if any(row.get("ok") is False for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
