"""Laws of the calculator: it says what the network says, forces and stress are slopes of its
energy, unknown elements are refused.
"""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.optimize import BFGS

from farfield.common import checkpoint
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.models.factory import build_model
from farfield.simulate.calculator import FarfieldCalculator
from farfield.train.evaluate import evaluate_checkpoint
from tests.simulate import test_run_md


def with_calculator(atoms, path, **options):
    atoms.calc = FarfieldCalculator(path, **options)
    return atoms


def test_it_says_what_the_network_says(potential, data):
    dataset = MoleculeDataset.open(data, "test")
    content = checkpoint.read_run(potential)
    model = build_model(
        {key: value for key, value in content["config"]["model"].items() if key != "preset"}
    )
    checkpoint.load_weights(model, checkpoint.evaluation_weights(content), potential)
    prediction = model.eval()(dataset[range(4)])
    calculator = FarfieldCalculator(potential)
    first = 0
    for index, count in enumerate(dataset.atoms_per_structure.tolist()):
        one = dataset.structures[index]
        atoms = Atoms(numbers=one.atomic_numbers, positions=one.positions, calculator=calculator)
        forces = prediction["forces"][first : first + count].numpy()
        assert atoms.get_potential_energy() == pytest.approx(
            float(prediction["energy"][index]), abs=1e-5
        )
        np.testing.assert_allclose(
            atoms.get_forces(), forces, atol=1e-6 * max(1, np.abs(forces).max())
        )
        first += count


def test_an_energy_with_steps_is_evaluated_and_runs_no_dynamics(potential, tmp_path, capsys):
    """A checkpoint with the near field in half precision, as earlier versions trained them."""
    content = checkpoint.read_run(potential)
    content["config"]["model"]["near_kernel_implementation"] = "flash"
    path = tmp_path / checkpoint.BEST
    checkpoint.save_checkpoint(path, content)

    with pytest.raises(ValueError, match="no dynamics.*'flash' rounds.*memory_efficient") as error:
        FarfieldCalculator(path)
    assert "\n" not in str(error.value)
    assert len(evaluate_checkpoint(path)) > 0
    assert "note: near_kernel_implementation 'flash'" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["molecule", "crystal"])
def test_forces_are_the_slope_of_the_energy(potential, kind, request):
    atoms = with_calculator(request.getfixturevalue(kind), potential, dtype="float64")
    expected = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-6 * np.abs(expected).max())


def test_stress_is_the_slope_under_strain(potential, crystal):
    atoms = with_calculator(crystal, potential, dtype="float64")
    expected = calculate_numerical_stress(atoms, eps=1e-5)
    assert np.abs(expected).max() > 1e-6
    np.testing.assert_allclose(atoms.get_stress(), expected, atol=1e-6 * np.abs(expected).max())


def test_places_far_away_and_wrapped_atoms_change_nothing(potential, molecule, crystal):
    molecule, crystal = (
        with_calculator(molecule, potential),
        with_calculator(crystal, potential, dtype="float64"),
    )
    forces = molecule.get_forces()
    molecule.positions += 1e4
    np.testing.assert_allclose(molecule.get_forces(), forces, atol=1e-5 * np.abs(forces).max())
    energy = crystal.get_potential_energy()
    crystal.positions += crystal.cell.array[0] - 2 * crystal.cell.array[2]
    crystal.positions[1] += crystal.cell.array[1]
    assert crystal.get_potential_energy() == pytest.approx(energy, abs=1e-9)


def test_ase_relaxes_with_it(potential, molecule):
    atoms = with_calculator(molecule, potential, dtype="float64")
    before = atoms.get_potential_energy()
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=20)
    assert atoms.get_potential_energy() < before


def test_what_it_can_say_follows_from_the_training(potential, trained, molecule):
    assert FarfieldCalculator(potential).implemented_properties == [
        "energy",
        "free_energy",
        "forces",
        "stress",
    ]
    with pytest.raises(PropertyNotImplementedError, match="set atoms.pbc = True"):
        with_calculator(molecule, potential).get_stress()
    direct = FarfieldCalculator(trained("--forces", "direct", "--epochs", "1"))
    assert (
        direct.implemented_properties == ["energy", "free_energy", "forces"]
        and not direct.conservative
    )
    silent = trained("--forces", "none", "--weight-forces", "0", "--epochs", "1")
    assert FarfieldCalculator(silent).implemented_properties == ["energy", "free_energy"]
    with pytest.raises(ValueError, match="trained with --forces none, nothing moves"):
        test_run_md.run(silent.parent / "md", silent)
    assert not (silent.parent / "md").exists()


def test_what_it_was_not_trained_on_is_refused(potential, molecule):
    calculator = FarfieldCalculator(potential)
    with pytest.raises(
        ValueError,
        match=r"unknown element Au \(Z = 79\); this model was trained on H, C, O: ",
    ):
        Atoms("AuC", [[0, 0, 0], [0, 0, 2]], calculator=calculator).get_potential_energy()
    with pytest.raises(ValueError, match="no atoms"):
        Atoms(calculator=calculator).get_potential_energy()
    molecule.positions[2] = np.nan
    molecule.calc = calculator
    with pytest.raises(ValueError, match="must be finite"):
        molecule.get_potential_energy()
    with pytest.raises(ValueError, match="dtype must be one of float32, float64, got 'float16'"):
        FarfieldCalculator(potential, dtype="float16")


def test_checkpoints_of_other_tasks_are_refused(potential, tmp_path):
    content = checkpoint.read_run(potential)
    content["config"]["model"]["name"] = "se3_transformer_nbody"
    checkpoint.save_checkpoint(tmp_path / "c.pt", content)
    with pytest.raises(
        ValueError,
        match="holds the network 'se3_transformer_nbody', which predicts nbody; give the",
    ):
        FarfieldCalculator(tmp_path / "c.pt")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        FarfieldCalculator(tmp_path / "none.pt")


def test_many_structures_in_batches_are_each_alone(potential, molecule, crystal):
    larger = Atoms("CHOHCC", np.random.default_rng(5).uniform(0, 4, (6, 3)))
    moved = molecule.copy()
    moved.positions[0] += 0.1
    structures = [molecule, crystal, larger, moved]
    calculator = FarfieldCalculator(potential, dtype="float64")
    found = calculator.evaluate_many(structures, max_atoms=8)

    for atoms, result in zip(structures, found, strict=True):
        alone = FarfieldCalculator(potential, dtype="float64")
        alone.calculate(atoms, ["energy", "forces"])
        assert result.keys() == alone.results.keys()
        for name, value in alone.results.items():
            np.testing.assert_allclose(result[name], value, rtol=1e-9, atol=1e-9)
