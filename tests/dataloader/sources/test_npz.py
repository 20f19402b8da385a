"""npz files are read in their units, by their keys, fixed or ragged; what is missing or doubtful is
one line.
"""

import numpy as np
import pytest
from ase import units as ase_units
from ase.stress import full_3x3_to_voigt_6_stress

from farfield.dataloader.sources.npz import read_npz
from farfield.dataloader.units import ENERGY_UNITS, LENGTH_UNITS, Units
from tests.support.molecule_data import random_crystals, random_structures

FIXED = random_structures((4, 4, 4))
FIXED.atomic_numbers[:] = np.tile([6, 1, 8, 1], 3)


def fixed_content(energy_factor=1.0, length_factor=1.0) -> dict:
    return {
        "z": FIXED.atomic_numbers[:4].astype(np.uint8),
        "R": FIXED.positions.reshape(3, 4, 3) / length_factor,
        "E": FIXED.energy[:, None] / energy_factor,
        "F": FIXED.forces.reshape(3, 4, 3) / energy_factor * length_factor,
    }


def written(folder, **content):
    np.savez(folder / "set.npz", **content)
    return folder / "set.npz"


def assert_same(found, expected):
    for name in ("positions", "energy", "forces"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-13
        )
    assert found.atomic_numbers.tolist() == expected.atomic_numbers.tolist()
    assert found.counts.tolist() == expected.counts.tolist()


@pytest.mark.parametrize("energy", ENERGY_UNITS)
@pytest.mark.parametrize("length", LENGTH_UNITS)
def test_units_are_taken_out(tmp_path, energy, length):
    path = written(tmp_path, **fixed_content(ENERGY_UNITS[energy], LENGTH_UNITS[length]))
    assert_same(read_npz(path, Units(energy, length)), FIXED)


def test_units_are_those_of_nature():
    assert Units("kcal/mol").energy_factor == pytest.approx(0.0433641, rel=1e-6)
    assert Units("hartree", "bohr").force_factor == pytest.approx(51.42207, rel=1e-6)
    mixed = Units("hartree", "Angstrom", "hartree/bohr")
    assert mixed.force_factor == Units("hartree", "bohr").force_factor
    assert mixed.stress_factor == Units("hartree").stress_factor
    assert (
        "forces in hartree/bohr (1 hartree = 27.21139 eV, 1 hartree/bohr = 51.42207 eV/Angstrom)"
        in str(mixed)
    )
    assert (
        Units("kcal/mol", force="kcal/mol/Angstrom").force_factor == Units("kcal/mol").force_factor
    )
    with pytest.raises(ValueError, match="the force unit must be an energy .*, got 'newton'"):
        Units(force="newton")
    assert Units("eV", "nm").stress_factor == pytest.approx(1e-3)
    assert Units("meV").energy_factor == 1e-3
    assert Units("kJ/mol").energy_factor * 4.184 == pytest.approx(ase_units.kcal / ase_units.mol)
    assert str(Units("kcal/mol")) == (
        "energy in kcal/mol, length in Angstrom, forces in kcal/mol/Angstrom (1 kcal/mol = "
        "0.0433641 eV)"
    )
    for wrong in ({"energy": "ev"}, {"length": "A"}):
        with pytest.raises(
            ValueError, match=f"unit must be one of .*, got '{next(iter(wrong.values()))}'"
        ):
            Units(**wrong)


def test_revised_and_own_names(tmp_path):
    content = fixed_content()
    revised = {
        "nuclear_charges": content["z"],
        "coords": content["R"],
        "energies": content["E"][:, 0],
        "forces": content["F"],
    }
    path = written(tmp_path, **revised, old_energies=np.zeros(3), old_indices=np.arange(3))
    found = read_npz(path, Units())
    assert_same(found, FIXED)
    assert found.extra["old_indices"].tolist() == [0, 1, 2]
    path = written(tmp_path, **{f"my_{name}": values for name, values in content.items()})
    keys = {"numbers": "my_z", "positions": "my_R", "energy": "my_E", "forces": "my_F"}
    assert_same(read_npz(path, Units(), keys), FIXED)


