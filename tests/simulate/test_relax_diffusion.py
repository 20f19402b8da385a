"""Laws of relaxation by diffusion: a network that knows the molecules finds them, in their order
and place; a run that was interrupted goes on to the same file; bad input is one line.
"""

import json
import os
import signal
import sys
import time

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from farfield.common import checkpoint
from farfield.common.session import Interrupted
from farfield.dataloader.chemistry.bond_rules import BOND_RULES
from farfield.dataloader.structures import Structures
from farfield.simulate import relax_diffusion
from farfield.simulate.molecule_files import atoms_of
from farfield.simulate.molecule_noise import MoleculeNoise, displaced
from farfield.simulate.reference_relaxation import RELAXATIONS, RelaxedMolecules
from farfield.simulate.trained_sampler import SampleSettings, TrainedSampler
from tests.support.diffusion_runs import knowing_sampler, numbered
from tests.support.processes import Script
from tests.support.qm9_data import molecules

FILES = ("CH4", "H2O", "CH3OH", "C2H6")


@pytest.fixture
def known():
    return numbered(molecules(FILES))


@pytest.fixture
def start(tmp_path):
    """A file of displaced molecules."""
    structures = displaced(molecules(FILES), 0.2, seed=1)
    write(tmp_path / "start.xyz", atoms_of(structures), format="extxyz")
    return tmp_path / "start.xyz"


def arguments(checkpoint, start, out, *more):
    batches = ["--batch-size", "2", "--no-progress", "--max-steps", "12"]
    return [str(checkpoint), str(start), "--out", str(out), *batches, *more]


def relax(checkpoint, start, out, *more):
    """Rows and bytes of a run."""
    return relax_diffusion.relax(arguments(checkpoint, start, out, *more)), out.read_bytes()


# ---- what it finds


def test_a_network_that_knows_the_molecules_finds_them(
    diffusions, known, start, tmp_path, monkeypatch
):
    """Also far from the origin, and with the reference in the table and in the file."""
    frames = ase.io.read(start, ":")
    for number, frame in enumerate(frames):
        frame.info["number"] = float(number)
        frame.positions += 1e4 * number
    write(start, frames, format="extxyz")
    write(tmp_path / "known.xyz", atoms_of(known), format="extxyz")
    sampler = knowing_sampler(diffusions["joint"], known)
    monkeypatch.setattr(relax_diffusion, "open_sampler", lambda options: sampler)

    reference = ["--reference", str(tmp_path / "known.xyz"), "--max-steps", "30"]
    (before, after), _ = relax(diffusions["joint"], start, tmp_path / "out.xyz", *reference)
    assert before["row"] == "start" and before["rmsd_mean"] > 0.1
    assert after["row"] == "relaxed" and after["rmsd_mean"] < 1e-3
    assert after["topology_kept"] == after["converged"] == 1.0
    assert after["steps_mean"] == 13, "from t = 12 down to 0"

    for given, found in zip(frames, ase.io.read(tmp_path / "out.xyz", ":"), strict=True):
        assert found.numbers.tolist() == given.numbers.tolist()
        np.testing.assert_allclose(found.positions.mean(0), given.positions.mean(0), atol=1e-6)
        assert found.info["converged"] and found.info["steps"] == 13
        assert found.info["rmsd_to_reference"] < 1e-3 < 0.05 < found.info["rmsd_to_start"]


def test_a_known_time_shrinks_the_start_as_the_process_does(diffusions, known):
    """Displaced molecules have their size; those of the process at t are sqrt(abar_t) of it."""
    sampler = TrainedSampler.open(diffusions["noise"], "ddpm", variance="zero")
    process, given = sampler.sampler.process, displaced(known, 0.2, seed=1)
    found = sampler.relax(given, SampleSettings(start=8, max_steps=1, keep_every=1))
    for place, frames in enumerate(found.frames):
        rows = slice(*given.offsets[place : place + 2])
        size = np.ptp(frames[0], 0) / np.ptp(given.positions[rows], 0)
        np.testing.assert_allclose(size, float(process.alpha_bar[8].sqrt()), rtol=1e-5)


