"""Laws of predictions: the same in a batch, alone, in any order, and from the calculator; files
get them too, and errors where they have labels.
"""

import json
import re
import time

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

import farfield
from farfield.common import checkpoint
from farfield.models.compiled import compiled_potential
from farfield.simulate.calculator import FarfieldCalculator
from farfield.train import evaluate, train_md17
from farfield.train.file_predictions import find_labels, timed_predictions
from farfield.train.prediction import load
from tests.support.md_data import SMALL, make_data
from tests.support.traced_program import make_traced


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    data = make_data(tmp_path_factory.mktemp("data") / "set")
    folder = tmp_path_factory.mktemp("run")
    options = ["--run-dir", str(folder), "--data-path", str(data), *SMALL]
    train_md17.main([*options, "--far-expansion", "auto", "--epochs", "2"])
    return folder / checkpoint.BEST


@pytest.fixture
def structures():
    rng = np.random.default_rng(0)
    cell = 9.5 * np.eye(3)
    made = []
    for size in (5, 3, 7, 4, 2):
        places = rng.uniform(0, 4, (size, 3))
        made.append(Atoms(rng.choice([1, 6, 8], size), places))
        made.append(Atoms(rng.choice([1, 6, 8], size), places, cell=cell, pbc=True))
    return made


def test_a_compiled_potential_predicts_the_same(
    potential, structures, tmp_path, monkeypatch, capsys
):
    programs = []

    def made(network, batch):
        programs.append(batch.graph.sizes[0])
        return make_traced(network, batch)

    monkeypatch.setattr(compiled_potential, "make_program", made)
    twice = [one for one in structures if not one.pbc.any()] * 2
    results = load(potential, compile="on").predict(twice)
    expected = load(potential).predict(twice)
    for result, plain in zip(results, expected, strict=True):
        assert result["energy"] == pytest.approx(plain["energy"], abs=1e-5)
        np.testing.assert_allclose(result["forces"], plain["forces"], atol=1e-5)
    assert programs and "compiled potential" in capsys.readouterr().out

    # the script takes the option with a file of structures alone
    ase.io.write(tmp_path / "in.xyz", twice)
    programs.clear()
    evaluate.main([str(potential), "--input", str(tmp_path / "in.xyz"), "--compile", "on"])
    assert programs
    with pytest.raises(ValueError, match="--compile is for a file of structures"):
        evaluate.main([str(potential), "--compile", "on"])
    with pytest.raises(ValueError, match="compile"):
        load(potential, compile="yes")


def test_a_batch_predicts_what_the_calculator_says(potential, structures):
    model, calculator = load(potential), FarfieldCalculator(potential)
    batches: list[int] = []
    results = model.predict(structures, max_atoms=9, progress=batches.append)
    # of 5, 3, 7, 4 and 2 atoms, open ones first
    assert batches == [2, 1, 2] * 2
    for atoms, result in zip(structures, results, strict=True):
        assert result["energy"] == pytest.approx(calculator.get_potential_energy(atoms), abs=1e-5)
        np.testing.assert_allclose(result["forces"], calculator.get_forces(atoms), atol=1e-5)
        assert ("stress" in result) == bool(atoms.pbc.all())
        if "stress" in result:
            np.testing.assert_allclose(result["stress"], calculator.get_stress(atoms), atol=1e-6)
    assert model.units == {
        "energy": "eV",
        "forces": "eV/Angstrom",
        "stress": "eV/Angstrom^3",
    }


def test_one_structure_gives_one_result_and_order_does_not_matter(potential, structures):
    model = load(potential, dtype="float64")
    together = model.predict(structures)
    backwards = model.predict(structures[::-1])[::-1]
    alone = [model.predict(one) for one in structures]
    for one, two, three in zip(together, backwards, alone, strict=True):
        assert one["energy"] == pytest.approx(two["energy"], abs=1e-9)
        assert one["energy"] == pytest.approx(three["energy"], abs=1e-9)
        np.testing.assert_allclose(one["forces"], three["forces"], atol=1e-9)
    assert model.predict([]) == []


def test_predictions_keep_no_gradients_of_weights(potential, structures):
    model = load(potential)
    model.predict(structures)
    for crystals in (False, True):
        network = model._network_for(crystals).potential
        assert network.stress == crystals
        assert not any(weight.requires_grad for weight in network.parameters())


