"""Sets of many compounds, and of open and periodic structures together: what the data decide, and
that such sets train.
"""

import dataclasses

import numpy as np
import pytest
import torch

from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.prepared_folder import load_statistics
from farfield.dataloader.structures import Structures
from farfield.train import train_potential
from farfield.train.launch import build_trainer
from farfield.train.losses import StructureLoss
from farfield.train.results import prepare_run_folder
from farfield.train.tasks.energy_force_checks import stress_weight
from farfield.train.tasks.energy_forces import EnergyForceTask, build_task, split_loader
from farfield.train.tasks.task import evaluate_model
from tests.support.md_data import config_for, make_data
from tests.support.molecule_data import random_crystals

CUTOFF = 5.0  # longer than the cells of 3 Angstrom
NEAR = ["--schedule", "first-order1"]


def options_of(folder, *arguments):
    return config_for(folder, *NEAR, *arguments, script=train_potential.SCRIPT)


def crystals(count: int, seed: int = 0) -> Structures:
    """Crystals with a symmetric stress."""
    found = random_crystals(count=count, seed=seed)
    found.stress = (found.stress + found.stress.transpose(0, 2, 1)) / 2
    return found


def mixed_set() -> Structures:
    """Crystals in cells smaller than the cutoff, and the same atoms as open structures, which
    keep the cells of their file.
    """
    periodic = crystals(6)
    alone = dataclasses.replace(
        periodic,
        periodic=np.zeros((6, 3), bool),
        stress=np.zeros((6, 3, 3)),
    )
    return Structures.concatenate([periodic, alone])


@pytest.mark.parametrize("schedule", ["first-order1", "hybrid-first-order1"])
def test_small_cells_and_open_structures_train_together(tmp_path, schedule):
    """Open structures have no stress, whatever the batch, and do not count in its error."""
    folder = make_data(tmp_path / "mixed", mixed_set(), cutoff=CUTOFF, sizes=(4, 4, 4))
    run = ["--run-dir", str(tmp_path / "run"), "--epochs", "2", "--far-expansion", "auto"]
    config = options_of(folder, *run, "--schedule", schedule)
    trainer, _ = build_trainer(config)
    prepare_run_folder(trainer.folder, False, False)
    assert trainer.fit()
    assert all(np.isfinite(row["train_loss"]) for row in trainer.history)

    loader = split_loader(config, "test", load_statistics(folder).references)
    dataset, model = loader.dataset, trainer.model.eval()
    is_open = ~dataset.structures.periodic.any(1)
    assert is_open.any() and not is_open.all()
    stress = model(dataset[np.arange(4)])["stress"].detach().numpy()
    assert (stress[is_open] == 0).all() and (stress[~is_open] != 0).any()
    found = evaluate_model(model, trainer.task, loader, torch.device("cpu")).metrics["stress_mae"]
    wrong = np.abs(stress - dataset.structures.stress)[~is_open]
    assert found == pytest.approx(1e3 * wrong.mean(), rel=1e-4)

    # open structures alone, in a batch of a mixed set
    alone = model(dataset[np.flatnonzero(is_open)])["stress"]
    assert not alone.any()


def test_stress_is_learned_where_the_data_have_it(tmp_path):
    folder = make_data(tmp_path / "set", crystals(6), cutoff=CUTOFF, sizes=(2, 2, 2))
    config = options_of(folder)
    assert config.model.stress and "stress" in build_task(config).objective.weights
    assert {"stress", "weight_stress"} <= set(config.measured)

    # not where the user wants none, nor with forces that are no slope
    config = options_of(folder, "--no-stress")
    assert stress_weight(config) == 0
    EnergyForceTask.build(config)
    assert not options_of(folder, "--forces", "direct").model.stress

    # energies and stresses without forces: energies alone
    without = dataclasses.replace(crystals(6), forces=None)
    folder = make_data(tmp_path / "without", without, cutoff=CUTOFF, sizes=(2, 2, 2))
    assert list(EnergyForceTask.build(options_of(folder)).task.objective.weights) == ["energy"]


def test_stress_counts_the_same_in_every_supercell():
    """An error of the stress counts per atom: with the same density, and the number of atoms."""
    generator = torch.Generator().manual_seed(0)
    error = torch.randn(1, 3, 3, generator=generator, dtype=torch.float64)
    costs, scales = {"stress": "vector_norm"}, {"stress": 1.0}
    loss = StructureLoss({"stress": 1.0}, 4.0, costs, scales, stress_per_atom=True)
    small, _ = loss({"stress": error}, torch.tensor([4]), volumes=torch.tensor([30.0]))
    double = StructureLoss({"stress": 1.0}, 8.0, costs, scales, stress_per_atom=True)
    large, _ = double({"stress": error}, torch.tensor([8]), volumes=torch.tensor([60.0]))
    assert float(small) == pytest.approx(float(large), rel=1e-12)
    assert float(small) == pytest.approx(float((error * 30 / 4).norm()), rel=1e-12)


def relaxed(forces: float, seed: int = 0) -> Structures:
    """Crystals whose energies scatter by 1 eV per atom, with forces of this size."""
    found = crystals(12, seed)
    rng = np.random.default_rng(seed)
    found.energy = 5.0 * rng.standard_normal(12)
    found.forces = forces * rng.standard_normal(found.forces.shape)
    return found


def test_the_scale_is_the_larger_one_of_energies_and_forces(tmp_path):
    """Relaxed crystals have small forces: energies are out of reach of a network in their unit."""
    statistics = Statistics.of(relaxed(0.007), 10)
    assert statistics.varies_by_composition
    assert statistics.learned_scale == statistics.energy_per_atom_std > 0.3
    statistics = Statistics.of(relaxed(3.0), 10)
    assert not statistics.varies_by_composition
    assert statistics.force_size == pytest.approx(3.0, rel=0.1)
    assert statistics.learned_scale == statistics.force_rms

    # a few wild forces do not decide
    wild = relaxed(0.007)
    wild.forces[0] = 100.0
    assert Statistics.of(wild, 10).force_size < Statistics.of(wild, 10).force_rms / 4

    folder = make_data(tmp_path / "set", relaxed(0.007), cutoff=CUTOFF, sizes=(8, 2, 2))
    config = options_of(folder)
    parts = EnergyForceTask.build(config)
    assert float(parts.model.reference.scale) == load_statistics(folder).learned_scale
    assert (config.training.lr, config.model.element_start) == (2e-3, "periodic_table")
    assert parts.task.objective.costs["forces"] == "pseudo_huber"
    assert options_of(folder, "--lr", "0.01").training.lr == 0.01
