"""Extended xyz files: written by ase or by hand, under ase's names or others, they give the
structures that were written.
"""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa

from farfield.dataloader.from_ase import read_structures
from farfield.dataloader.sources.extxyz import read_extxyz
from farfield.dataloader.units import Units
from farfield.simulate.rollout_frames import read_frames
from tests.support.molecule_data import random_crystals, random_structures


def frames_of(structures, own_names=False) -> list[Atoms]:
    frames = []
    for index in range(len(structures)):
        one = structures[index]
        box = {} if one.cell is None else {"cell": one.cell[0], "pbc": one.periodic[0]}
        atoms = Atoms(one.atomic_numbers, one.positions, **box)
        labels = {"energy": one.energy[0], "forces": one.forces} | (
            {} if one.stress is None else {"stress": voigt(one.stress[0])}
        )
        if own_names:
            atoms.info |= {"REF_energy": labels["energy"], "config_type": f"frame{index}"}
            atoms.arrays["REF_forces"] = labels["forces"]
            if one.stress is not None:
                atoms.info["REF_stress"] = one.stress[0]
        else:
            atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


def symmetric_crystals():
    """Crystals with a symmetric stress."""
    crystals = random_crystals(periodic=(True, True, True))
    crystals.stress = (crystals.stress + crystals.stress.transpose(0, 2, 1)) / 2
    return crystals


def voigt(stress):
    return (stress + stress.T)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / 2


def rename(path, old, new):
    """Another name for a label of a file."""
    path.write_text(path.read_text().replace(old, new))


def assert_same(found, expected):
    for name in ("positions", "energy", "forces", "cell"):
        if getattr(expected, name) is not None:
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=2e-8)
    assert found.atomic_numbers.tolist() == expected.atomic_numbers.tolist()
    assert found.counts.tolist() == expected.counts.tolist()


@pytest.mark.parametrize("own_names", [False, True])
def test_molecules_come_back(tmp_path, own_names):
    structures = random_structures()
    ase.io.write(tmp_path / "set.xyz", frames_of(structures, own_names), format="extxyz")
    keys = {"energy_key": "REF_energy", "forces_key": "REF_forces"} if own_names else {}
    seen = []
    found = read_extxyz(tmp_path / "set.xyz", **keys, progress=seen.append)
    assert_same(found, structures)
    assert found.cell is None
    assert sum(seen) == 4
    assert found.names.tolist() == (
        [f"frame{index}" for index in range(4)] if own_names else [""] * 4
    )
    scaled = read_extxyz(tmp_path / "set.xyz", Units("kcal/mol", "bohr"), **keys)
    np.testing.assert_allclose(scaled.forces, found.forces * Units("kcal/mol", "bohr").force_factor)


@pytest.mark.parametrize("prefix", ["REF_", "DFT_", "true_"])
def test_usual_names_of_labels_are_found_and_said(tmp_path, prefix):
    structures = random_structures()
    ase.io.write(tmp_path / "set.xyz", frames_of(structures, own_names=True), format="extxyz")
    rename(tmp_path / "set.xyz", "REF_", prefix)
    found = read_extxyz(tmp_path / "set.xyz")
    assert_same(found, structures)
    assert f"labels energy '{prefix}energy', forces '{prefix}forces'" in found.remarks


@pytest.mark.parametrize("own_names", [False, True])
def test_crystals_keep_cell_and_stress(tmp_path, own_names):
    crystals = random_crystals(periodic=(True, True, False))
    crystals.stress = (crystals.stress + crystals.stress.transpose(0, 2, 1)) / 2
    ase.io.write(tmp_path / "set.extxyz", frames_of(crystals, own_names), format="extxyz")
    keys = (
        {"energy_key": "REF_energy", "forces_key": "REF_forces", "stress_key": "REF_stress"}
        if own_names
        else {"stress_key": "stress"}
    )
    found = read_extxyz(tmp_path / "set.extxyz", **keys)
    assert_same(found, crystals)
    np.testing.assert_allclose(found.stress, crystals.stress, atol=2e-8)
    assert (found.periodic == [True, True, False]).all()
    without = read_extxyz(tmp_path / "set.extxyz", **{**keys, "stress_key": None}, periodic=False)
    assert without.stress is None
    assert without.periodic is None


@pytest.mark.parametrize("own_names", [False, True])
def test_stress_is_found_and_what_is_left_out_is_named(tmp_path, own_names):
    name = "REF_stress" if own_names else "stress"
    crystals = symmetric_crystals()
    ase.io.write(tmp_path / "set.xyz", frames_of(crystals, own_names), format="extxyz")
    found = read_extxyz(tmp_path / "set.xyz")
    np.testing.assert_allclose(found.stress, crystals.stress, atol=2e-8)
    said = f"stress {name!r} (eV/Angstrom^3; tension is positive, xx yy zz yz xz xy)"
    assert said in found.remarks[0]
    in_kbar = read_extxyz(tmp_path / "set.xyz", Units(stress="kbar"))
    np.testing.assert_allclose(in_kbar.stress, found.stress * 0.1 * GPa)

    found = read_extxyz(tmp_path / "set.xyz", stress_key="absent", forces_key="absent")
    assert found.stress is None
    assert [line for line in found.remarks if line.startswith("note")] == [
        f"note: {label!r} is not read; give --{quantity}-key {label} to read it"
        for quantity, label in (("forces", name.replace("stress", "forces")), ("stress", name))
    ]