def test_variance_and_patience_decide_the_end(diffusions, start, tmp_path, capsys):
    """Without fresh noise the seed does not matter, and short trainings come to an end as well."""
    ends = []
    for name, more in {"a": ["--seed", "1"], "b": [], "draws": ["--variance", "lower"]}.items():
        relax(diffusions["joint"], start, tmp_path / f"{name}.xyz", "--patience", "2", *more)
        frames = ase.io.read(tmp_path / f"{name}.xyz", ":")
        ends.append(np.concatenate([frame.positions for frame in frames]))
        assert "or after 2 guesses that were no new least" in capsys.readouterr().out
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[2] - ends[1]).max() > 1e-3


def test_the_way_of_a_molecule_leads_from_start_to_end(diffusions, known, start):
    sampler = knowing_sampler(diffusions["joint"], known)
    given = numbered(displaced(known, 0.2, seed=1))
    found = sampler.relax(given, SampleSettings(max_steps=30, keep_every=5))
    for place, (frames, steps) in enumerate(zip(found.frames, found.frame_steps, strict=True)):
        rows = slice(*given.offsets[place : place + 2])
        assert steps.tolist() == [0, 5, 10, 13]
        np.testing.assert_allclose(frames[0], given.positions[rows], atol=1e-12)
        np.testing.assert_array_equal(frames[-1], found.structures.positions[rows])


def test_a_split_is_displaced_and_compared(diffusions, data, tmp_path):
    options = ["--split-of", str(data), "--number", "3", "--noise", "0.3", "--max-steps", "3"]
    files = ["--out", str(tmp_path / "out.xyz"), "--json", str(tmp_path / "out.json")]
    rows = relax_diffusion.relax([str(diffusions["joint"]), *options, *files, "--no-progress"])
    # spread of the noise of n atoms less shift and rotation: below 0.3 sqrt(3), above a third of it
    assert 0.1 < rows[0]["rmsd_mean"] < 0.52
    assert rows[1]["steps_mean"] <= 3
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["rows"][1]["rmsd_mean"] == rows[1]["rmsd_mean"]
    assert kept["settings"]["sampler"] == "jt"


def test_batches_change_nothing(diffusions, start, tmp_path):
    found = []
    for size in ("1", "3"):
        out = tmp_path / f"{size}.xyz"
        relax(diffusions["joint"], start, out, "--batch-size", size, "--dtype", "float64")
        found.append(np.concatenate([one.positions for one in ase.io.read(out, ":")]))
    np.testing.assert_allclose(*found, atol=1e-6)


@pytest.mark.parametrize(
    "network, options",
    [
        ("joint", []),
        ("noise", ["--sampler", "ddpm", "--start", "8"]),
        ("noise", ["--sampler", "as", "--time-checkpoint", "time"]),
        ("noise", ["--time-checkpoint", "time"]),
        ("noise", ["--sampler", "itp", "--time-checkpoint", "time"]),
    ],
)
def test_every_sampler_relaxes(diffusions, start, tmp_path, network, options):
    options = [str(diffusions.get(word, word)) for word in options]
    rows, _ = relax(diffusions[network], start, tmp_path / "out.xyz", *options)
    assert 1 <= rows[1]["steps_mean"] <= 12
    if "ddpm" in options:
        assert rows[1]["steps_mean"] == 9 and rows[1]["converged"] == 1.0


# ---- interruptions


