"""Laws of predictions: the same in a batch, alone, in any order, and from the calculator."""

import numpy as np
import pytest
from ase import Atoms

from farfield.common import checkpoint
from farfield.simulate.calculator import FarfieldCalculator
from farfield.train import train_md17
from farfield.train.prediction import load
from tests.support.md_data import SMALL, make_data


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


def test_a_batch_predicts_what_the_calculator_says(potential, structures):
    model, calculator = load(potential), FarfieldCalculator(potential)
    results = model.predict(structures, max_atoms=9)
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


def test_checkpoints_that_cannot_be_read_are_one_line(potential, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="dtype must be one of float32, float64, got 'half'"):
        load(potential, dtype="half")

    content = checkpoint.read_run(potential)
    content["config"] |= {"task": "mine", "imports": ["my_task.py"]}
    checkpoint.save_checkpoint(tmp_path / "task.pt", content)
    with pytest.raises(ValueError, match="unknown task 'mine'; import .*: --import my_task.py$"):
        load(tmp_path / "task.pt")

    content["config"]["task"] = "energy_forces"
    content["config"]["model"]["name"] = "mine"
    del content["config"]["imports"]
    checkpoint.save_checkpoint(tmp_path / "network.pt", content)
    with pytest.raises(ValueError, match="unknown network 'mine'; known: .*e2former"):
        load(tmp_path / "network.pt")
