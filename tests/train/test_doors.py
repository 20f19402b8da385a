"""The doors: a source, a network and a task of one file each are as good as our own.

Each file registers its class in one line. `--import` reads it, and the ordinary scripts do the
rest: preprocess, train, save, load, evaluate, calculate; the laws hold for the network.
"""

import functools
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

import farfield
from farfield.common import checkpoint, plugins
from farfield.dataloader.prepared_folder import load_statistics
from farfield.models.batch import AtomBatch
from farfield.models.factory import build_model, network_names
from farfield.preprocess import preprocess_structures
from farfield.simulate.calculator import FarfieldCalculator
from farfield.train import evaluate, train_md17, train_potential, train_task
from tests.laws import CutoffSuite, ModelSuite
from tests.support.law_cases import Case, cutoff_graph
from tests.support.registries import restore_registries, saved_registries
from tests.support.run_results import assert_equal_checkpoints, results_of, without_clocks

FILES = Path(__file__).resolve().parents[1] / "support" / "doors"
SOURCE, NETWORK, TASK = (FILES / f"toy_{what}.py" for what in ("source", "network", "task"))
FREE_NETWORK, WIDTH_TASK = FILES / "toy_free_network.py", FILES / "toy_width_task.py"
QUICK = ["--no-progress", "--epochs", "2", "--batch-size", "4"]
CUTOFF = 5.0


@pytest.fixture(scope="module", autouse=True)
def as_before():
    """What the files register is forgotten again, so that no other test meets it."""
    state = saved_registries()
    yield
    restore_registries(state)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder made by the ordinary script from the source of one file."""
    folder = tmp_path_factory.mktemp("argon")
    rng = np.random.default_rng(0)
    triangle = 3.8 * np.array([[0, 0, 0], [1, 0, 0], [0.5, 0.87, 0]])
    positions = triangle + 0.2 * rng.standard_normal((40, 3, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        np.savetxt("argon.csv", positions.reshape(40, 9), delimiter=",")
        arguments = ["--import", str(SOURCE), "--source", "argon_triangles"]
        preprocess_structures.main([*arguments, "--out", "data", "--cutoff", str(CUTOFF)])
    return folder / "data"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of the network of one file through the script for own data."""
    folder = tmp_path_factory.mktemp("run") / "pairs"
    train_potential.main(
        ["--import", str(NETWORK), "--model", "pairs", "--preset", "wide", "--width", "12"]
        + ["--data-path", str(data), "--run-dir", str(folder), *QUICK]
    )
    return folder


def test_a_source_of_one_file_is_preprocessed(data):
    statistics = load_statistics(data)
    assert statistics.structures == 32 and list(statistics.references) == [18]


def test_a_network_of_one_file_is_trained_and_judged(run):
    results = results_of(run)
    assert len(results["history"]) == 2 and results["test"][0]["force_mae"] > 0
    assert results["config"]["model"]["width"] == 12, "its options are flags"
    assert results["config"]["model"]["cutoff"] == CUTOFF, "the data decide the cutoff"
    assert evaluate.evaluate_checkpoint(run / checkpoint.BEST) == results["test"]


def test_a_network_of_one_file_goes_on_bit_identically(run, data, tmp_path):
    arguments = ["--import", str(NETWORK), "--run-dir", str(tmp_path / "run")]
    first = ["--model", "pairs", "--width", "12", "--data-path", str(data), "--pause-after", "1"]
    train_potential.main([*arguments, *first, *QUICK])
    train_potential.main([*arguments, "--resume"])
    one, two = results_of(run), results_of(tmp_path / "run")
    assert without_clocks(one["history"]) == without_clocks(two["history"])
    assert_equal_checkpoints(run, tmp_path / "run")


