"""Relaxation: argon dimers, whose minimum is known in closed form, then the real methods."""

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed
from ase.calculators.lj import LennardJones

from farfield.dataloader.chemistry.bond_rules import BOND_RULES
from farfield.dataloader.from_ase import structures_from_atoms
from farfield.simulate.reference_relaxation import (
    RelaxationOptions,
    gfn2_calculator,
    relax_by_calculator,
    relax_molecules,
    relaxation_table,
)
from farfield.simulate.superposition import symmetric_rmsd
from tests.support.hand_made_molecules import moved
from tests.support.molecule_data import random_crystals
from tests.support.qm9_data import molecules

DEPTH, SIGMA = 0.5, 3.4  # eV, Angstrom
BEST = 2 ** (1 / 6) * SIGMA


def dimers(*lengths: float):
    return structures_from_atoms([Atoms("Ar2", [[0, 0, 0], [0, 0, one]]) for one in lengths])


def argon(atoms: Atoms) -> LennardJones:
    return LennardJones(epsilon=DEPTH, sigma=SIGMA, rc=200.0)


def pair_energy(length: float) -> float:
    return 4 * DEPTH * ((SIGMA / length) ** 12 - (SIGMA / length) ** 6)


def test_dimers_find_their_minimum():
    start = dimers(4.0, 3.7, BEST)
    relaxed = relax_by_calculator(start, argon, RelaxationOptions(force_limit=1e-5))
    length = relaxed.structures.positions[1::2, 2] - relaxed.structures.positions[::2, 2]
    assert length == pytest.approx([BEST] * 3, abs=1e-5)
    assert relaxed.before == pytest.approx([pair_energy(4.0), pair_energy(3.7), -DEPTH])
    assert relaxed.after == pytest.approx([-DEPTH] * 3)
    assert relaxed.converged.all()
    assert relaxed.steps[2] == 0 < relaxed.steps[0]
    assert start.positions[1, 2] == 4.0  # the start stays as it was

    table = relaxation_table(start, relaxed)
    gains = [pair_energy(4.0) + DEPTH, pair_energy(3.7) + DEPTH, 0]
    assert table["energy_gain_mean"] == pytest.approx(np.mean(gains))
    assert table["energy_gain_median"] == pytest.approx(np.median(gains))
    assert table["heavy_rmsd_mean"] == pytest.approx((4.0 - 3.7) / 6, abs=1e-5)
    assert table["topology_kept"] == table["converged"] == 1
    assert table["failed"] == 0


def test_a_bond_that_breaks_is_seen():
    """Two carbons at 1.5 Angstrom are bonded until a potential of argon pushes them apart."""
    start = structures_from_atoms(
        [Atoms("C2", [[0, 0, 0], [0, 0, 1.5 + 2 * place]]) for place in (0, 1)]
    )
    relaxed = relax_by_calculator(start, argon)
    assert relaxation_table(start, relaxed)["topology_kept"] == 0.5


def test_failed_and_unfinished_molecules_are_counted():
    def only_close(atoms: Atoms):
        if atoms.get_distance(0, 1) > 5:
            raise CalculationFailed("no self-consistency")
        return argon(atoms)

    start = dimers(4.2, 6.0, BEST)
    done: list[int] = []
    limits = RelaxationOptions(max_steps=1)
    relaxed = relax_by_calculator(start, only_close, limits, done.append)
    assert sum(done) == 3
    assert np.isnan(relaxed.after).tolist() == [False, True, False]
    assert relaxed.converged.tolist() == [False, False, True]
    assert relaxed.steps.tolist() == [1, 0, 0]
    assert relaxed.structures[1].positions[1, 2] == 6.0
    table = relaxation_table(start, relaxed)
    assert table["failed"] == 1
    assert table["converged"] == 1 / 3
    assert table["topology_kept"] == 2 / 3
    assert np.isfinite(table["energy_gain_mean"])

    every = relax_by_calculator(dimers(6.0), only_close)
    assert np.isnan(relaxation_table(dimers(6.0), every)["energy_gain_mean"])


def test_refused_in_one_line(monkeypatch):
    one = molecules(["CH4"])
    with pytest.raises(ValueError, match="relaxation must be one of gfn2, mmff94, got 'uff'"):
        relax_molecules(one, "uff")
    with pytest.raises(ValueError, match="structure 0 is periodic"):
        relax_molecules(random_crystals())
    with pytest.raises(ValueError, match="force_limit of a relaxation must be > 0"):
        RelaxationOptions(force_limit=0.0)
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    monkeypatch.setitem(sys.modules, "tblite", None)
    with pytest.raises(ValueError, match="GFN2-xTB needs tblite, which is missing; type: pip"):
        relax_molecules(one)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ValueError, match="MMFF94 needs RDKit, which is missing; type: pip install"):
        relax_molecules(one, "mmff94")


def test_force_field_undoes_a_displacement():
    pytest.importorskip("rdkit", reason="rdkit is not installed: pip install rdkit")
    whole = molecules(["CH3CH2OH", "C6H6", "CH3NO2"])
    start = moved(whole, noise=0.1)
    bonds = BOND_RULES["perceived"](whole)
    relaxed = relax_molecules(start, "mmff94", bonds)
    before = symmetric_rmsd(start, whole, bonds.table).rmsd
    after = symmetric_rmsd(relaxed.structures, whole, bonds.table).rmsd
    assert relaxed.converged.all()
    assert (relaxed.before - relaxed.after > 0.1).all()
    assert (after < before).all()

    # there are no parameters for lithium
    failed = relax_molecules(molecules(["Li2", "CH4"]), "mmff94")
    assert np.isnan(failed.after).tolist() == [True, False]


def test_gfn2_relaxes_a_radical_and_a_molecule():
    pytest.importorskip("tblite.ase", reason="tblite is not installed: pip install tblite")
    names = ("CH3OH", "CH3")
    whole = molecules(names)
    spins = [gfn2_calculator(molecule(name)).parameters["multiplicity"] for name in names]
    assert spins == [1, 2]
    start = moved(whole, noise=0.05)
    relaxed = relax_molecules(start)
    table = relaxation_table(start, relaxed)
    assert table["converged"] == table["topology_kept"] == 1
    assert table["energy_gain_mean"] > 0.05
    bonds = BOND_RULES["perceived"](whole).table
    assert (symmetric_rmsd(relaxed.structures, whole, bonds).rmsd < 0.05).all()