def test_an_interrupted_run_goes_on_to_the_same_file(diffusions, start, tmp_path, monkeypatch):
    rows, whole = relax(diffusions["joint"], start, tmp_path / "whole.xyz")
    draw, calls = MoleculeNoise.__call__, []

    def interrupting(self):
        calls.append(1)
        if len(calls) == 16:  # in the second batch
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self)

    out = tmp_path / "parts.xyz"
    with monkeypatch.context() as patch:
        patch.setattr(MoleculeNoise, "__call__", interrupting)
        message = r"SIGINT: 2 of 4 molecules are finished; continue with: .*parts.xyz .*--resume$"
        with pytest.raises(Interrupted, match=message):
            relax_diffusion.main(arguments(diffusions["joint"], start, out))
    assert not out.exists()

    # only what is missing is made
    del calls[:]
    monkeypatch.setattr(MoleculeNoise, "__call__", lambda self: calls.append(1) or draw(self))
    resumed, parts = relax(diffusions["joint"], start, out, "--resume")
    assert parts == whole and resumed == rows and 0 < len(calls) <= 13
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_killed_run_goes_on_to_the_same_file(diffusions, start, tmp_path):
    frames = ase.io.read(start, ":") * 6
    write(start, frames, format="extxyz")
    _, whole = relax(diffusions["joint"], start, tmp_path / "whole.xyz", "--threads", "1")
    out = tmp_path / "parts.xyz"
    script = Script("-m", "simulate.relax_diffusion", *arguments(diffusions["joint"], start, out))
    first = tmp_path / "parts.xyz.unfinished" / "batch_00000.part"
    deadline = time.monotonic() + 60
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    script.send_signal(signal.SIGKILL)
    assert script.wait().returncode == -signal.SIGKILL, "the kill came too late to test anything"

    assert not out.exists()
    assert relax(diffusions["joint"], start, out, "--resume")[1] == whole


def test_a_resumed_run_must_be_the_run_that_began(diffusions, start, tmp_path, monkeypatch):
    out = tmp_path / "out.xyz"
    with monkeypatch.context() as patch:
        patch.setattr(relax_diffusion, "relaxation_rows", interrupt)
        with pytest.raises(Interrupted, match="continue with"):
            relax_diffusion.main(arguments(diffusions["joint"], start, out))
    with pytest.raises(ValueError, match="cannot resume .*out.xyz: seed is 0 there and 5 here"):
        relax(diffusions["joint"], start, out, "--resume", "--seed", "5")
    with pytest.raises(ValueError, match="holds a run that is not finished; add --resume"):
        relax(diffusions["joint"], start, tmp_path / "out.xyz")
    write(start, ase.io.read(start, ":")[::-1], format="extxyz")
    with pytest.raises(ValueError, match="cannot resume .*: molecules is '.* there"):
        relax(diffusions["joint"], start, out, "--resume")
    relax(diffusions["joint"], start, out, "--overwrite")

    # a finished one
    for more, message in (([], "exists; give another"), (["--resume"], "is finished; give")):
        with pytest.raises(ValueError, match=f"--out .*out.xyz {message}"):
            relax(diffusions["joint"], start, out, *more)


def interrupt(*arguments):
    raise KeyboardInterrupt


# ---- bad input


@pytest.mark.parametrize(
    "atoms, message",
    [
        (Atoms("CNe", [[0, 0, 0], [0, 0, 1.1]]), r"structure 1: unknown element Ne \(Z = 10\)"),
        (Atoms("CO", [[0, 0, 0], [0, 0, 1]], cell=[9] * 3, pbc=True), "structure 1 is periodic"),
        (Atoms("CO", [[0, 0, 0], [0, 0, np.nan]]), "positions and cell of structure 1 must be fin"),
    ],
)
def test_molecules_that_cannot_be_sampled_are_refused(diffusions, tmp_path, atoms, message):
    write(tmp_path / "bad.xyz", [Atoms("C"), atoms], format="extxyz")
    refused(message, diffusions["joint"], tmp_path / "bad.xyz", tmp_path)


def test_a_molecule_that_the_network_cannot_take_is_refused(diffusions, known):
    sampler = knowing_sampler(diffusions["joint"], known, max_atoms=6)
    with pytest.raises(ValueError, match="structure 3 has 8 atoms, the network takes at most 6"):
        sampler.check(known)