def test_checkpoints_that_cannot_be_read_are_one_line(potential, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="dtype must be one of float32, float64, got 'half'"):
        load(potential, dtype="half")

    content = checkpoint.read_run(potential)
    content["config"] |= {"task": "mine", "imports": ["my_task.py"]}
    checkpoint.save_checkpoint(tmp_path / "task.pt", content)
    with pytest.raises(
        ValueError, match="unknown task 'mine'; .* started with --import my_task.py$"
    ):
        load(tmp_path / "task.pt")

    content["config"]["task"] = "energy_forces"
    content["config"]["model"]["name"] = "mine"
    del content["config"]["imports"]
    checkpoint.save_checkpoint(tmp_path / "network.pt", content)
    with pytest.raises(ValueError, match="unknown network 'mine'; known: .*e2former"):
        load(tmp_path / "network.pt")


def test_what_is_no_structure_is_one_line(potential, structures):
    model = load(potential)
    with pytest.raises(
        ValueError, match=r"got the name 'in.xyz'; read the file first: .*ase.io.read"
    ):
        model.predict("in.xyz")
    with pytest.raises(ValueError, match=r"sample 1 must be a structure of ASE \(Atoms\), got str"):
        model.predict([structures[0], "in.xyz"])


def test_elements_that_were_not_trained_on_are_one_line(potential, structures):
    model = load(potential)
    assert model.run.elements == [1, 6, 8]
    words = r"structure 1: unknown element Au \(Z = 79\); this model was trained on H, C, O"
    with pytest.raises(ValueError, match=words):
        model.predict([structures[0], Atoms("CAu", [[0, 0, 0], [0, 0, 2]])])


@pytest.mark.parametrize("opened", [load, FarfieldCalculator])
def test_python_is_answered_in_python(potential, opened):
    with pytest.raises(ValueError, match="^device=cuda:99: not usable here .*; give device=cpu$"):
        opened(potential, device="cuda:99")


def test_a_predictor_shows_what_it_predicts(potential):
    shown = repr(load(potential))
    assert shown.startswith(
        f"PotentialPredictor('{potential}': e2former, gives energy (eV), forces"
    )
    assert shown.endswith("float32 on cpu)")


