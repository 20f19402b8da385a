"""Training on properties: a run learns, both networks, table and baselines, resume, evaluation,
cached and computed bases.
"""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read, write
from easydict import EasyDict

from farfield.common import checkpoint
from farfield.common.trained import TrainedRun
from farfield.dataloader.datasets.property_data import PropertyDataset
from farfield.models.heads.target_scaling import fit_scaling
from farfield.preprocess import preprocess_qm9
from farfield.train import evaluate, launch, train_qm9
from farfield.train.prediction import load
from farfield.train.tasks.properties import PropertyTask
from farfield.train.tasks.property_baselines import LINEAR, MEAN
from tests.support.md_data import flags
from tests.support.qm9_data import molecules
from tests.support.run_results import results_of, without_clocks

TARGETS = "alpha,homo,mu,U0,dipole"
SMALL = flags(batch_size=8, warmup_steps=2, ema_decay=0.5, epochs=2, lr=0.01)
E2FORMER = flags(
    irreps="4x0e+4x1o", schedule="first-order1", heads=2, radial_hidden=8, radial_size=4
)
EQUIFORMER = flags(dim="8,4", num_degrees=2, heads=2, dim_head=4, depth=1, radial_hidden_dim=8)
NETWORKS = {
    "edge_transformer_properties": flags(width=8, layers=1, heads=2, gaussians=8, waves=2),
    "e2former_properties": [*E2FORMER, "--element-size", "4"],
    "equiformer_properties": [*EQUIFORMER, "--element-size", "4"],
    "se3_transformer_properties": flags(layers=1, channels=4, lmax=1, heads=2, radial_hidden=8),
}
GRAPHS = {
    "edge_transformer_properties": ["--graph", "cutoff"],
    "e2former_properties": ["--graph", "cutoff"],
    "equiformer_properties": ["--graph", "cutoff"],
    "se3_transformer_properties": ["--graph", "bonds"],
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Disturbed molecules whose labels follow from their geometry, in the units of QM9's files."""
    rng = np.random.default_rng(0)
    one = molecules(("CH4", "NH3", "H2O", "HCN", "H2CO", "CH3OH", "C2H6", "CH3CN"))
    whole = type(one).concatenate([one] * 8)
    positions = whole.positions + 0.1 * rng.normal(size=whole.positions.shape)
    charge = whole.atomic_numbers - 4.0
    pieces = np.split(np.arange(len(positions)), whole.offsets[1:-1])
    dipole = np.stack(
        [
            ((charge[rows] - charge[rows].mean())[:, None] * positions[rows]).sum(0)
            for rows in pieces
        ]
    )
    radius = np.array(
        [np.linalg.norm(positions[rows] - positions[rows].mean(0), axis=1).sum() for rows in pieces]
    )
    arrays = {
        "n_atoms": whole.counts,
        "Z": whole.atomic_numbers,
        "R": positions,
        "gdb_id": np.arange(1, 1 + len(whole)),
    }
    labels = {
        "alpha": 10 + radius,
        "homo": -0.3 + 0.01 * radius / whole.counts,
        "mu": np.linalg.norm(dipole, axis=1),
    }
    labels |= {"u0": -40.0 * whole.counts + 0.01 * radius, "dipole": dipole}
    path = tmp_path_factory.mktemp("source") / "molecules.npz"
    np.savez(path, **arrays, **labels)
    return path


@pytest.fixture(scope="module")
def data(file):
    """name of a network -> a preprocessed folder for it."""
    folders = {}
    for name, graph in GRAPHS.items():
        folders[name] = file.parent / name
        sizes = ["--train", "40", "--val", "12", "--lmax", "1"]
        preprocess_qm9.main(["--file", str(file), "--out", str(folders[name]), *graph, *sizes])
    return folders


def run(folder, data, name, *arguments):
    """Results of a run, None while it pauses."""
    command = [
        "--model",
        name,
        "--run-dir",
        str(folder),
        "--data-path",
        str(data[name]),
        "--targets",
        TARGETS,
        *NETWORKS[name],
        *SMALL,
        "--no-progress",
    ]
    train_qm9.main([*command, *arguments])
    return results_of(folder)


@pytest.fixture(scope="module", params=list(NETWORKS))
def whole(request, data, tmp_path_factory):
    """Name of a network, a finished run and its results."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return request.param, folder, run(folder, data, request.param, "--epochs", "6")


def test_a_run_learns_and_its_table_has_units_and_baselines(whole):
    _, _, results = whole
    assert [row["row"] for row in results["test"]] == ["model", MEAN, LINEAR]
    assert list(results["test"][0])[1:] == [
        "alpha (bohr^3)",
        "homo (meV)",
        "mu (D)",
        "U0 (meV)",
        "dipole (D)",
    ]
    assert results["history"][-1]["selection"] < 0.9 * results["history"][0]["selection"]
    assert 0 <= results["waiting_share"] < 1


def test_baselines_are_those_of_the_training_split(whole, data):
    name, _, results = whole
    train, test = (
        PropertyDataset.open(data[name], split, targets=("alpha", "dipole"))
        for split in ("train", "test")
    )
    mean = 1.0 * np.abs(test.values["alpha"] - train.values["alpha"].mean()).mean()
    assert results["test"][1]["alpha (bohr^3)"] == pytest.approx(mean, rel=1e-5)
    assert results["test"][1]["dipole (D)"] == pytest.approx(
        np.linalg.norm(test.values["dipole"], axis=1).mean(), rel=1e-5
    )


def test_the_checkpoint_alone_gives_the_table_again(whole):
    _, folder, results = whole
    assert evaluate.evaluate_checkpoint(folder / checkpoint.BEST) == results["test"]


def test_a_run_starts_from_another_one(whole, data, tmp_path):
    """With its network, targets included; heads alone learn on."""
    name, folder, results = whole
    words = ["--init-from", str(folder / checkpoint.BEST), "--freeze", "backbone", "--no-progress"]
    paths = ["--run-dir", str(tmp_path), "--data-path", str(data[name])]
    train_qm9.main([*paths, *words, "--epochs", "1", "--batch-size", "8"])
    assert results_of(tmp_path)["history"][0]["selection"] < 1.1 * results["best"]["selection"]
    before = TrainedRun.read(folder / checkpoint.BEST).weights
    after = checkpoint.read_run(tmp_path / checkpoint.LAST)["weights"]
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed and all(key.startswith(("heads.", "degrees.", "readable.")) for key in changed)


def test_pause_and_resume_are_one_run(whole, data, tmp_path):
    name, _, results = whole
    assert run(tmp_path / "run", data, name, "--epochs", "6", "--pause-after", "3") is None
    train_qm9.main(
        ["--run-dir", str(tmp_path / "run"), "--resume"]
    )  # the network is that of the run
    again = results_of(tmp_path / "run")
    assert (
        without_clocks(again["history"]) == without_clocks(results["history"])
        and again["test"] == results["test"]
    )


def test_cached_and_computed_bases_give_the_same_run(data, tmp_path):
    name = "se3_transformer_properties"
    cached, computed = (
        run(tmp_path / flag, data, name, flag) for flag in ("--cache", "--no-cache")
    )
    for key, value in cached["test"][0].items():
        assert key == "row" or value == pytest.approx(computed["test"][0][key], rel=1e-3)


def test_an_unknown_target_is_named_before_the_folder_is_looked_for(tmp_path):
    with pytest.raises(
        ValueError, match="target must be one of .*, got 'hommo'; did you mean 'homo'"
    ):
        train_qm9.main(
            [
                "--targets",
                "hommo",
                "--data-path",
                str(tmp_path / "none"),
                "--run-dir",
                str(tmp_path / "run"),
            ]
        )


def test_a_basis_of_larger_degrees_serves_as_well(data, file, tmp_path):
    name = "se3_transformer_properties"
    larger = tmp_path / "larger"
    preprocess_qm9.main(
        ["--file", str(file), "--out", str(larger), "--train", "40", "--val", "12", "--lmax", "2"]
    )
    one, two = (
        run(tmp_path / folder.name / "run", {name: folder}, name, "--epochs", "1")
        for folder in (data[name], larger)
    )
    for key, value in one["test"][0].items():
        assert key == "row" or value == pytest.approx(two["test"][0][key], rel=1e-3)


def test_molecules_in_memory_get_the_predictions_of_the_data_set(whole, data):
    name, folder, _ = whole
    dataset = PropertyDataset.open(data[name], "test", targets=TARGETS.split(","), basis=False)
    model = load(folder / checkpoint.BEST)
    with torch.no_grad():
        expected = model.network(dataset[range(len(dataset))])

    structures = [dataset.structures[index] for index in range(len(dataset))]
    atoms = [Atoms(one.atomic_numbers, one.positions) for one in structures]
    results = model.predict(atoms, max_atoms=20)
    for target, values in expected.items():
        found = np.array([result[target] for result in results])
        np.testing.assert_allclose(found, values.numpy(), rtol=1e-5, atol=1e-5)
    assert model.units["homo"] == "eV" and model.units["mu"] == "D"

    # runs of earlier versions do not say their graphs; their data folder does
    content = checkpoint.read_run(folder / checkpoint.BEST)
    del content["config"]["data"]["graph"]
    checkpoint.save_checkpoint(folder / "old.pt", content)
    again = load(folder / "old.pt").predict(atoms[0])
    assert again["homo"] == pytest.approx(results[0]["homo"], rel=1e-4)
    content["config"]["data"]["data_path"] = "gone"
    checkpoint.save_checkpoint(folder / "old.pt", content)
    with pytest.raises(ValueError, match="does not say which graphs its molecules had"):
        load(folder / "old.pt")


def test_a_file_of_molecules_gets_properties_and_their_errors(whole, data, tmp_path, capsys):
    name, folder, _ = whole
    structures = PropertyDataset.open(data[name], "test", targets=["homo"]).structures[:3]
    ones = [structures[index] for index in range(3)]
    atoms = [Atoms(one.atomic_numbers, one.positions) for one in ones]
    predictions = load(folder / checkpoint.BEST).predict(atoms)
    for one, prediction in zip(atoms, predictions, strict=True):
        one.info["homo"] = prediction["homo"] + 0.25
    write(tmp_path / "in.xyz", atoms)

    command = [str(folder / checkpoint.BEST), "--input", str(tmp_path / "in.xyz")]
    evaluate.main([*command, "--output", str(tmp_path / "out.xyz")])
    said = capsys.readouterr().out
    assert "label homo: 'homo' of 3 structures" in said and "meV" in said and "250" in said
    for one, prediction in zip(read(tmp_path / "out.xyz", ":"), predictions, strict=True):
        assert one.info["homo"] == pytest.approx(prediction["homo"], abs=1e-4)
        found = one.info["predicted_dipole"]  # ASE reads "dipole" in e Angstrom
        np.testing.assert_allclose(found, prediction["dipole"], rtol=1e-4)


def test_predictions_are_in_units(whole, data):
    name, folder, results = whole
    content = checkpoint.read_run(folder / checkpoint.BEST)
    module = PropertyTask.restore(EasyDict(content["config"]))
    checkpoint.load_weights(module, checkpoint.evaluation_weights(content), folder)
    dataset = PropertyDataset.open(data[name], "test", targets=("U0", "dipole"))
    batch = dataset[range(len(dataset))]
    with torch.no_grad():
        found = module.eval()(batch)
    error = 1e3 * (found["U0"] - batch.labels["U0"]).abs().mean()
    assert float(error) == pytest.approx(results["test"][0]["U0 (meV)"], rel=1e-3)
    assert found["dipole"].shape == (len(dataset), 3)


BAD = [
    (["--targets", "homo,nonsense"], "target must be one of .*, got 'nonsense'"),
    (["--targets", "lumo"], "the molecules have no property 'lumo'"),
    (["--readouts", "homo=dipole"], "readout 'dipole' does not fit 'homo'"),
    (["--target-weights", "gap=2"], "'gap' is no target"),
    (["--target-weights", "homo=much"], "'homo=much' has no number; write e.g. homo=2"),
    (["--target-weights", "homo=-1"], "loss weights must be >= 0"),
    (["--data-path", "nowhere"], "nowhere"),
    (["--max-atoms-per-batch", "2"], "atoms, a batch may have 2"),
]


@pytest.mark.parametrize("arguments, message", BAD)
def test_bad_input_is_refused_before_a_run_folder_is_made(data, tmp_path, arguments, message):
    with pytest.raises((ValueError, OSError), match=message) as error:
        run(tmp_path / "run", data, "e2former_properties", *arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_graphs_that_do_not_serve_the_network_are_refused(data, tmp_path):
    with pytest.raises(
        ValueError,
        match="holds pairs within 5.0 Angstrom, the network asks for 6.0; lower --cutoff",
    ):
        run(tmp_path / "run", data, "e2former_properties", "--cutoff", "6")
    with pytest.raises(
        ValueError,
        match="holds the edge basis of lmax 1, the network has lmax 2; preprocess with --lmax 2",
    ):
        run(tmp_path / "run", data, "se3_transformer_properties", "--lmax", "2")
    swapped = {"se3_transformer_properties": data["e2former_properties"]}
    with pytest.raises(ValueError, match="holds no bonds: give --no-bond-kinds"):
        run(tmp_path / "run", swapped, "se3_transformer_properties", "--bond-kinds")
    assert not (tmp_path / "run").exists()


def test_a_network_without_edges_takes_any_graph(data, file, tmp_path):
    """Of the same molecules; what it says of others in memory does not depend on the graph."""
    name, tables = "edge_transformer_properties", []
    folders = {"cutoff": data[name], "bonds": data["se3_transformer_properties"]}
    for graph, folder in folders.items():
        tables.append(run(tmp_path / graph, {name: folder}, name, "--epochs", "1")["test"])
    assert tables[0] == tables[1]


def test_the_e2former_reads_bonds_among_its_pairs_where_the_folder_has_them(file, tmp_path):
    folder, name = tmp_path / "data", "e2former_properties"
    sizes = ["--train", "40", "--val", "12", "--lmax", "1"]
    preprocess_qm9.main(
        ["--file", str(file), "--out", str(folder), "--graph", "cutoff", "--bond-kinds", *sizes]
    )
    seeing = run(tmp_path / "seeing", {name: folder}, name)
    blind = run(tmp_path / "blind", {name: folder}, name, "--no-bond-kinds")
    assert seeing["config"]["model"]["bond_kinds"] and not blind["config"]["model"]["bond_kinds"]
    assert seeing["test"][0] != blind["test"][0] and seeing["parameters"] > blind["parameters"]
    assert evaluate.evaluate_checkpoint(tmp_path / "seeing" / checkpoint.BEST) == seeing["test"]


def test_other_labels_are_not_resumed(data, file, tmp_path):
    name = "e2former_properties"
    run(tmp_path / "run", data, name, "--pause-after", "1")
    other = tmp_path / "other"
    preprocess_qm9.main(
        [
            "--file",
            str(file),
            "--out",
            str(other),
            "--graph",
            "cutoff",
            "--train",
            "30",
            "--val",
            "12",
            "--lmax",
            "1",
        ]
    )
    with pytest.raises(
        ValueError, match="other structures or labels than these; give the data it began with"
    ):
        train_qm9.main(["--run-dir", str(tmp_path / "run"), "--resume", "--data-path", str(other)])


def test_the_scaling_knows_nothing_of_the_test_split(data):
    name = "e2former_properties"
    train = PropertyDataset.open(data[name], "train", targets=("alpha",))
    fitted = fit_scaling(
        train.structures.atomic_numbers, train.structures.counts, train.values, {"alpha": "sum"}
    )
    config = train_qm9.SCRIPT.read_options(
        [
            "--model",
            name,
            "--data-path",
            str(data[name]),
            "--targets",
            "alpha",
            *NETWORKS[name],
            *SMALL,
            "--no-progress",
        ]
    )
    trainer, parts = launch.build_trainer(config)
    assert (
        trainer.model.heads.scaling.values()["alpha"]["scale"] == fitted["alpha"]["scale"]
        and parts.test.dataset.scaling == fitted
    )


def test_layers_that_no_schedule_reads_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="--layers 6 changes nothing: every part of --schedule"):
        run(tmp_path / "run", data, "e2former_properties", "--layers", "6")
    assert not (tmp_path / "run").exists()
