"""Laws of the analysis of trajectories: a file agrees with itself, every measure with a known
answer, and what cannot be analysed is refused.
"""

import json

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from farfield.simulate import analyze_rollouts, rollout_results
from farfield.simulate.bond_stability import find_bonds, largest_changes, stable_frames
from farfield.simulate.rollout_frames import Frames, read_frames
from tests.support.processes import ROOT

SAMPLE = ROOT / "dataloader" / "samples" / "ethanol.npz"


@pytest.fixture(scope="module")
def waters():
    """Forty frames of a vibrating water that moves and turns, 1 fs apart, with its energies."""
    rng = np.random.default_rng(0)
    first = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    velocities = rng.normal(0, 0.02, (3, 3))
    found = []
    for time in range(40):
        atoms = Atoms("OHH", first + 0.05 * np.sin(0.3 * time) * velocities)
        atoms.set_velocities(velocities)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - 0.001 * time)
        atoms.info["time_fs"] = float(time)
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def folder(waters, tmp_path_factory):
    """The same frames in two formats."""
    folder = tmp_path_factory.mktemp("waters")
    write(folder / "waters.extxyz", waters)
    write(folder / "waters.traj", waters)
    return folder


def analysed(out, *arguments):
    """results.json of an analysis."""
    analyze_rollouts.main([*map(str, arguments), "--out", str(out), "--no-progress"])
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("name", ["waters.extxyz", "waters.traj"])
def test_a_file_agrees_with_itself(folder, tmp_path, name, plots):
    found = analysed(tmp_path, folder / name, "--gt_traj", folder / name, "--xlim", "6")
    (row,) = found["rollouts"]
    assert row["distance_mae"] == 0.0
    assert row["frames"] == row["stable_frames"] == 40
    assert row["stability_time"] == pytest.approx(0.039)
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"bonds.png", "distances.png"}


def test_npz_of_one_molecule_is_read_whatever_its_units_of_energy(tmp_path):
    content = dict(np.load(SAMPLE, allow_pickle=False))
    content |= {"R": content["R"][:50], "e_unit": "kcal/mol"}
    np.savez(tmp_path / "md17.npz", **content)
    (row,) = analysed(tmp_path / "out", tmp_path / "md17.npz", "--gt-traj", SAMPLE)["rollouts"]
    assert 0 < row["distance_mae"] < 0.2
    assert row["stability_time"] is None and row["mean_temperature"] is None


def test_a_split_of_a_data_folder_is_read(tmp_path):
    content = dict(np.load(SAMPLE, allow_pickle=False))
    positions, numbers = content["R"][:5], content["Z"]
    arrays = {"atomic_numbers": np.tile(numbers, 5), "positions": positions.reshape(-1, 3)}
    np.savez(tmp_path / "test.npz", **arrays, counts=np.full(5, 9))
    found = read_frames(tmp_path / "test.npz")
    np.testing.assert_array_equal(found.positions, positions)
    np.testing.assert_array_equal(found.numbers, numbers)

    arrays["atomic_numbers"][12] = 7
    np.savez(tmp_path / "two.npz", **arrays, counts=np.full(5, 9))
    with pytest.raises(ValueError, match="several molecules"):
        read_frames(tmp_path / "two.npz")


def test_temperature_drift_and_momentum_are_those_of_the_frames(waters, folder, tmp_path):
    (row,) = analysed(tmp_path, folder / "waters.extxyz")["rollouts"]
    kinetic = waters[0].get_kinetic_energy()
    assert row["mean_temperature"] == pytest.approx(2 * kinetic / (9 * units.kB), rel=1e-5)
    assert row["momentum"] < 1e-6  # the velocities never change
    frames = read_frames(folder / "waters.extxyz", frame_time=10.0)
    values = rollout_results.analyse(frames, options()).values
    assert values["drift"] == pytest.approx(-1.0 / 3 / 0.01, rel=1e-4)  # -1 meV in 10 fs, 3 atoms


def options(**changes):
    """Options of an analysis."""
    config = analyze_rollouts.read_options(["none"]).analysis
    config.update(changes)
    return config