def test_a_stress_that_some_periodic_frames_lack_is_left_out(tmp_path):
    frames = frames_of(symmetric_crystals())
    del frames[2].calc.results["stress"]
    ase.io.write(tmp_path / "set.xyz", frames, format="extxyz")
    found = read_extxyz(tmp_path / "set.xyz")
    assert found.stress is None
    assert "note: 'stress' is not read: frame 2 is periodic and has none" in found.remarks
    with pytest.raises(ValueError, match="frame 2 has no stress 'stress'"):
        read_extxyz(tmp_path / "set.xyz", stress_key="stress")

    # an open frame has none, and needs none; neither does an atom alone, wherever they stand
    frames[2].pbc = False
    alone = Atoms("O", cell=[20, 20, 20], pbc=True)
    alone.calc = SinglePointCalculator(alone, energy=-1.0)
    ase.io.write(tmp_path / "set.xyz", [alone, frames[2], *frames[:2]], format="extxyz")
    found = read_extxyz(tmp_path / "set.xyz")
    assert (found.stress[:2] == 0).all()
    assert (found.stress[2] != 0).any()


def test_labels_with_two_values_are_refused(tmp_path):
    frames = frames_of(random_structures())
    for frame in frames:
        frame.info["REF_energy"] = frame.get_potential_energy()
    ase.io.write(tmp_path / "set.xyz", frames, format="extxyz")
    assert read_extxyz(tmp_path / "set.xyz").energy[1] == pytest.approx(
        frames[1].info["REF_energy"]
    )

    frames[1].info["REF_energy"] += 0.5
    ase.io.write(tmp_path / "set.xyz", frames, format="extxyz")
    message = (
        "'energy' and 'REF_energy' of frame 1 both name the energy and differ; give --energy-key "
        "energy or --energy-key REF_energy"
    )
    with pytest.raises(ValueError, match=message):
        read_extxyz(tmp_path / "set.xyz")
    found = read_extxyz(tmp_path / "set.xyz", energy_key="REF_energy")
    assert found.energy[1] == pytest.approx(frames[1].info["REF_energy"])


def test_single_atoms_need_no_forces(tmp_path):
    frames = frames_of(random_structures())
    alone = Atoms("O")
    alone.info |= {"REF_energy": -2041.0}
    for frame in frames:
        frame.info["REF_energy"] = frame.calc.results.pop("energy")
        frame.arrays["REF_forces"] = frame.calc.results.pop("forces")
        frame.calc = None
    ase.io.write(tmp_path / "set.xyz", [alone, *frames], format="extxyz")
    found = read_extxyz(tmp_path / "set.xyz")
    assert found.counts[0] == 1
    assert (found.forces[0] == 0).all()
    np.testing.assert_allclose(found.forces[1:], random_structures().forces, atol=2e-8)


def test_file_by_hand(tmp_path):
    path = tmp_path / "hand.xyz"
    path.write_text(
        '2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="F F F"\nO 0 0 0 0 0 '
        "0.25\nH 0 0 0.96 0 0 -0.25\n"
        '1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-0.5 pbc="F F F"\nH 0 0 0 0 0 0\n'
    )
    found = read_extxyz(path)
    assert found.energy.tolist() == [-1.5, -0.5]
    assert found.counts.tolist() == [2, 1]
    assert found.forces[1].tolist() == [0, 0, -0.25]
    assert read_extxyz(path, forces_key="absent").forces is None


def test_numbers_of_every_frame_are_inputs(tmp_path):
    frames = frames_of(random_structures(), own_names=True)
    for index, frame in enumerate(frames):
        frame.info |= {"charge": index - 1, "spin": 2.0, "converged": True, "method": "xtb"}
    plain = tmp_path / "plain.xyz"
    ase.io.write(plain, frames_of(random_structures(), own_names=True), format="extxyz")
    frames[2].info["step"] = 7
    ase.io.write(tmp_path / "set.xyz", frames, format="extxyz")

    found = read_extxyz(tmp_path / "set.xyz")
    assert set(found.extra) == {"charge", "spin"}
    assert found.extra["charge"].tolist() == [-1, 0, 1, 2]
    assert any(line.startswith("inputs charge, spin (") for line in found.remarks)
    assert "note: not in every frame, so not kept: step" in found.remarks
    assert found.data_hash == read_extxyz(plain).data_hash

    rename(tmp_path / "set.xyz", "charge=1", "charge=one")
    with pytest.raises(
        ValueError, match="charge must be a number in every frame, frame 2 has 'one'"
    ):
        read_extxyz(tmp_path / "set.xyz")