def test_the_calculator_serves_a_network_of_one_file(run):
    """Energies and forces are those of batches, and forces are the slope of the energy."""
    path = run / checkpoint.BEST
    atoms = Atoms("Ar3", positions=[[0, 0, 0], [3.8, 0, 0], [1.9, 3.3, 0]])
    atoms.calc = FarfieldCalculator(path, dtype="float64")
    forces = atoms.get_forces()

    (found,) = farfield.load(path, dtype="float64").predict([atoms])
    assert found["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert found["forces"] == pytest.approx(forces, abs=1e-9)

    step = 1e-4
    energies = []
    for shift in (step, -2 * step):
        atoms.positions[1, 0] += shift
        energies.append(atoms.get_potential_energy())
    assert forces[1, 0] == pytest.approx((energies[1] - energies[0]) / (2 * step), abs=1e-7)


@pytest.fixture(scope="module")
def free_run(data, tmp_path_factory):
    """A run of a network without a cutoff through the script for own data."""
    folder = tmp_path_factory.mktemp("free_run") / "free"
    train_potential.main(
        ["--import", str(FREE_NETWORK), "--model", "free_pairs"]
        + ["--data-path", str(data), "--run-dir", str(folder), *QUICK]
    )
    return folder


def check_one_energy_and_force(path):
    """What the calculator and `farfield.load` say of one structure is the same."""
    atoms = Atoms("Ar3", positions=[[0, 0, 0], [3.8, 0, 0], [1.9, 4.9, 0]])
    atoms.calc = FarfieldCalculator(path, dtype="float64")
    (found,) = farfield.load(path, dtype="float64").predict([atoms])
    assert found["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert found["forces"] == pytest.approx(atoms.get_forces(), abs=1e-9)
    return atoms


def test_a_network_without_a_cutoff_reads_the_graphs_of_its_data(free_run):
    """The cutoff of the folder is kept with the run, for structures that have no graph yet."""
    path = free_run / checkpoint.BEST
    assert evaluate.evaluate_checkpoint(path) == results_of(free_run)["test"]
    assert check_one_energy_and_force(path).calc.cutoff == CUTOFF


def test_a_network_without_a_cutoff_is_not_judged_on_other_graphs(free_run, data, tmp_path):
    wider = ["--source", "argon_triangles", "--out", str(tmp_path / "wider"), "--cutoff", "6"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data.parent)
        preprocess_structures.main(["--import", str(SOURCE), *wider])
    with pytest.raises(ValueError, match="graphs with cutoff 6.0 A, .* trained on graphs with cut"):
        evaluate.evaluate_checkpoint(free_run / checkpoint.BEST, data_path=tmp_path / "wider")
    again = ["--run-dir", str(free_run), "--data-path", str(tmp_path / "wider"), "--resume"]
    with pytest.raises(ValueError, match="cannot resume .*graphs with cutoff 5.0 A, these have 6"):
        train_potential.main([*again, "--epochs", "3"])


@pytest.fixture(scope="module")
def width_run(data, tmp_path_factory):
    """A run of a task that decides an option of its network."""
    folder = tmp_path_factory.mktemp("width_run") / "width"
    files = ["--import", str(WIDTH_TASK), "--import", str(FREE_NETWORK)]
    options = ["--data-path", str(data), "--run-dir", str(folder), "--half-width", "2.5"]
    train_task.main([*files, "--task", "energies_alone", *options, *QUICK])
    return folder


def test_all_doors_build_the_network_of_the_task(width_run):
    """The width that the task decides is nowhere among the options of the network."""
    path = width_run / checkpoint.BEST
    assert "width" not in results_of(width_run)["config"]["model"]
    atoms = check_one_energy_and_force(path)
    assert atoms.calc._network(stress=False).potential.options.width == 5.0
    model = farfield.load(path)
    assert model.network.options.width == 5.0 and model.max_atoms == 9


def test_options_of_an_evaluation_are_flags(width_run, run, tmp_path, capsys):
    plain = evaluate.evaluate_checkpoint(width_run / checkpoint.BEST)
    file = tmp_path / "rows.json"
    arguments = [str(width_run / checkpoint.BEST), "--json", str(file)]
    evaluate.main([*arguments, "--unit", "meV"])
    (row,) = json.loads(file.read_text())["rows"]
    assert row["energy_mae"] == pytest.approx(1000 * plain[0]["energy_mae"])

    with pytest.raises(ValueError, match="--unit must be one of eV, meV, got 'keV'"):
        evaluate.main([*arguments, "--unit", "keV"])
    with pytest.raises(ValueError, match="--unit eV is no option of the task 'energy_forces'"):
        evaluate.main([str(run / checkpoint.BEST), "--unit", "eV"])
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    assert "for the task energies_alone: eV, meV" in capsys.readouterr().out


@pytest.mark.parametrize("network", ["pairs", "e2former"])
def test_a_task_of_one_file_is_trained_and_judged(data, tmp_path, network):
    small = [] if network == "pairs" else ["--irreps", "4x0e+4x1o", "--schedule", "first-order1"]
    files = ["--import", str(TASK), "--import", str(NETWORK)]
    train_task.main(
        [*files, "--task", "forces_alone", "--model", network, "--lr", "0.01", *small]
        + ["--data-path", str(data), "--run-dir", str(tmp_path / "run"), *QUICK]
    )
    results = results_of(tmp_path / "run")
    assert results["config"]["task"] == "forces_alone" and len(results["history"]) == 2
    assert evaluate.evaluate_checkpoint(tmp_path / "run" / checkpoint.BEST) == results["test"]
    assert list(results["test"][0]) == ["row", "force_mse (eV^2/A^2)"], "errors have units"

    # what a file of the user registered is named, for the record and for the resumed run
    assert {str(TASK), str(NETWORK)} <= set(results["config"]["imports"])


def test_a_preset_script_trains_it_as_well(data, tmp_path):
    arguments = ["--import", str(NETWORK), "--model", "pairs", "--data-path", str(data)]
    train_md17.main([*arguments, "--run-dir", str(tmp_path / "run"), *QUICK])
    assert results_of(tmp_path / "run")["test"][0]["row"] == "model"


def test_near_and_far_cannot_be_compared_without_a_schedule(data, tmp_path):
    arguments = ["--import", str(NETWORK), "--model", "pairs", "--data-path", str(data)]
    with pytest.raises(ValueError, match="--compare needs a network with a schedule, pairs has"):
        train_md17.main([*arguments, "--run-dir", str(tmp_path / "run"), "--compare", *QUICK])


def test_a_paused_run_says_how_it_goes_on(data, tmp_path, capsys):
    """The printed command has all that the run needs: the files, the task, the folder."""
    files = ["--import", str(TASK), "--import", str(NETWORK)]
    options = ["--model", "pairs", "--data-path", str(data), "--run-dir", str(tmp_path / "run")]
    train_task.main([*files, "--task", "forces_alone", *options, *QUICK, "--pause-after", "1"])
    command = capsys.readouterr().out.strip().split("continue with: python -m train.train_task ")[1]
    train_task.main(shlex.split(command))
    assert len(results_of(tmp_path / "run")["history"]) == 2


def test_an_unknown_task_has_a_guess(capsys):
    with pytest.raises(ValueError, match="--task must be one of .*did you mean 'nbody'"):
        train_task.main(["--task", "nbdy"])
    with pytest.raises(ValueError, match="give --task NAME, one of .*energy_forces"):
        train_task.main(["--epochs", "1"])
    train_task.main(["--help"])
    assert "energy_forces" in capsys.readouterr().out


def test_the_forces_of_the_source_are_the_slope_of_its_energy():
    lennard_jones = plugins.import_file(SOURCE).lennard_jones
    positions = 3.8 * np.array([[[0, 0, 0], [1, 0, 0], [0.4, 0.9, 0.2]]])
    _, forces = lennard_jones(positions)
    moved = np.repeat(positions, 2, axis=0)
    moved[0, 2, 1] -= 1e-5
    moved[1, 2, 1] += 1e-5
    energy, _ = lennard_jones(moved)
    assert forces[0, 2, 1] == pytest.approx((energy[0] - energy[1]) / 2e-5, rel=1e-6)


connect = functools.partial(cutoff_graph, cutoff=4.0)


def random_batch(sizes, generator):
    counts = torch.tensor(sizes)
    positions = 1.5 * torch.randn(int(counts.sum()), 3, generator=generator)
    numbers = torch.randint(1, 9, (len(positions),), generator=generator)
    return AtomBatch(graph=connect(positions, counts), positions=positions, atomic_numbers=numbers)


@pytest.fixture(scope="module")
def case():
    """The network of one file, as the laws ask for it."""
    plugins.import_file(NETWORK)
    assert "pairs" in network_names("potential")
    return Case(
        name="pairs",
        build=lambda: build_model({"name": "pairs"}),
        batch=random_batch,
        connect=connect,
        outputs={"energy": "graph_scalar", "forces": "node_vector"},
        lmax=0,
        cutoff=4.0,
    )


class TestPairNetwork(ModelSuite, CutoffSuite):
    """The laws of every network hold for the network of one file."""
