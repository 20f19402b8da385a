"""A start of dynamics that cannot go well is refused, or said."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule

from farfield.simulate import dynamics, run_md
from farfield.simulate.rollout_frames import read_frames
from farfield.simulate.start_checks import check_start


def test_usual_starts_are_silent():
    assert not check_start(molecule("CH3CH2OH"), 1.0)
    assert not check_start(bulk("NaCl", "rocksalt", a=5.64), 4.0)
    assert not check_start(molecule("O2"), 5.0)


@pytest.mark.parametrize("periodic", [False, True])
def test_atoms_at_one_place_are_refused(periodic, potential, tmp_path):
    atoms = molecule("CH3CH2OH", vacuum=4.0, pbc=periodic)
    atoms.positions[5] = atoms.positions[2] + [0.001, 0, 0]
    with pytest.raises(ValueError, match="atoms 2 and 5 are 0.001 Angstrom apart"):
        check_start(atoms, 1.0)

    # nothing is written
    ase.io.write(tmp_path / "one.xyz", atoms)
    files = ["--structure", str(tmp_path / "one.xyz"), "--run-dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="correct the positions"):
        run_md.main([*files, "--checkpoint", str(potential), "--compile", "off"])
    assert not (tmp_path / "run").exists()


def test_the_longest_step_goes_by_the_lightest_mass():
    water = molecule("H2O")
    assert "--timestep 10 fs is long" in check_start(water, 10.0)[0]
    heavy = molecule("H2O")
    heavy.set_masses([16.0, 4.03, 4.03])
    assert check_start(water, 3.0) and not check_start(heavy, 3.0)


@pytest.mark.parametrize(
    ("cell", "position", "words"),
    [
        ([0, 0, 0], 0.0, "periodic along .* do not span these directions"),
        ([9.0, 9.0, 0], 0.0, "periodic along .* do not span these directions"),
        ([9.0, 9.0, 0.1], 0.0, "repeats every 0.1 Angstrom"),
        ([9.0, 9.0, 9.0], np.nan, "must be finite"),
    ],
)
def test_a_geometry_without_neighbours_is_refused_first(cell, position, words):
    water = molecule("H2O", cell=cell, pbc=True)
    water.positions[0] += position
    with pytest.raises(ValueError, match=words):
        check_start(water, 1.0)


@pytest.mark.parametrize("record", dynamics.RECORDS)
def test_a_flipped_bit_of_a_record_is_found_before_a_run_goes_on(record, potential, tmp_path):
    run = ["--run-dir", str(tmp_path / "md"), "--no-progress", "--record-every", "2"]
    start = ["--checkpoint", str(potential), "--steps", "4", "--timestep", "0.1"]
    ase.io.write(tmp_path / "one.xyz", molecule("CH3CH2OH"))
    run_md.main([*run, *start, "--structure", str(tmp_path / "one.xyz")])

    file = tmp_path / "md" / record
    whole = file.read_bytes()
    file.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    with pytest.raises(ValueError, match=f"{record} is damaged: .*bring it back"):
        run_md.main([*run, "--resume", "--steps", "6"])
    with pytest.raises(ValueError, match=f"{record} is damaged: .*give .*extxyz itself"):
        read_frames(tmp_path / "md")
    assert len(read_frames(tmp_path / "md" / dynamics.TRAJECTORY)) == 3

    # what came after the state is cut off, as ever
    file.write_bytes(whole + b"half a fra")
    run_md.main([*run, "--resume", "--steps", "6"])
    assert file.read_bytes().startswith(whole)
    assert len(read_frames(tmp_path / "md")) == 4
    run_md.main([*run, "--resume", "--steps", "8"])


def test_no_array_of_a_state_is_lost_by_a_wrong_bit_of_its_name(potential, tmp_path):
    """Of the arrays that a state may lack: constraints, checksums, whether it was compiled."""
    run = ["--run-dir", str(tmp_path / "md"), "--no-progress", "--steps", "2"]
    ase.io.write(tmp_path / "one.xyz", molecule("CH3CH2OH"))
    run_md.main([*run, "--checkpoint", str(potential), "--structure", str(tmp_path / "one.xyz")])
    path = tmp_path / "md" / dynamics.STATE
    whole = path.read_bytes()
    for name in (b"further.npy", b"sums.npy", b"compiled.npy"):
        place = whole.rindex(name)  # in the directory at the end
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="state.npz is damaged .*checksum"):
            dynamics.read_state(path)
