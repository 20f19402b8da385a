"""Laws of molecular dynamics: energy stays, a resumed run is the uninterrupted one bit for bit, and
nothing is lost or doubled.
"""

import json
import os
import signal

import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms, FixBondLength, FixConstraint
from ase.io import write

from farfield.common import plugins
from farfield.common.session import Interrupted
from farfield.dataloader import moving_structure
from farfield.models.compiled import compiled_potential
from farfield.simulate import dynamics, md_results, run_md
from farfield.simulate.calculator import FarfieldCalculator
from farfield.simulate.further_content import further_content
from farfield.simulate.md_results import summarise
from farfield.simulate.velocities import draw_velocities
from tests.support.traced_program import make_traced


def run(folder, potential, *arguments):
    """Results of a run in ``folder``; None if it was paused."""
    options = [
        "--run-dir",
        str(folder),
        "--checkpoint",
        str(potential),
        "--no-progress",
        "--record-every",
        "5",
        *arguments,
    ]
    run_md.main(options)
    results = folder / "results.json"
    return json.loads(results.read_text()) if results.exists() else None


def content(folder):
    """Log, trajectory and the arrays of the state of a run."""
    state = dynamics.read_state(folder / dynamics.STATE)
    arrays = {name: value.tolist() for name, value in state.items() if name != "cpu_seconds"}
    return (folder / dynamics.LOG).read_bytes(), (folder / dynamics.TRAJECTORY).read_bytes(), arrays


