"""Laws of the energy and force task: the loss under accumulation, metrics against formulas,
baselines, offsets, data without forces.
"""

import dataclasses

import numpy as np
import pytest
import torch

from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.prepared_folder import load_statistics
from farfield.dataloader.units import KCAL_MOL
from farfield.train import launch
from farfield.train.losses import StructureLoss
from farfield.train.tasks.energy_force_data import set_references
from farfield.train.tasks.energy_forces import (
    BASELINE,
    EnergyForceTask,
    LateWeights,
    build_task,
    split_loader,
)
from farfield.train.tasks.task import evaluate_model
from tests.support.md_data import SIZES, config_for, make_data
from tests.support.molecule_data import random_crystals, random_structures

CPU = torch.device("cpu")
COSTS = {"energy": "mae", "forces": "vector_norm", "stress": "vector_norm"}
SCALES = dict.fromkeys(COSTS, 1.0)


class Guess(torch.nn.Module):
    """References, and as prediction the labels plus given errors (energy (graphs,), forces (nodes,
    3)).
    """

    def __init__(self, dataset, references, errors):
        super().__init__()
        self.dataset, self.references, self.errors, self.seen = dataset, references, errors, 0

    def reference_energy(self, batch):
        energies = torch.tensor(
            [self.references.get(number, 0.0) for number in range(119)], dtype=torch.float64
        )
        return torch.zeros(batch.num_graphs, dtype=torch.float64).index_add_(
            0, batch.graph.graph_of_node, energies[batch.atomic_numbers]
        )

    def forward(self, batch):
        first, self.seen = self.seen, self.seen + batch.num_graphs
        atoms = self.dataset.structures.offsets
        energy = torch.from_numpy(
            self.dataset.structures.energy[first : self.seen]
            + self.errors["energy"][first : self.seen]
        )
        out = {"energy": energy}
        if "forces" in self.errors:
            out["forces"] = (
                batch.labels["forces"]
                + torch.from_numpy(self.errors["forces"][atoms[first] : atoms[self.seen]]).float()
            )
        return out


def evaluated(data, offset="none", errors=("energy", "forces"), shift=0.0):
    """Evaluation of random errors over the test split, and the errors."""
    config, statistics = config_for(data), load_statistics(data)
    loader = split_loader(config, "test", statistics.references)
    structures, rng = loader.dataset.structures, np.random.default_rng(1)
    drawn = {
        "energy": rng.standard_normal(len(structures)) + shift,
        "forces": rng.standard_normal((structures.num_atoms, 3)),
    }
    task = build_task(config, offset)
    model = Guess(loader.dataset, statistics.references, {name: drawn[name] for name in errors})
    return task, evaluate_model(model, task, loader, CPU), drawn, structures, statistics


def test_metrics_are_those_of_the_errors(data):
    task, evaluation, errors, structures, _ = evaluated(data)
    found, energy, forces = (
        evaluation.metrics,
        np.abs(errors["energy"]),
        errors["forces"].astype(np.float32),
    )
    length = np.linalg.norm(forces, axis=1)
    wanted = {
        "energy_mae": energy.mean(),
        "energy_rmse": np.sqrt((energy**2).mean()),
        "energy_max": energy.max(),
        "energy_per_atom_mae": (energy / structures.counts).mean(),
        "force_mae": np.abs(forces).mean(),
        "force_rmse": np.sqrt((forces**2).mean()),
        "force_norm_mae": length.mean(),
        "force_max": length.max(),
    }
    for name, value in wanted.items():
        assert found[name] == pytest.approx(1e3 * value, rel=1e-5), name
    guess = structures.forces + forces
    both = (
        (guess * structures.forces).sum(1)
        / np.linalg.norm(guess, axis=1)
        / np.linalg.norm(structures.forces, axis=1)
    )
    assert found["force_cosine"] == pytest.approx(
        both[np.isfinite(both)].sum() / len(both), rel=1e-4
    )
    rows = task.table(evaluation)
    assert [row["row"] for row in rows] == ["model", BASELINE] * 2
    assert rows[0]["energy_mae"] == found["energy_mae"] and rows[2]["force_mae"] == pytest.approx(
        1e-3 * found["force_mae"] / KCAL_MOL
    )
    assert rows[0]["force_cosine"] == rows[2]["force_cosine"]