def test_what_is_missing_is_one_line(tmp_path):
    ase.io.write(
        tmp_path / "set.xyz", frames_of(random_structures(), own_names=True), format="extxyz"
    )
    rename(tmp_path / "set.xyz", "REF_", "my_")
    cases = [
        (
            {},
            r"frame 0 has no energy 'energy' \(it holds config_type, my_energy, my_forces\); "
            r"give --energy-key",
        ),
        ({"energy_key": "my_energy"}, "frame 0 has no forces 'forces'"),
        (
            {"energy_key": "my_energy", "forces_key": "config_type"},
            r"forces 'config_type' of frame 0 must be numbers, got 'frame0'",
        ),
        (
            {"energy_key": "my_forces", "forces_key": "my_forces"},
            r"of frame 0 must have the shape \(\), got \(3, 3\)",
        ),
        (
            {"energy_key": "my_energy", "forces_key": "my_forces", "periodic": True},
            "has no periodic frame",
        ),
    ]
    for keys, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            read_extxyz(tmp_path / "set.xyz", **keys)
        assert "set.xyz" in str(error.value)
        assert "\n" not in str(error.value)


def test_damaged_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"set\.xyz does not exist"):
        read_extxyz(tmp_path / "set.xyz")
    ase.io.write(tmp_path / "set.xyz", frames_of(random_structures()), format="extxyz")
    lines = (tmp_path / "set.xyz").read_text().splitlines()
    (tmp_path / "set.xyz").write_text("\n".join(lines[:-2]))
    with pytest.raises(ValueError, match=r"set\.xyz: frame 3 cannot be read as extended xyz"):
        read_extxyz(tmp_path / "set.xyz")
    (tmp_path / "set.xyz").write_text("\n".join([*lines, "9", ""]))  # cut after a number of atoms
    with pytest.raises(ValueError, match=r"set\.xyz: frame \d+ cannot be read as extended xyz"):
        read_extxyz(tmp_path / "set.xyz")
    (tmp_path / "set.xyz").write_text("")
    with pytest.raises(ValueError, match=r"set\.xyz"):
        read_extxyz(tmp_path / "set.xyz")


@pytest.mark.parametrize("name", ["virial", "REF_virials"])
def test_a_virial_becomes_a_stress(tmp_path, name):
    crystals = symmetric_crystals()
    frames = frames_of(crystals)
    for frame in frames:
        frame.info[name] = -frame.calc.results.pop("stress") * frame.get_volume()
        frame.info[name] = voigt_6_to_full_3x3_stress(frame.info[name])
    ase.io.write(tmp_path / "set.xyz", frames, format="extxyz")
    found = read_extxyz(tmp_path / "set.xyz")
    np.testing.assert_allclose(found.stress, crystals.stress, atol=1e-7)
    assert f"stress = -{name!r} / volume (eV; tension is positive" in found.remarks[0]
    with pytest.raises(ValueError, match="names a virial, an energy in --energy-unit"):
        read_extxyz(tmp_path / "set.xyz", Units(stress="GPa"))

    # a stress and a virial that contradict each other
    frames[0].calc.results["stress"] = np.ones(6)
    ase.io.write(tmp_path / "set.xyz", frames[:1], format="extxyz")
    with pytest.raises(ValueError, match="'stress' and .* of frame 0 both name the stress and"):
        read_extxyz(tmp_path / "set.xyz")


def test_stress_that_cannot_be_one(tmp_path):
    crystals = symmetric_crystals()
    ase.io.write(tmp_path / "set.xyz", frames_of(crystals), format="extxyz")
    large = read_extxyz(tmp_path / "set.xyz", Units(stress="hartree/bohr^3"))
    assert large.remarks[-1].startswith("note: the stress is ")
    frames = frames_of(crystals, own_names=True)
    frames[1].info["REF_stress"] = np.triu(crystals.stress[1])
    ase.io.write(tmp_path / "set.xyz", frames, format="extxyz")
    with pytest.raises(ValueError, match="frame 1: 'REF_stress' must be a symmetric matrix"):
        read_extxyz(tmp_path / "set.xyz")


@pytest.mark.parametrize("read", [read_extxyz, read_frames, read_structures])
def test_a_comment_line_that_promises_many_columns_is_refused(read, tmp_path):
    path = tmp_path / "wide.xyz"
    frame = "1\nProperties=species:S:1:pos:R:{} energy=1\nH 0 0 0\n"
    path.write_text(frame.format(3) + frame.format("3" + "0" * 30))
    with pytest.raises(ValueError, match="wide.xyz promises 30000000000000000000 columns"):
        read(path)
