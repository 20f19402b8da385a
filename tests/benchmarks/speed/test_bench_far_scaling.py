"""The systems and exponents of the scaling benchmark, and a run of a moment."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from benchmarks.speed import bench_far_scaling as bench
from benchmarks.speed import far_scaling_systems as systems
from tests.support.trajectory_files import write_molecule


@pytest.mark.parametrize("atoms", [60, 1000])
def test_a_cluster_has_its_density_and_no_contact(atoms):
    found = systems.cluster(atoms)
    assert len(found.atomic_numbers) == atoms
    radius = np.linalg.norm(found.positions, axis=1).max()
    density = atoms / (4 / 3 * np.pi * radius**3)
    assert density == pytest.approx(systems.DENSITY, rel=0.15)
    assert cKDTree(found.positions).query(found.positions, 2)[0][:, 1].min() > systems.CLOSEST
    assert set(found.atomic_numbers) == set(systems.ELEMENTS)


def test_a_box_of_water_is_whole_and_has_its_density():
    found = systems.water(1000)
    cell = found.cell[0]
    assert found.num_atoms == 3 * 7**3 and found.periodic.all()
    assert found.num_atoms / np.linalg.det(cell) == pytest.approx(systems.DENSITY)

    # distances over the walls too: O-H bonds within molecules, no other contact
    wrapped = found.positions % cell[0, 0]
    pairs = cKDTree(wrapped, boxsize=cell[0, 0]).query_pairs(1.1, output_type="ndarray")
    assert len(pairs) == 2 * 7**3 and (pairs[:, 0] // 3 == pairs[:, 1] // 3).all()


def test_molecules_come_from_files_where_there_are_any(tmp_path):
    write_molecule(tmp_path / "md17" / "aspirin_train.npz", 2, 0, atoms=5)
    found = systems.small_molecules("aspirin x 4", str(tmp_path))
    assert found.counts.tolist() == [5] * 4
    np.testing.assert_array_equal(found.positions[:5], found.positions[5:10])
    with pytest.raises(FileNotFoundError, match="no md22_buckyball-catcher.npz"):
        systems.small_molecules("148 atoms", str(tmp_path))
    assert systems.small_molecules("148 atoms").counts.tolist() == [148]
    assert systems.small_molecules(systems.ETHANOL).counts.tolist() == [9] * 8


def test_exponents_are_those_of_power_laws():
    rows = [
        {"system": "water", "step": "train", "model": "near", "atoms": atoms}
        | {"milliseconds": 2 * atoms**1.5}
        for atoms in (10, 100, 3000)
    ]
    (found,) = bench.exponent_rows(rows)
    assert found["time"] == pytest.approx(1.5) and found["memory"] is None
    assert bench.exponent_rows([{**rows[0], "system": systems.ETHANOL}]) == []
    assert bench.exponent(rows[:1], "milliseconds") is None


def test_ratios_are_taken_round_by_round():
    found = bench.ratios([2.0, 9.0, 30.0], [1.0, 3.0, 20.0])
    assert found == {"ratio": 2.0, "least": 1.5, "most": 3.0}


def test_a_run_of_a_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "SIZES", (30, 60))
    arguments = ["--systems", "cluster,water,ethanol x 8", "--models", "near,hybrid"]
    arguments += ["--rounds", "1", "--no-memory", "--json", str(tmp_path / "rows.json")]
    threads = torch.get_num_threads()
    bench.main([*arguments, "--option", "irreps=8x0e+8x1o,radial_hidden=8,far_heads=1"])
    torch.set_num_threads(threads)

    found = json.loads((tmp_path / "rows.json").read_text())
    rows = {(row["system"], row["step"], row["atoms"], row["model"]): row for row in found["rows"]}
    assert len(rows) == len(found["rows"]) == 2 * 2 * (2 + 2 + 1)
    for row in rows.values():
        assert row["milliseconds"] > 0
    assert {row["ratio"] for row in rows.values() if row["model"] == "near"} == {1.0}
    near = rows["ethanol x 8", "train", 72, "near"]
    assert rows["ethanol x 8", "train", 72, "hybrid"]["weights"] > near["weights"]
    assert len(found["exponents"]) == 2 * 2 * 2


def test_steps_of_evaluation_have_no_graph_and_those_of_training_have():
    for step, graph in {"predict": False, "train": True}.items():
        made = bench.program(systems.ETHANOL, 0, None, "hybrid", {}, step)
        with torch.enable_grad():
            energy, forces = made.run()
        assert energy.requires_grad is forces.requires_grad is graph
        assert (made.atoms, len(forces)) == (72, 72)