def test_the_baseline_is_the_references_alone_and_no_forces(data):
    _, evaluation, _, structures, statistics = evaluated(data)
    atoms = np.array([statistics.references[int(number)] for number in structures.atomic_numbers])
    mean = np.bincount(structures.structure_of_atom, atoms)
    baseline = evaluation.baselines[BASELINE]
    assert baseline["energy_mae"] == pytest.approx(
        1e3 * np.abs(structures.energy - mean).mean(), rel=1e-5
    )
    assert baseline["force_mae"] == pytest.approx(1e3 * np.abs(structures.forces).mean(), rel=1e-5)
    assert baseline["force_cosine"] == 0


def test_an_offset_per_composition_takes_off_constants_only(tmp_path):
    structures = random_structures((3,) * 12 + (4,) * 12, elements=(6,))
    folder = make_data(tmp_path / "one", structures, sizes=(8, 4, 12))
    plain, shifted, free = (
        evaluated(folder, *options)[1].metrics["energy_mae"]
        for options in (("none",), ("per-composition",), ())
    )
    moved = evaluated(folder, "per-composition", shift=50.0)[1].metrics["energy_mae"]
    assert moved == pytest.approx(shifted, rel=1e-4) and plain == free != shifted
    _, _, errors, test, _ = evaluated(folder)
    left = [
        errors["energy"][test.counts == size] - errors["energy"][test.counts == size].mean()
        for size in (3, 4)
    ]
    assert shifted == pytest.approx(1e3 * np.abs(np.concatenate(left)).mean(), rel=1e-5)