def test_the_error_of_the_energy_falls_with_the_square_of_the_time_step(potential, tmp_path):
    spread = []
    for steps, timestep in ((25, 0.4), (50, 0.2)):
        folder = tmp_path / f"{steps}"
        options = [
            "--steps",
            str(steps),
            "--timestep",
            str(timestep),
            "--dtype",
            "float64",
            "--index",
            "1",
        ]
        run(folder, potential, *options, "--record-every", str(steps // 25))
        total = dynamics.read_log(folder)["total_eV"]
        spread.append(np.abs(total - total[0]).max())
    assert spread[0] > 1e-10 and spread[0] / spread[1] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("ensemble", dynamics.ENSEMBLES)
def test_a_resumed_run_is_the_uninterrupted_one(potential, tmp_path, ensemble):
    options = ["--ensemble", ensemble, "--steps", "20", "--temperature", "200"]
    whole = run(tmp_path / "whole", potential, *options)
    assert whole["steps"] == 20 and whole["time"] == 0.01
    assert (
        run(
            tmp_path / "parts",
            potential,
            *options,
            "--pause-after",
            "8",
            "--checkpoint-every",
            "3",
        )
        is None
    )
    for name in (
        dynamics.LOG,
        dynamics.TRAJECTORY,
    ):  # frames that a killed session wrote after its last state
        with open(tmp_path / "parts" / name, "a", encoding="utf-8") as file:
            file.write("half a fra")
    run_md.main(["--run-dir", str(tmp_path / "parts"), "--resume"])
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert (
        run(tmp_path / "longer", potential, *options[:2], "--steps", "7", "--temperature", "200")[
            "steps"
        ]
        == 7
    )
    run_md.main(
        ["--run-dir", str(tmp_path / "longer"), "--resume", "--steps", "20", "--no-progress"]
    )
    assert content(tmp_path / "longer") == content(tmp_path / "whole")


OWN_ENSEMBLE = """
from farfield.simulate.dynamics import ENSEMBLES, Ensemble, nve

ENSEMBLES.register("mine")(Ensemble(nve, conserves_energy=True))
"""


def test_constraints_and_what_else_a_structure_holds_stay(potential, molecule, tmp_path):
    """Of a resumed run: an atom that is fixed, a bond that is held, charges and a number."""
    molecule.set_constraint([FixAtoms([0]), FixBondLength(1, 2)])
    molecule.set_initial_charges([0.1 + 0.2, 0, 0, 0, -1.0])
    molecule.info = {"batch": 7, "words": "kept"}
    write(tmp_path / "fixed.traj", molecule)
    options = ["--structure", str(tmp_path / "fixed.traj"), "--steps", "20", "--temperature", "50"]
    run(tmp_path / "whole", potential, *options)
    run(tmp_path / "parts", potential, *options, "--pause-after", "8")
    run_md.main(["--run-dir", str(tmp_path / "parts"), "--resume", "--no-progress"])
    assert content(tmp_path / "parts") == content(tmp_path / "whole")

    # the potential moves what is not fixed
    first, *_, last = ase.io.read(tmp_path / "parts" / dynamics.TRAJECTORY, ":")
    moved = np.abs(last.positions - first.positions).max(1)
    assert moved[0] == 0 and moved[3:].min() > 1e-4
    assert last.get_distance(1, 2) == pytest.approx(first.get_distance(1, 2), abs=1e-6)

    state = dynamics.read_state(tmp_path / "parts" / dynamics.STATE)
    kept = dynamics.atoms_of_state(state)
    np.testing.assert_array_equal(kept.get_initial_charges(), molecule.get_initial_charges())
    assert kept.info == {"batch": 7, "words": "kept"}
    assert [type(one).__name__ for one in kept.constraints] == ["FixAtoms", "FixBondLengths"]


def test_a_constraint_that_cannot_be_kept_is_refused(molecule):
    class Own(FixConstraint):
        """Has no todict."""

    molecule.info = {"number": 1, "object": object()}
    assert "number" in further_content(molecule) and "object" not in further_content(molecule)
    molecule.set_constraint(Own())
    with pytest.raises(ValueError, match="a constraint Own, which cannot be kept for --resume"):
        further_content(molecule)


def test_an_ensemble_of_a_users_file_runs_and_resumes(potential, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamics.ENSEMBLES, "_entries", dict(dynamics.ENSEMBLES))
    monkeypatch.setattr(plugins, "_IMPORTED", {})
    file = tmp_path / "my_ensemble.py"
    file.write_text(OWN_ENSEMBLE, encoding="utf-8")
    folder, own = tmp_path / "own", ["--import", str(file)]

    run(tmp_path / "nve", potential, "--ensemble", "nve", "--steps", "6")
    run(folder, potential, *own, "--ensemble", "mine", "--steps", "6", "--pause-after", "3")
    run_md.main([*own, "--run-dir", str(folder), "--resume", "--no-progress"])
    assert content(folder) == content(tmp_path / "nve")


def test_a_signal_leaves_a_state_and_says_how_to_go_on(potential, tmp_path, monkeypatch):
    options = ["--steps", "15", "--checkpoint-every", "1000"]
    run(tmp_path / "whole", potential, *options)
    check = dynamics.Simulation._check

    def interrupted(self, row):
        if self.step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        check(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(dynamics.Simulation, "_check", interrupted)
        with pytest.raises(
            Interrupted,
            match=r"SIGINT: saved .*state.npz at step 6; continue with: .*run_md --run-dir .* "
            r"--resume",
        ):
            run(tmp_path / "parts", potential, *options)
    run_md.main(["--run-dir", str(tmp_path / "parts"), "--resume"])
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_the_record_is_what_the_potential_says(potential, tmp_path, plots):
    run(tmp_path / "md", potential, "--steps", "20", "--dtype", "float64")
    log, frames = (
        dynamics.read_log(tmp_path / "md"),
        ase.io.read(tmp_path / "md" / dynamics.TRAJECTORY, index=":"),
    )
    assert log["step"].tolist() == [0, 5, 10, 15, 20] == [frame.info["step"] for frame in frames]
    calculator = FarfieldCalculator(potential, dtype="float64")
    for frame, energy, kinetic in zip(frames, log["potential_eV"], log["kinetic_eV"], strict=True):
        assert (
            frame.get_potential_energy()
            == pytest.approx(energy)
            == pytest.approx(calculator.get_potential_energy(frame), abs=1e-6)
        )
        np.testing.assert_allclose(frame.get_forces(), calculator.get_forces(frame), atol=1e-5)
        assert frame.get_kinetic_energy() == pytest.approx(kinetic, rel=1e-5)
    assert (tmp_path / "md" / "plots" / "energies.png").stat().st_size > 1000


def test_velocities_of_the_start(potential, molecule, tmp_path):
    draw_velocities(molecule, 250.0, np.random.default_rng(0))
    assert molecule.get_temperature() == pytest.approx(250 * 9 / 15, rel=1e-12)
    assert (
        np.abs(molecule.get_momenta().sum(0)).max() < 1e-12
        and np.abs(molecule.get_angular_momentum()).max() < 1e-10
    )
    write(tmp_path / "start.xyz", molecule, format="extxyz")
    start = ["--structure", str(tmp_path / "start.xyz"), "--temperature", "none", "--steps", "1"]
    run(tmp_path / "kept", potential, *start)
    assert dynamics.read_log(tmp_path / "kept")["temperature_K"][0] == pytest.approx(250, rel=1e-5)
    with pytest.raises(
        ValueError, match="langevin needs a temperature; give --temperature in K, or --ensemble nve"
    ):
        run(tmp_path / "bath", potential, *start, "--ensemble", "langevin")


def test_a_log_with_all_degrees_of_freedom_goes_on_with_them(potential, tmp_path, monkeypatch):
    """Runs of earlier versions counted 3 N in every ensemble."""
    with monkeypatch.context() as patch:
        patch.setattr(dynamics, "degrees_of_freedom", lambda atoms: 3 * len(atoms))
        run(tmp_path / "whole", potential, "--steps", "10")
        run(tmp_path / "parts", potential, "--steps", "10", "--pause-after", "5")
    run_md.main(["--run-dir", str(tmp_path / "parts"), "--resume", "--no-progress"])
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_a_bath_counts_every_degree_of_freedom(potential, tmp_path):
    run(tmp_path / "md", potential, "--ensemble", "langevin", "--steps", "5")
    log = dynamics.read_log(tmp_path / "md")
    for frame, expected in zip(
        ase.io.read(tmp_path / "md" / dynamics.TRAJECTORY, index=":"),
        log["temperature_K"],
        strict=True,
    ):
        assert frame.get_temperature() == pytest.approx(expected, rel=1e-5)


def test_a_start_without_velocities_is_named(potential, molecule, tmp_path, capsys):
    write(tmp_path / "start.xyz", molecule, format="extxyz")
    start = ["--structure", str(tmp_path / "start.xyz"), "--steps", "1"]
    note = "note: the structure has no velocities, the run starts at 0 K"
    run(tmp_path / "still", potential, *start, "--temperature", "none")
    assert note in capsys.readouterr().out
    run(tmp_path / "drawn", potential, *start)
    assert note not in capsys.readouterr().out


def test_a_run_needs_a_potential(tmp_path):
    with pytest.raises(ValueError, match="no potential was given; give --checkpoint FILE"):
        run_md.main(["--run-dir", str(tmp_path / "md")])
    assert not (tmp_path / "md").exists()


@pytest.mark.parametrize(("picoseconds", "frames"), [(0.05, 20), (0.2, 2), (0.2, 20)])
def test_the_drift_is_the_slope_of_a_run_that_is_long_enough(picoseconds, frames):
    time = np.linspace(0, picoseconds, frames)
    log = dict.fromkeys(dynamics.COLUMNS, np.ones(frames))
    log |= {"time_fs": 1000 * time, "total_eV": 0.5 + 0.009 * time}
    drift = summarise(log, atoms=3)["drift"]
    known = picoseconds >= 0.1 and frames > 2
    assert drift == pytest.approx(3.0, rel=1e-9) if known else np.isnan(drift)


def test_the_total_energy_has_a_panel_of_its_own(plots):
    log = dict.fromkeys(dynamics.COLUMNS, np.zeros(2)) | {"total_eV": np.array([1.0, 1.004])}
    total = md_results.draw_energies(log, atoms=4).axes[1]
    assert total.get_ylabel().endswith("(meV/atom)")
    assert total.lines[0].get_ydata() == pytest.approx([0, 1.0])


def test_a_crystal_moves_too(potential, crystal, tmp_path):
    write(tmp_path / "start.xyz", crystal, format="extxyz")
    results = run(
        tmp_path / "md", potential, "--structure", str(tmp_path / "start.xyz"), "--steps", "10"
    )
    assert results["steps"] == 10
    last = ase.io.read(tmp_path / "md" / dynamics.TRAJECTORY, index=-1)
    assert last.pbc.all() and np.allclose(last.cell, crystal.cell)


def test_a_structure_that_flies_apart_ends_the_run(potential, tmp_path):
    options = [
        "--ensemble",
        "langevin",
        "--steps",
        "1000",
        "--timestep",
        "10",
        "--temperature",
        "900",
        "--max-temperature",
        "1000",
    ]
    with pytest.raises(
        ValueError,
        match=r"step \d+: .* K is beyond --max-temperature 1000 K, the structure flies apart; "
        r"give a shorter",
    ):
        run(tmp_path / "md", potential, *options)
    assert dynamics.read_state(tmp_path / "md" / dynamics.STATE)["step"] == 0


BAD = [
    (["--index", "4"], r"--index must be in -4 .. 3, the test split of .*, got 4"),
    (["--structure", "none.xyz"], "--structure none.xyz does not exist"),
    (["--timestep", "0"], "--timestep: must be > 0, got 0.0"),
    (["--steps", "0"], "--steps: must be >= 1, got 0"),
    (["--ensemble", "nvt"], "--ensemble: must be one of nve, langevin, got 'nvt'"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input_is_refused_before_anything_is_written(potential, tmp_path, options, message):
    with pytest.raises((ValueError, OSError), match=message):
        run(tmp_path / "md", potential, *options)
    assert not (tmp_path / "md").exists()


def test_files_that_are_no_structures_are_refused(potential, tmp_path):
    file = tmp_path / "bad.xyz"
    file.write_text("no structure")
    with pytest.raises(ValueError, match="bad.xyz cannot be read .*; give a file that ASE reads"):
        run(tmp_path / "md", potential, "--structure", str(file))


def test_damaged_and_foreign_runs_are_not_continued(potential, trained, tmp_path):
    folder = tmp_path / "md"
    run(folder, potential, "--steps", "10")
    again = ["--run-dir", str(folder), "--resume", "--steps", "20", "--no-progress"]
    with pytest.raises(ValueError, match="already holds a run"):
        run(folder, potential, "--steps", "10")
    with pytest.raises(ValueError, match="dynamics.temperature is 300.0 there and 5.0 here"):
        run_md.main([*again, "--temperature", "5"])
    with pytest.raises(
        ValueError, match="--steps 9: the run has done 10 already; give as many or more"
    ):
        run_md.main([*again, "--steps", "9"])
    with pytest.raises(
        ValueError, match="made with another potential; give the --checkpoint of its start"
    ):
        run_md.main([*again, "--checkpoint", str(trained("--seed", "3", "--epochs", "1"))])
    os.truncate(folder / dynamics.LOG, 30)
    with pytest.raises(ValueError, match="log.csv has 30 bytes, state.npz counts on"):
        run_md.main(again)
    os.truncate(folder / dynamics.STATE, 100)
    with pytest.raises(
        ValueError, match="state.npz is damaged or not an npz file .*start again with --overwrite"
    ):
        run_md.main(again)
    assert run(folder, potential, "--steps", "10", "--overwrite")["steps"] == 10


def test_direct_forces_are_named(trained, tmp_path, capsys):
    run(tmp_path / "md", trained("--forces", "direct", "--epochs", "1"), "--steps", "2")
    assert "note: the forces of this potential are direct" in capsys.readouterr().out


def test_a_compiled_run_resumes_as_a_compiled_run(potential, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiled_potential, "make_program", make_traced)
    options = ["--steps", "12", "--temperature", "200"]
    run(tmp_path / "whole", potential, *options, "--compile", "on")
    assert "compiled potential:" in capsys.readouterr().out
    run(tmp_path / "parts", potential, *options, "--compile", "on", "--pause-after", "5")
    run_md.main(["--run-dir", str(tmp_path / "parts"), "--resume", "--compile", "off"])
    assert content(tmp_path / "parts") == content(tmp_path / "whole")

    # a short run does not compile; on some processors even its last digits are the same
    run(tmp_path / "plain", potential, *options)
    compiled = [content(tmp_path / name)[2]["compiled"] for name in ("whole", "plain")]
    assert compiled == [True, False]
    totals = [dynamics.read_log(tmp_path / name)["total_eV"] for name in ("plain", "whole")]
    np.testing.assert_allclose(*totals, atol=1e-4)


def test_pairs_are_searched_rarely(potential, tmp_path, monkeypatch):
    searches = []
    search = moving_structure.find_neighbors
    monkeypatch.setattr(
        moving_structure, "find_neighbors", lambda *given: searches.append(1) or search(*given)
    )
    run(tmp_path / "run", potential, "--steps", "20", "--compile", "off")
    assert 1 <= len(searches) < 10


@pytest.mark.parametrize("mass", [0.0, -1.0, np.nan])
def test_a_mass_that_cannot_move_is_named(potential, molecule, tmp_path, mass):
    molecule.set_masses([12, 1, mass, 1, 12])
    write(tmp_path / "masses.traj", molecule)
    structure = ["--structure", str(tmp_path / "masses.traj"), "--steps", "2"]
    with pytest.raises(ValueError, match=rf"atom 2 has the mass {mass:g} u, .* must be > 0"):
        run(tmp_path / "run", potential, *structure, "--temperature", "100")
    assert not (tmp_path / "run").exists()
