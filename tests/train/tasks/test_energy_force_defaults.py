"""What the data say of options that nobody names."""

import dataclasses

import pytest

from farfield.dataloader.label_statistics import Statistics
from farfield.train.tasks.energy_force_defaults import options_from_data

USUAL = Statistics(
    structures=50,
    references={1: 0.0},
    energy_std=1.0,
    energy_per_atom_std=0.1,
    compound_std=0.0,
    force_rms=1.0,
    force_size=0.9,
    stress_rms=0.0,
    average_neighbors=12.5,
    average_atoms=9.0,
    typical_atoms=9,
    largest_atoms=9,
    design_radius=3.5,
)
NAMES = ("avg_degree", "avg_atoms", "far_design_radius", "stress", "weight_stress", "lr")
NAMES += ("weight_energy", "weight_forces", "force_loss", "forces", "batch_size")


def found(values=None, **statistics) -> dict:
    options = dict.fromkeys(NAMES) | {"forces": "conservative"} | (values or {})
    limits = {"max_atoms_per_batch": None, "max_edges_per_batch": None}
    return options_from_data(dataclasses.replace(USUAL, **statistics), limits | options)


def test_sizes_of_the_data():
    sizes = {"avg_degree": 12.5, "avg_atoms": 9.0, "far_design_radius": 3.5, "batch_size": 8}
    assert found() == sizes
    assert found(average_neighbors=0.0, design_radius=0.5) == {
        **sizes,
        "avg_degree": 1.0,
        "far_design_radius": 1.0,
    }
    # options that a script does not have are left out
    assert options_from_data(USUAL, {"max_atoms_per_batch": 1, "max_edges_per_batch": None}) == {}


@pytest.mark.parametrize(
    "atoms, values, size",
    [
        (9.0, {}, 8),
        (20.0, {}, 4),
        (400.0, {}, 1),
        (9.0, {"batch_size": 3}, None),
        (9.0, {"batch_size": 3, "max_atoms_per_batch": 99}, 50),
        (9.0, {"max_edges_per_batch": 99}, 50),
    ],
)
def test_a_batch_has_72_atoms_unless_it_is_limited(atoms, values, size):
    assert found(values, average_atoms=atoms).get("batch_size") == size


def test_many_compounds_are_learned_with_smooth_costs():
    many = found(compound_std=2.0)
    assert (many["weight_energy"], many["weight_forces"], many["lr"]) == (1.0, 4.0, 2e-3)
    assert many["force_loss"] == "pseudo_huber"
    assert found(compound_std=2.0, average_atoms=400.0)["batch_size"] == 4
    assert "lr" not in found(compound_std=0.9)
    assert "lr" not in found(compound_std=2.0, force_size=0.0)


def test_stress_is_learned_where_forces_are_slopes():
    learned = found(stress_rms=0.5)
    assert learned["stress"] is True and learned["weight_stress"] == 0.1
    assert "stress" not in found(stress_rms=0.5, force_rms=0.0)
    assert "stress" not in found({"forces": "direct"}, stress_rms=0.5)


def test_energies_alone_are_learned_without_forces():
    alone = {"weight_forces": 0.0, "weight_energy": 1.0}
    assert found(force_rms=0.0).items() >= {**alone, "forces": "none"}.items()
    assert found({"forces": "none"}).items() >= alone.items()
    assert "forces" not in found({"forces": "none"})
