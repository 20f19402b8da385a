"""The table of metrics: each entry against molecules of which chemistry knows the answer."""

import sys

import numpy as np
import pytest

from farfield.dataloader.chemistry.bond_rules import BOND_RULES
from farfield.dataloader.structures import Structures
from farfield.simulate.molecule_metrics import (
    MetricOptions,
    check_molecules,
    molecule_table,
    steps_table,
)
from tests.support.hand_made_molecules import ammonium, apart, mirrored, moved
from tests.support.molecule_data import random_crystals
from tests.support.qm9_data import molecules

BY_GRAPH = MetricOptions(identity="graph")
GOOD = ("CH4", "C2H6", "CH3CH2OH", "CO2", "HCN", "NH3", "H2CO", "C2H4")


def joined(*parts: Structures) -> Structures:
    return Structures.concatenate(list(parts))


def test_good_molecules_are_good():
    table = molecule_table(molecules(GOOD), options=BY_GRAPH)
    shares = [name for name in table if name not in ("molecules", "identity")]
    assert table["molecules"] == table["valid_molecules"] == table["unique_molecules"] == 8
    assert {table[name] for name in shares if not name.endswith("molecules")} == {1.0}


def test_what_is_wrong_with_each():
    whole = joined(molecules(["CH4", "CH3"]), apart("CH4", "NH3"), ammonium())
    checks = check_molecules(whole, BOND_RULES["edm"](whole))
    assert checks.stable.tolist() == [True, False, True, False]
    assert checks.connected.tolist() == [True, True, False, True]
    assert checks.valid.tolist() == [True, False, False, False]

    table = molecule_table(whole, options=BY_GRAPH)
    # of 5 + 4 + 9 + 5 atoms only the C of the radical and the N of ammonium are not stable
    assert table["stable_atoms"] == pytest.approx(21 / 23)
    assert table["stable_atoms_without_h"] == pytest.approx(3 / 5)
    assert table["stable_molecules"] == 2 / 4
    assert table["connected"] == table["connected_without_h"] == 3 / 4
    assert table["valid"] == 1 / 4


def test_without_hydrogen():
    """Hydrogen far from methane: as a molecule it is stable, as an atom not; neither is connected,
    and both are forgiven where hydrogens are not asked.
    """
    lone = molecules(["CH4"])
    more = Structures(
        np.append(lone.atomic_numbers, 1), np.append(lone.positions, [[9.0, 0, 0]], 0), [6]
    )
    whole = joined(apart("CH4", "H2"), more, molecules(["H2"]))
    checks = check_molecules(whole, BOND_RULES["edm"](whole))
    assert checks.stable.tolist() == [True, False, True]
    assert checks.stable_without_h.tolist() == [True, True, True]
    assert checks.connected.tolist() == [False, False, True]
    assert checks.connected_without_h.tolist() == [True, True, True]


def test_benzene_is_stable_by_perceived_bonds_alone():
    ring = molecules(["C6H6"])
    assert molecule_table(ring, options=BY_GRAPH)["valid"] == 0
    options = MetricOptions(bonds="perceived", identity="graph")
    assert molecule_table(ring, options=options)["valid"] == 1


def test_unique_and_novel():
    one = molecules(["CH4", "C2H6", "NH3", "CH3"])
    # methane three times, once moved and once mirrored; the radical is not valid
    whole = joined(one, moved(one[:1]), mirrored(one[:1]))
    table = molecule_table(whole, training=molecules(["NH3", "H2O", "CH3"]), options=BY_GRAPH)
    assert table["valid_molecules"] == 5
    assert table["unique_molecules"] == 3
    assert table["unique"] == 3 / 5
    assert table["novel_molecules"] == 2
    assert table["novel"] == 2 / 3
    assert table["identity"] == "graph"
    assert "novel" not in molecule_table(whole, options=BY_GRAPH)


def test_shares_of_nothing_are_nan():
    table = molecule_table(molecules(["CH3"]), training=molecules(["CH4"]), options=BY_GRAPH)
    assert table["valid"] == table["unique_molecules"] == 0
    assert np.isnan(table["unique"]) and np.isnan(table["novel"])


def test_distances_to_a_reference():
    reference = molecules(["CH4", "CO2", "C6H6", "H2"])
    same = molecule_table(moved(reference), reference=reference, options=BY_GRAPH)
    assert same["rmsd_mean"] < 1e-6
    assert same["heavy_rmsd_mean"] < 1e-6
    assert same["topology_kept"] == same["rmsd_exact"] == same["heavy_rmsd_exact"] == 1

    # both oxygens of CO2 move out by 0.6 Angstrom: sqrt(2 0.36 / 3), and their bonds are lost
    other = moved(reference)
    atoms = slice(*reference.offsets[1:3])
    carbon, oxygens = other.positions[atoms][:1], other.positions[atoms][1:]
    length = np.linalg.norm(oxygens[0] - carbon[0])
    other.positions[atoms][1:] = carbon + (oxygens - carbon) * (1 + 0.6 / length)
    table = molecule_table(other, reference=reference, options=BY_GRAPH)
    assert table["rmsd_mean"] == pytest.approx(np.sqrt(0.24) / 4)
    assert table["heavy_rmsd_mean"] == pytest.approx(np.sqrt(0.24) / 3)  # H2 has no heavy atom
    assert table["rmsd_median"] < 1e-6
    assert table["topology_kept"] == 3 / 4


def test_steps():
    table = steps_table(np.array([10, 20, 60]), np.array([True, True, False]))
    assert table["steps_mean"] == 30
    assert table["steps_median"] == 20
    assert table["steps_std"] == pytest.approx(np.sqrt((400 + 100 + 900) / 3))
    assert table["converged"] == pytest.approx(2 / 3)


def test_refused_in_one_line():
    with pytest.raises(ValueError, match="there are no molecules to measure; give at least one"):
        molecule_table(molecules(["CH4"])[:0])
    with pytest.raises(ValueError, match="structure 0 is periodic"):
        molecule_table(random_crystals())
    with pytest.raises(ValueError, match="bonds of the metrics must be one of edm, .*'edn'"):
        MetricOptions(bonds="edn")
    with pytest.raises(ValueError, match="identity of the metrics must be one of auto, smiles"):
        MetricOptions(identity="inchi")


def test_rdkit_is_asked_for_by_name(monkeypatch):
    """Where it is missing, an option that needs it says so, and the automatic choice is told."""
    monkeypatch.setitem(sys.modules, "rdkit", None)
    one = molecules(["CH4"])
    hint = "needs RDKit, which is missing; type: pip install rdkit"
    with pytest.raises(ValueError, match=f"valid_rdkit {hint}"):
        molecule_table(one, options=MetricOptions(rdkit_validity=True))
    with pytest.raises(ValueError, match=f"identity by SMILES {hint}"):
        molecule_table(one, options=MetricOptions(identity="smiles"))
    assert molecule_table(one)["identity"] == "graph"