def test_data_that_moved_are_named_and_read_with_the_threads_of_the_run(
    potential, tmp_path, monkeypatch
):
    content = checkpoint.read_run(potential)
    there, content["config"]["data"]["data_path"] = content["config"]["data"]["data_path"], "gone"
    checkpoint.save_checkpoint(tmp_path / "moved.pt", content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone, does not exist .*; give --data-path DIR$"):
        evaluate.main(["moved.pt"])

    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    evaluate.main(["moved.pt", "--data-path", there])
    assert threads == [content["config"]["run"]["threads"]]


@pytest.fixture
def predicted(potential, structures):
    """Structures and what the potential says of them."""
    return structures, farfield.load(potential).predict(structures)


def write_with_labels(path, structures, predictions, energy, forces):
    """Predictions shifted by 10 meV and 20 meV/Angstrom as labels under the given names."""
    frames = []
    for atoms, prediction in zip(structures, predictions, strict=True):
        frame = atoms.copy()
        frame.info |= {energy: prediction["energy"] - 0.01, "name": "mine"}
        frame.arrays[forces] = prediction["forces"] + 0.02
        frames.append(frame)
    ase.io.write(path, frames, format="extxyz")


def test_a_file_without_labels_gets_predictions(potential, predicted, tmp_path, capsys):
    structures, predictions = predicted
    ase.io.write(tmp_path / "in.xyz", structures, format="extxyz")
    evaluate.main(
        [str(potential), "--input", str(tmp_path / "in.xyz"), "--output", str(tmp_path / "out.xyz")]
    )
    assert "no labels of energy, forces, stress" in capsys.readouterr().out
    for atoms, result in zip(ase.io.read(tmp_path / "out.xyz", ":"), predictions, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(result["energy"], abs=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), result["forces"], atol=1e-5)
        if "stress" in result:
            np.testing.assert_allclose(atoms.get_stress(), result["stress"], atol=1e-6)


def test_predictions_that_nothing_keeps_are_shown(potential, predicted, tmp_path, capsys):
    structures, predictions = predicted
    ase.io.write(tmp_path / "in.xyz", [*structures, structures[0]], format="extxyz")
    evaluate.main([str(potential), "--input", str(tmp_path / "in.xyz")])
    said = capsys.readouterr().out
    shown = [line.split() for line in said.splitlines() if re.match(r"\d+ +[A-Z]", line)]
    for row, atoms, prediction in zip(shown, structures, predictions, strict=True):
        assert row[1] == atoms.get_chemical_formula()
        assert float(row[2]) == pytest.approx(prediction["energy"], abs=1e-4)
        assert float(row[3]) == pytest.approx(
            np.linalg.norm(prediction["forces"], axis=1).max(), abs=1e-4
        )
    assert "10 of 11 structures; give --output FILE for all predictions" in said


def test_the_first_call_of_each_kind_is_not_in_the_time(potential, structures, monkeypatch):
    """Set-up at the first call takes half a second here; the structures take much less."""
    model, met = load(potential), set()
    usual = model._predict_batch

    def slow_at_first(samples):
        if model.kind(samples[0]) not in met:
            met.add(model.kind(samples[0]))
            time.sleep(0.5)
        return usual(samples)

    monkeypatch.setattr(model, "_predict_batch", slow_at_first)
    done = []
    predictions, seconds = timed_predictions(model, structures, done.append)
    assert seconds < 0.5 and len(met) == 2
    assert sum(done) == len(predictions) == len(structures)


@pytest.mark.parametrize(
    ("energy", "forces", "options"),
    [
        ("REF_energy", "DFT_forces", []),
        ("E", "F", ["--energy-key", "E", "--forces-key", "F"]),
    ],
)
def test_labels_are_named_and_judged(
    potential, predicted, tmp_path, capsys, energy, forces, options
):
    file, rows = tmp_path / "in.xyz", tmp_path / "rows.json"
    write_with_labels(file, *predicted, energy, forces)
    output = ["--output", str(tmp_path / "out.xyz"), "--json", str(rows)]
    evaluate.main([str(potential), "--input", str(file), *output, *options])

    said = capsys.readouterr().out
    assert f"label energy: '{energy}' of 10 structures" in said
    assert f"label forces: '{forces}' of 10 structures" in said
    found = {row["quantity"]: row for row in json.loads(rows.read_text())["rows"]}
    assert found["energy"]["mae"] == pytest.approx(10, abs=0.1)
    assert found["energy"]["unit"] == "meV" and found["energy"]["structures"] == 10
    assert found["forces"]["max"] == pytest.approx(20, abs=0.1)
    assert found["forces"]["unit"] == "meV/Angstrom"

    # the labels are gone, everything else is kept
    written = ase.io.read(tmp_path / "out.xyz")
    assert written.info["name"] == "mine"
    assert energy not in written.info and forces not in written.arrays


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("in.xyz", [], "in.xyz is the file of --input; give another file"),
        ("in.xyz", ["--overwrite"], "in.xyz is the file of --input; give another file"),
        ("link.xyz", ["--overwrite"], "link.xyz is the file of --input; give another file"),
        ("old.xyz", [], "old.xyz exists; give another file, or --overwrite"),
        ("out.cif", [], "written as extended xyz; give a name that ends in .xyz or .extxyz"),
    ],
)
def test_predictions_replace_no_file_unasked(
    potential, predicted, output, options, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_with_labels(tmp_path / "in.xyz", *predicted, "energy", "forces")
    (tmp_path / "link.xyz").symlink_to("in.xyz")
    (tmp_path / "old.xyz").write_text("old")
    before = (tmp_path / "in.xyz").read_bytes()
    command = [str(potential), "--input", "in.xyz"]
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate.main([*command, "--output", output, *options])
    assert (tmp_path / "in.xyz").read_bytes() == before
    assert (tmp_path / "old.xyz").read_text() == "old"
    assert not (tmp_path / "out.cif").exists()

    # an older file is replaced when the user says so
    evaluate.main([*command, "--output", "old.xyz", "--overwrite"])
    assert len(ase.io.read("old.xyz", ":")) == len(predicted[0])


def test_structures_without_a_label_are_not_judged(predicted):
    structures, predictions = predicted
    atoms = [one.copy() for one in structures]
    atoms[3].calc = SinglePointCalculator(atoms[3], energy=1.0)
    labels = find_labels(atoms, ["energy", "forces"], {})
    assert list(labels) == ["energy"] and labels["energy"].count() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "out.xyz"], "--output is for a file of structures; add --input FILE"),
        (["--overwrite"], "--overwrite is for a file of structures; add --input FILE"),
        (["--input", "a.xyz", "--split", "val"], "--split and --input exclude each other"),
        (["--input", "a.xyz", "--device", "cuda:99"], "--device cuda:99: not usable here"),
        (["--input", "none.xyz"], "--input none.xyz does not exist"),
        (["--input", "a.xyz", "--output", "no/folder.xyz"], "give a file in a folder that exists"),
        (["--inptu", "a.xyz"], "unknown option --inptu; did you mean --input?"),
        (["--split", "vall"], "--split: invalid choice"),
    ],
)
def test_bad_options_are_one_line(potential, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as error:
        evaluate.main([str(potential), *options])
    assert "\n" not in str(error.value)


def test_a_key_that_no_structure_has_is_named(potential, predicted, tmp_path):
    write_with_labels(tmp_path / "in.xyz", *predicted, "E", "F")
    with pytest.raises(ValueError, match="no structure has the energy 'Q'; the file holds E, F, "):
        evaluate.main([str(potential), "--input", str(tmp_path / "in.xyz"), "--energy-key", "Q"])