@pytest.mark.parametrize(
    "network, more, message",
    [
        ("time", [], "predicts time, sampler jt needs noise of it; give a run of train_diffusion"),
        ("noise", [], "sampler ddpm guesses no time; give --start T, .* in 0 .. 29"),
        ("noise", ["--start", "30"], "--start must be in 0 .. 29"),
        ("joint", ["--start", "3"], "sampler jt guesses the time itself; leave --start out"),
        ("noise", ["--sampler", "jt"], "predicts noise, sampler jt needs time of it; .*joint"),
        ("noise", ["--sampler", "as"], "asks a time network; give --time-checkpoint FILE"),
        ("joint", ["--sampler", "js"], "must be one of ddpm, itp, as, jt, got 'js'"),
        (
            "noise",
            ["--time-checkpoint", "other_time"],
            "--time-checkpoint .*: the time network was trained with time_steps 40, the noise",
        ),
        (
            "noise",
            ["--time-checkpoint", "noise"],
            "predicts noise, sampler as needs time of it; give a run .* --objective time",
        ),
        (
            "joint",
            ["--sampler", "jt", "--time-checkpoint", "time"],
            "sampler jt asks no time network; leave --time-checkpoint out",
        ),
        ("joint", ["--split-of", "data"], "give either a file of STRUCTURES or --split-of"),
        ("joint", ["--number", "4"], "--number chooses molecules of --split-of, a file of STRUCT"),
        ("joint", ["--split", "val"], "--split chooses molecules of --split-of"),
        ("joint", ["--noise", "0.3", "--reference", "x.xyz"], "leave --noise or --reference out"),
        ("joint", ["--noise", "0"], "--noise: must be > 0"),
        ("joint", ["--reference", "/no.xyz"], "--reference /no.xyz does not exist"),
        ("joint", ["--compare", "mmff"], "--compare must be one of gfn2, mmff94, got 'mmff'"),
        ("joint", ["--out", "out.cif"], "give a name that ends in .xyz or .extxyz"),
        ("joint", ["--out", "/nowhere/a.xyz"], "--out /nowhere/a.xyz: give a file in a folder"),
        ("joint", ["--json", "/nowhere/a.json"], "--json /nowhere/a.json: give a file in a folder"),
        ("joint", ["--resume", "--overwrite"], "--resume continues .*give one of them"),
        ("joint", ["--device", "tpu9"], "--device tpu9: not usable here"),
    ],
)
def test_options_that_do_not_fit_are_one_line(diffusions, start, tmp_path, network, more, message):
    more = [str(diffusions.get(word, word)) for word in more]
    refused(message, diffusions[network], start, tmp_path, *more)


def refused(message, checkpoint, start, folder, *more):
    """The run is refused in one line, before anything is written."""
    before = sorted(folder.iterdir())
    with pytest.raises((ValueError, OSError), match=message) as error:
        relax(checkpoint, start, folder / "out.xyz", *more)
    assert "\n" not in str(error.value) and sorted(folder.iterdir()) == before


def test_a_checkpoint_of_another_task_is_refused(potential, diffusions, start, tmp_path):
    message = "which predicts potential; give the checkpoint of a diffusion"
    refused(message, potential, start, tmp_path)
    more = ["--time-checkpoint", str(potential)]
    refused(message, diffusions["noise"], start, tmp_path, *more)


def test_a_reference_has_the_same_atoms(diffusions, start, tmp_path):
    write(tmp_path / "known.xyz", ase.io.read(start, ":")[::-1], format="extxyz")
    more = ["--reference", str(tmp_path / "known.xyz")]
    refused(
        "structure 0 and its reference have different", diffusions["joint"], start, tmp_path, *more
    )