def test_conserved_quantities_show_what_is_added():
    rng = np.random.default_rng(1)
    numbers, masses = np.array([8, 1, 1]), np.array([16.0, 1.0, 1.0])
    positions = np.repeat(rng.normal(size=(1, 3, 3)), 4, 0)
    momenta = np.repeat(rng.normal(size=(1, 3, 3)), 4, 0)
    momenta[2] += [0.3, 0.0, 0.0]
    found = rollout_results.conserved(Frames("", numbers, masses, positions, momenta=momenta))
    size = np.linalg.norm(momenta, axis=2).sum(1).mean()
    assert found["momentum"] == pytest.approx(0.9 / size, rel=1e-12)
    assert found["angular_momentum"] > 1e-3

    parts = {"momenta": momenta[:2]}
    still = rollout_results.conserved(Frames("", numbers, masses, positions[:2], **parts))
    assert still == {"momentum": 0.0, "angular_momentum": 0.0}


def molecule(stretch):
    """Frames of CO whose bond is longer by ``stretch`` (frames,)."""
    positions = np.zeros((len(stretch), 2, 3))
    positions[:, 1, 0] = 1.13 + np.asarray(stretch)
    return Frames("", np.array([6, 8]), np.array([12.0, 16.0]), positions)


def test_a_trajectory_is_stable_until_a_bond_is_half_an_angstrom_off():
    bonds = find_bonds(molecule([0.0]))
    assert bonds.ends.tolist() == [[0, 1]] and bonds.length == pytest.approx([1.13])
    for change in (0.51, -0.51, np.nan):
        frames = molecule([0, 0.2, -0.3, 0.49, change, 0])
        assert stable_frames(largest_changes(frames, bonds)) == 4
    assert stable_frames(largest_changes(molecule([0, 0.49, -0.49]), bonds)) == 3


def test_equilibrium_lengths_are_means_over_the_reference():
    bonds = find_bonds(molecule([0.0, 0.1, 0.2]))
    assert bonds.length == pytest.approx([1.23])


def test_bonds_through_the_wall_of_a_cell_do_not_break():
    cells = np.repeat(6 * np.eye(3)[None], 3, 0)
    frames = molecule([0.0, 0.1, 0.2])
    frames.positions[:] += [5.5, 0, 0]
    frames.positions[1] %= 6.0
    whole = Frames("", frames.numbers, frames.masses, frames.positions, cells, np.ones(3, bool))
    changes = largest_changes(whole, find_bonds(whole.first(1)))
    assert changes == pytest.approx([0.0, 0.1, 0.2])


def test_several_trajectories_have_a_mean(folder, tmp_path):
    names = [folder / "waters.extxyz", folder / "waters.traj"]
    rows = analysed(tmp_path, *names)["rollouts"]
    assert [row["trajectory"] for row in rows] == [*map(str, names), "mean of 2"]
    assert rows[-1]["frames"] == "40 +- 0"


def test_results_are_not_replaced_unasked(folder, tmp_path):
    analysed(tmp_path, folder / "waters.traj")
    with pytest.raises(ValueError, match="--overwrite"):
        analysed(tmp_path, folder / "waters.traj")
    analysed(tmp_path, folder / "waters.traj", "--overwrite")


def test_what_cannot_be_analysed_is_one_line(folder, tmp_path):
    write(tmp_path / "two.xyz", [Atoms("CO", [[0, 0, 0], [0, 0, 1]]), Atoms("C", [[0, 0, 0]])])
    (tmp_path / "bad.traj").write_bytes(b"no trajectory")
    np.savez(tmp_path / "no.npz", R=np.zeros((2, 1, 3)))
    cases = {
        "does not exist": [tmp_path / "absent.traj"],
        "frame 1 has other atoms": [tmp_path / "two.xyz"],
        "cannot be read": [tmp_path / "bad.traj"],
        "has no numbers": [tmp_path / "no.npz"],
        "has other atoms than": [folder / "waters.traj", "--gt-traj", SAMPLE],
        "no trajectory was given": [],
    }
    for words, arguments in cases.items():
        with pytest.raises((ValueError, OSError), match=words) as caught:
            analysed(tmp_path / "out", *arguments)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [0, 119, 6.5, 2**62])
def test_frames_of_no_element_are_refused(number, tmp_path):
    np.savez(tmp_path / "odd.npz", z=np.array([number, 1]), R=np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="odd.npz: atomic numbers must be whole numbers in 1"):
        read_frames(tmp_path / "odd.npz")