def test_ragged_files_and_further_numbers(tmp_path):
    ragged = random_structures()
    content = {
        "Z": ragged.atomic_numbers,
        "R": ragged.positions,
        "E": ragged.energy,
        "n_atoms": ragged.counts.astype(np.int32),
    }
    path = written(
        tmp_path, **content, F=ragged.forces, distance=np.arange(4.0), label=np.array(list("abcd"))
    )
    found = read_npz(path, Units())
    assert_same(found, ragged)
    assert list(found.extra) == ["distance"]
    assert found.extra["distance"].tolist() == [0, 1, 2, 3]
    path = written(tmp_path, **content)
    with pytest.raises(
        ValueError,
        match=r"has no forces 'F' or 'forces' \(it holds Z, R, E, n_atoms\); give --forces-key",
    ):
        read_npz(path, Units())
    assert read_npz(path, Units(), {"forces": "absent"}).forces is None


def test_cells_must_be_said_to_repeat_or_not(tmp_path):
    crystals = random_crystals()
    content = {"Z": crystals.atomic_numbers, "n_atoms": crystals.counts, "R": crystals.positions}
    content |= {"F": crystals.forces, "E": crystals.energy}
    path = written(tmp_path, **content, cell=crystals.cell / LENGTH_UNITS["bohr"])
    with pytest.raises(
        ValueError,
        match="set.npz: the structures have a cell: say with --periodic or --no-periodic",
    ):
        read_npz(path, Units())
    assert read_npz(path, Units(), periodic=False).cell is None
    found = read_npz(path, Units("eV", "bohr"), periodic=True)
    np.testing.assert_allclose(found.cell, crystals.cell, rtol=1e-12)
    assert found.periodic.all()
    with pytest.raises(ValueError, match="there is no array 'cell'"):
        read_npz(written(tmp_path, **fixed_content()), Units(), periodic=True)


def test_stated_units_must_fit(tmp_path):
    path = written(
        tmp_path,
        **fixed_content(),
        e_unit=np.array("kcal/mol"),
        r_unit=np.array("Ang"),
        theory=np.array("PBE"),
    )
    assert read_npz(path, Units("kcal/mol")).theory == "PBE"
    for theory in (np.array(b"PBE"), np.array(["PBE"])):
        old = written(
            tmp_path,
            **fixed_content(),
            theory=theory,
            name=np.array({"pickled": 1}, dtype=object),
            e_unit=np.array(b"eV"),
        )
        assert read_npz(old, Units()).theory == "PBE"
    pickled = written(tmp_path, **fixed_content(), theory=np.array({"pickled": 1}, dtype=object))
    assert read_npz(pickled, Units()).theory == "", "a word that is not needed is left alone"
    path = written(tmp_path, **fixed_content(), e_unit=np.array("kcal/mol"), r_unit=np.array("Ang"))
    with pytest.raises(
        ValueError,
        match="says e_unit = 'kcal/mol', it would be read as eV; give the fitting --energy-unit",
    ):
        read_npz(path, Units())
    with pytest.raises(
        ValueError,
        match="says r_unit = 'Ang', it would be read as bohr; give the fitting --length-unit",
    ):
        read_npz(path, Units("kcal/mol", "bohr"))


def test_two_usual_names_are_refused_where_they_differ(tmp_path):
    content = fixed_content()
    path = written(tmp_path, **content, energy=content["E"])
    expected = read_npz(path, Units()).energy

    path = written(tmp_path, **content, energy=content["E"] / 2)
    words = "'E' and 'energy' both name the energy and differ; give --energy-key E or"
    with pytest.raises(ValueError, match=words):
        read_npz(path, Units())
    np.testing.assert_array_equal(read_npz(path, Units(), {"energy": "E"}).energy, expected)
    found = read_npz(path, Units(), {"energy": "energy"}).energy
    np.testing.assert_array_equal(found, expected / 2)


WRONG = [
    (
        {"R": None},
        r"has no positions 'R' or 'coords' or 'positions' \(it holds z, E, F\); give "
        r"--positions-key",
    ),
    (
        {"z": np.ones(3, int)},
        r"positions must have the shape \(structures, 3, 3\) for 3 atomic numbers, got "
        r"\(3, 4, 3\)",
    ),
    ({"E": np.zeros(4)}, r"energy must have the shape \(3,\) or \(3, 1\), got \(4,\)"),
    (
        {"F": np.zeros((3, 4))},
        r"forces must have the shape of the positions \(3, 4, 3\), got \(3, 4\)",
    ),
    ({"z": np.array([1.0, 6.5, 1, 1])}, r"must be whole, got \[6.5\]"),
    ({"F": np.full((3, 4, 3), np.nan)}, "forces of structure 0 are not finite"),
]