def test_elements_are_known_without_the_training_data(diffusions, start, tmp_path, monkeypatch):
    def missing(folder, split):
        raise FileNotFoundError(f"{folder} has gone")

    monkeypatch.setattr("farfield.simulate.trained_sampler.open_structures", missing)
    write(tmp_path / "bad.xyz", [Atoms("C"), Atoms("ONe", [[0, 0, 0], [0, 0, 2]])])
    words = r"structure 1: unknown element Ne \(Z = 10\); this model was trained on H, C, O"
    refused(words, diffusions["joint"], tmp_path / "bad.xyz", tmp_path)
    relax(diffusions["joint"], start, tmp_path / "out.xyz", "--max-steps", "1")

    # both networks of a sampler must know an element
    content = checkpoint.read_run(diffusions["time"])
    assert content["elements"] == [1, 6, 8]
    checkpoint.save_checkpoint(tmp_path / "time.pt", content | {"elements": [6, 8]})
    more = ["--time-checkpoint", str(tmp_path / "time.pt")]
    write(tmp_path / "bad.xyz", [Atoms("C"), Atoms("OH", [[0, 0, 0], [0, 0, 1]])])
    words = r"structure 1: unknown element H \(Z = 1\); this model was trained on C, O"
    refused(words, diffusions["noise"], tmp_path / "bad.xyz", tmp_path, *more)


def test_elements_of_earlier_checkpoints_are_those_of_the_training_data(
    diffusions, start, tmp_path, monkeypatch, capsys
):
    content = checkpoint.read_run(diffusions["joint"])
    del content["elements"]
    checkpoint.save_checkpoint(tmp_path / "early.pt", content)
    write(tmp_path / "bad.xyz", [Atoms("Ne")])
    refused(r"unknown element Ne \(Z = 10\)", tmp_path / "early.pt", tmp_path / "bad.xyz", tmp_path)

    def missing(folder, split):
        raise FileNotFoundError(f"{folder} has gone")

    monkeypatch.setattr("farfield.simulate.trained_sampler.open_structures", missing)
    relax(tmp_path / "early.pt", start, tmp_path / "out.xyz", "--max-steps", "1")
    note = "note: elements are not checked, since the checkpoint does not say them and the training"
    assert note in capsys.readouterr().out


# ---- other methods


def test_other_methods_get_a_row(diffusions, start, tmp_path, monkeypatch):
    """Of four molecules one fails, and stays where it was."""

    def method(structures, bonds, options, progress):
        assert bonds.table.counts.tolist() == BOND_RULES["perceived"](known).table.counts.tolist()
        energies = np.array([1.0, np.nan, 1.0, 1.0])
        done = np.array([True, False, True, False])
        positions = known.positions.copy()
        positions[5:8] = structures.positions[5:8]
        moved = Structures(known.atomic_numbers, positions, known.counts)
        return RelaxedMolecules(moved, energies, energies, done, np.zeros(4, int))

    known = molecules(FILES)
    write(tmp_path / "known.xyz", atoms_of(known), format="extxyz")
    monkeypatch.setattr(RELAXATIONS, "_entries", {**RELAXATIONS, "mine": method})
    more = ["--compare", "mine", "--reference", str(tmp_path / "known.xyz")]
    rows, _ = relax(diffusions["joint"], start, tmp_path / "out.xyz", *more)
    assert [row["row"] for row in rows] == ["start", "relaxed", "mine"]
    assert rows[2]["failed"] == 0.25 and rows[2]["converged"] == 0.5
    assert rows[2]["rmsd_median"] < 1e-6 < 0.01 < rows[2]["rmsd_mean"]


@pytest.mark.parametrize("method, library", [("gfn2", "tblite"), ("mmff94", "rdkit")])
def test_a_missing_library_is_named_first(
    diffusions, start, tmp_path, monkeypatch, method, library
):
    for name in (library, f"{library}.ase"):
        monkeypatch.setitem(sys.modules, name, None)
    message = f"is missing; type: pip install {library}"
    refused(message, diffusions["joint"], start, tmp_path, "--compare", method)