def draw(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"energy": (len(sizes),), "forces": (sum(sizes), 3), "stress": (len(sizes), 3, 3)}
    return {
        name: torch.randn(*shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }, torch.tensor(sizes)


@pytest.mark.parametrize("per_atom", [False, True])
def test_batches_weighted_by_atoms_are_one_batch(per_atom):
    """3 large and 5 small structures: as one batch, and as two of very different composition."""
    sizes = (20, 30, 40, 2, 3, 2, 1, 2)
    loss = StructureLoss(dict.fromkeys(COSTS, 0.7), 12.5, COSTS, SCALES, per_atom)
    errors, atoms = draw(sizes)
    parts = [({n: v[:90] if n == "forces" else v[:3] for n, v in errors.items()}, atoms[:3])]
    parts.append(({n: v[90:] if n == "forces" else v[3:] for n, v in errors.items()}, atoms[3:]))
    cut = sum(float(loss(*part)[0]) * int(part[1].sum()) for part in parts) / 100
    assert float(loss(errors, atoms)[0]) == pytest.approx(cut, rel=1e-12)


def test_accumulated_batches_of_other_sizes_are_one_batch(data):
    config = config_for(data)
    task, model = build_task(config), EnergyForceTask.restore(config).double()
    dataset = split_loader(config, "train", load_statistics(data).references).dataset
    order = np.argsort(dataset.atoms_per_structure).tolist()
    whole, *parts = (
        dataset[rows].to(dtype=torch.float64) for rows in (order, order[:5], order[5:])
    )
    weighted = sum(task.samples(part) * task.loss(model, part)[0].item() for part in parts)
    assert task.loss(model, whole)[0].item() == pytest.approx(
        weighted / task.samples(whole), rel=1e-6
    )


@pytest.mark.parametrize(
    "per_atom, energy",
    [(False, lambda e, n: e.abs().mean()), (True, lambda e, n: (e.abs() / n).mean())],
)
def test_the_loss_is_the_weighted_sum_of_means(per_atom, energy):
    sizes = (4, 6, 2)
    errors, atoms = draw(sizes)
    total, parts = StructureLoss(
        {"energy": 0.3, "forces": 2.0, "stress": 0.0}, 4.0, COSTS, SCALES, per_atom
    )(errors, atoms)
    assert (
        torch.allclose(parts["energy"], energy(errors["energy"], atoms)) and "stress" not in parts
    )
    assert torch.allclose(parts["forces"], errors["forces"].norm(dim=1).mean())
    assert torch.allclose(total, 0.3 * parts["energy"] + 2 * parts["forces"])


def test_the_energy_weight_rises_late(data):
    config = config_for(data, "--late-energy-factor", "10", "--late-start", "0.5")
    task, model = build_task(config), EnergyForceTask.restore(config)
    batch = next(
        iter(split_loader(config, "train", load_statistics(data).references, training=True))
    )
    losses = []
    for task.progress in (0.0, 0.49, 0.5):
        total, parts = task.loss(model, batch)
        losses.append(total.item())
    assert losses[0] == losses[1] and losses[2] - losses[0] == pytest.approx(
        9 * 0.2 * float(parts["energy"]), rel=1e-4
    )
    assert LateWeights().factors(0.999) == {}


def test_energies_far_from_zero_lose_nothing(tmp_path):
    """-2e7 eV a structure: float32 resolves 2 eV there."""
    structures = random_structures((3,) * 16, elements=(6,))
    far = dataclasses.replace(structures, energy=structures.energy - 2e7)
    metrics = []
    for name, one in (("near", structures), ("far", far)):
        folder = make_data(tmp_path / name, one)
        config, references = config_for(folder), load_statistics(folder).references
        torch.manual_seed(0)
        model = EnergyForceTask.restore(config)
        set_references(model, load_statistics(folder))
        metrics.append(
            evaluate_model(
                model, build_task(config), split_loader(config, "test", references), CPU
            ).metrics
        )
    assert metrics[0]["energy_mae"] == pytest.approx(metrics[1]["energy_mae"], rel=1e-4)


def test_sets_without_forces_are_learned_by_their_energies(tmp_path):
    structures = dataclasses.replace(random_structures((3,) * 16), forces=None)
    config = config_for(make_data(tmp_path / "energies", structures))
    assert config.model.forces == "none" and config.loss.weight_forces == 0
    task, model = build_task(config), EnergyForceTask.restore(config)
    loader = split_loader(
        config, "train", load_statistics(config.data.data_path).references, training=True
    )
    loss, parts = task.loss(model, next(iter(loader)))
    assert set(parts) == {"energy"} and loss.requires_grad and task.curves == ["energy_mae"]
    evaluation = evaluate_model(model, task, loader, CPU)
    assert not any(name.startswith("force") for row in task.table(evaluation) for name in row)


def test_stress_is_learned_where_it_is_asked_for(tmp_path):
    folder = make_data(tmp_path / "crystals", random_crystals(count=6), cutoff=3.0, sizes=(2, 2, 2))
    options = [
        "--cutoff",
        "3",
        "--far-expansion",
        "lattice",
        "--stress",
        "--weight-stress",
        "0.5",
        "--schedule",
        "first-order1",
    ]
    config = config_for(folder, *options)
    task, model = build_task(config), EnergyForceTask.restore(config)
    loader = split_loader(config, "train", load_statistics(folder).references, training=True)
    loss, parts = task.loss(model, next(iter(loader)))
    loss.backward()
    assert (
        parts["stress"] > 0 and evaluate_model(model, task, loader, CPU).metrics["stress_mae"] > 0
    )


@pytest.mark.parametrize(("weight", "said"), [("0", True), ("1", False)])
def test_a_stress_that_is_not_learned_is_said(tmp_path, weight, said):
    folder = make_data(tmp_path / "crystals", random_crystals(count=6), cutoff=3.0, sizes=(2, 2, 2))
    options = ["--cutoff", "3", "--schedule", "first-order1", "--stress"]
    config = config_for(folder, *options, "--weight-stress", weight)
    parts = EnergyForceTask.build(config)
    lines = parts.task.describe(config, parts)
    assert any("stress is predicted but not learned" in line for line in lines) == said


def test_selection_is_the_loss_of_the_whole_split(data):
    """However the split is cut into batches; the late factor of the energy weight has no part in
    it.
    """
    for options in (
        [],
        [
            "--energy-per",
            "structure",
            "--force-loss",
            "mse",
            "--late-energy-factor",
            "9",
            "--late-start",
            "0.5",
        ],
    ):
        config = config_for(data, *options)
        torch.manual_seed(0)
        model, task = EnergyForceTask.restore(config), build_task(config)
        loader = split_loader(config, "train", load_statistics(data).references, training=True)
        expected, _ = task.loss(model.eval(), loader.dataset[range(len(loader.dataset))])
        task.progress = 1.0
        evaluation = evaluate_model(model, task, loader, CPU)
        assert len(loader) > 1 and task.selection(evaluation) == pytest.approx(
            float(expected), rel=1e-5
        )
        assert not any("loss" in row for row in task.table(evaluation))


def test_conservative_forces_are_evaluated_without_a_graph(data):
    config = config_for(data)
    model, task = EnergyForceTask.restore(config), build_task(config)
    loader = split_loader(config, "val", load_statistics(data).references)
    assert isinstance(loader.dataset, MoleculeDataset)
    found = evaluate_model(model, task, loader, CPU).metrics
    assert found["force_mae"] > 0 and all(weight.grad is None for weight in model.parameters())
    batch = next(iter(loader))
    with torch.no_grad():
        silent = model.eval()(batch)["forces"]
    assert torch.equal(silent, model.eval()(batch)["forces"].detach())


BAD = [
    (
        ["--weight-energy", "0", "--weight-forces", "0"],
        "loss weights must be >= 0 and not all zero",
    ),
    (
        ["--forces", "none", "--weight-forces", "1"],
        "--forces none predicts no forces; give --weight-forces 0",
    ),
    (["--weight-stress", "1"], "has no stress to learn; preprocess with --stress-key, or"),
    (["--stress"], "has no cells, so there is no stress to predict"),
    (["--cutoff", "4"], "holds the neighbours within 5.0 Angstrom, but 4.0 is needed"),
]


@pytest.mark.parametrize("arguments, message", BAD)
def test_what_cannot_be_learned_is_one_line(data, arguments, message):
    config = config_for(data, *arguments)
    with pytest.raises(ValueError, match=message) as error:
        build_task(config)
        split_loader(config, "train", load_statistics(data).references, training=True)
    assert "\n" not in str(error.value)


def test_stress_counts_in_the_choice_of_the_best(data):
    task = build_task(
        config_for(data, "--weight-stress", "1", "--weight-forces", "0", "--weight-energy", "0")
    )
    assert task.curves == ["stress_mae"]


def test_structures_that_the_network_refuses_are_named_before_training(tmp_path):
    slab = random_crystals(count=6, periodic=(True, True, False))
    folder = make_data(tmp_path / "slab", slab, cutoff=3.0, sizes=(2, 2, 2))
    config = config_for(
        folder, "--cutoff", "3", "--far-expansion", "lattice", "--run-dir", str(tmp_path / "run")
    )
    with pytest.raises(
        ValueError,
        match=r"train split of the data: the far field serves structures that are periodic in "
        r"all three",
    ):
        launch.build_trainer(config)
    assert not (tmp_path / "run").exists()


def test_a_composition_that_occurs_once_has_no_offset(data):
    with pytest.raises(
        ValueError, match=r"\d+ compositions occur once, their energy errors would be 0"
    ):
        evaluated(data, "per-composition")


def test_a_split_without_forces_is_judged_by_its_energies(data, tmp_path):
    """A network that learned forces, on data that have none: no traceback, no force columns."""
    trainer, _ = launch.build_trainer(config_for(data))
    bare = dataclasses.replace(random_structures(SIZES), forces=None)
    loader = split_loader(
        config_for(make_data(tmp_path / "bare", bare)),
        "test",
        load_statistics(data).references,
    )
    found = evaluate_model(trainer.model, trainer.task, loader, CPU, "float32")
    assert np.isnan(found.loss) and found.metrics["energy_mae"] > 0
    assert "force_mae" not in trainer.task.table(found)[0]