@pytest.mark.parametrize("change, message", WRONG, ids=[str(index) for index in range(len(WRONG))])
def test_what_does_not_fit_is_one_line_with_the_file(tmp_path, change, message):
    content = {
        name: values for name, values in (fixed_content() | change).items() if values is not None
    }
    with pytest.raises(ValueError, match=message) as error:
        read_npz(written(tmp_path, **content), Units())
    assert "set.npz" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"set\.npz does not exist; give a whole npz file"):
        read_npz(tmp_path / "set.npz", Units())
    (tmp_path / "set.npz").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"set\.npz is damaged or not an npz file"):
        read_npz(tmp_path / "set.npz", Units())


def test_counts_and_numbers_that_are_none_are_refused(tmp_path):
    one = random_structures((3,))
    content = {"Z": one.atomic_numbers, "R": one.positions, "F": one.forces, "E": one.energy}
    with pytest.raises(
        ValueError,
        match=r"n_atoms must be a list with one number for each structure, got the shape \(\)",
    ):
        read_npz(written(tmp_path, **content, n_atoms=np.array(3)), Units())
    with pytest.raises(ValueError, match="atomic numbers and counts must be numbers, got O, H, H"):
        read_npz(
            written(tmp_path, **content | {"Z": np.array(["O", "H", "H"])}, n_atoms=np.array([3])),
            Units(),
        )
    assert (
        len(
            read_npz(
                written(
                    tmp_path,
                    **content,
                    n_atoms=np.array([3]),
                    theory=np.zeros(0),
                    r_unit=np.zeros(0),
                ),
                Units(),
            )
        )
        == 1
    )


@pytest.mark.parametrize("voigt", [False, True])
def test_stress_of_crystals(tmp_path, voigt):
    crystals = random_crystals()
    expected = (crystals.stress + crystals.stress.transpose(0, 2, 1)) / 2
    stored = full_3x3_to_voigt_6_stress(expected) if voigt else expected
    content = {"Z": crystals.atomic_numbers, "n_atoms": crystals.counts, "R": crystals.positions}
    content |= {"F": crystals.forces, "E": crystals.energy}
    path = written(tmp_path, **content, cell=crystals.cell, sigma_0=stored)
    np.testing.assert_allclose(
        read_npz(path, Units(), periodic=True, stress_key="sigma_0").stress, expected, atol=1e-12
    )
    assert read_npz(path, Units(), periodic=True).stress is None
    with pytest.raises(
        ValueError, match="no stress can be read from 'sigma_0' .stress needs cells that repeat"
    ):
        read_npz(path, Units(), periodic=False, stress_key="sigma_0")
    with pytest.raises(ValueError, match="no stress can be read from 'sigma' .it holds Z, n_atoms"):
        read_npz(path, Units(), periodic=True, stress_key="sigma")
    with pytest.raises(ValueError, match="cells must be named 'cell', there is 'lattice'"):
        read_npz(written(tmp_path, **content, lattice=crystals.cell), Units())

    # usual names, and virials
    content["cell"] = crystals.cell
    found = read_npz(written(tmp_path, **content, stress=stored), Units(), periodic=True)
    np.testing.assert_allclose(found.stress, expected, atol=1e-12)
    assert "stress 'stress' (eV/Angstrom^3; tension is positive" in found.remarks[0]
    volume = np.abs(np.linalg.det(crystals.cell)).reshape(-1, *[1] * (stored.ndim - 1))
    path = written(tmp_path, **content, virials=-stored * volume)
    found = read_npz(path, Units("kcal/mol"), periodic=True)
    np.testing.assert_allclose(found.stress, expected * Units("kcal/mol").energy_factor, atol=1e-12)
    assert read_npz(path, Units(), periodic=True, stress_key="absent").stress is None
    path = written(tmp_path, **content, virials=-stored * volume, stress=stored)
    with pytest.raises(ValueError, match="'stress' and 'virials' all name the stress; give"):
        read_npz(path, Units(), periodic=True)
