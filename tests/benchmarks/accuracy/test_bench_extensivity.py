"""The report of extensivity against potentials whose interactions are known."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from benchmarks.accuracy import bench_extensivity as bench
from benchmarks.accuracy import extensivity_probes as probes
from farfield.common import checkpoint
from farfield.train import train_md17
from tests.support.md_data import SMALL, make_data
from tests.support.probe_files import save_pairs


class Power:
    """E = sum over all pairs of c / r^n: far apart two molecules interact by c N_A N_B / r^n."""

    def __init__(self, power, constant=1.0):
        self.power, self.constant = power, constant

    def predict(self, structures):
        return [self.of(atoms.positions) for atoms in structures]

    def of(self, positions):
        length = cdist(positions, positions) + np.diag(np.full(len(positions), np.inf))
        size = self.constant / length**self.power
        vector = positions[:, None] - positions[None]
        force = (self.power * size / length**2)[:, :, None] * np.nan_to_num(vector)
        return {"energy": size.sum() / 2, "forces": force.sum(1)}


def own(charge=0.0):
    return list(probes.own_pairs(*probes.own_molecule({1, 8}), charge))


def test_exponents_and_largest_interactions_of_a_power_law():
    found = bench.interactions(Power(6), own())
    for probe, row in zip(own(), found, strict=True):
        positions = [part.positions for part in probe.parts]
        length = cdist(*positions)
        assert row["energy"] == pytest.approx(1e3 * (length**-6.0).sum(), rel=1e-6, abs=1e-8)
        change = (6 * length**-8.0)[:, :, None] * (positions[0][:, None] - positions[1][None])
        sizes = np.linalg.norm(np.concatenate([change.sum(1), change.sum(0)]), axis=1)
        assert row["forces"] == pytest.approx(1e3 * sizes.max(), rel=1e-6, abs=1e-8)

    rows = bench.largest_rows(found)
    assert [row["distance"] for row in rows] == list(probes.DISTANCES)
    assert all(row["structures"] == probes.ORIENTATIONS for row in rows)
    first = [abs(row["energy"]) for row in found if row["distance"] == 8.0]
    assert rows[0]["energy"] == max(first)
    (decay,) = bench.decay_rows(found)
    assert decay["exponent"] == pytest.approx(6, abs=0.4)


def test_slope_of_charged_pairs():
    """Three atoms with a third of a charge each."""
    found = bench.interactions(Power(1, bench.COULOMB / 9), own(charge=1.0))
    (decay,) = bench.decay_rows(found)
    assert decay["slope"] == pytest.approx(14.4, rel=1e-3)
    assert decay["slope_of_charges"] == pytest.approx(14.4, rel=1e-3)


def test_kinds_with_unknown_elements_are_said(capsys):
    kept = bench.askable(own() + [probes.own_ghosts(probes.own_molecule({1, 8})[1], "Ne")], {1, 8})
    assert len(kept) == len(own())
    assert capsys.readouterr().out == ("20 Ne, H2O: skipped, the checkpoint does not know Ne\n")


def test_report_of_a_checkpoint(tmp_path, capsys):
    data = make_data(tmp_path / "data")
    run = tmp_path / "run"
    train_md17.main(["--run-dir", str(run), "--data-path", str(data), *SMALL, "--epochs", "1"])
    save_pairs(tmp_path, charges=(0.0, 0.0))
    options = ["--checkpoint", str(run / checkpoint.BEST), "--probes", str(tmp_path)]
    bench.main([*options, "--json", str(tmp_path / "rows.json")])
    assert "20 Ne, C2H6O: skipped" in capsys.readouterr().out
    found = json.loads((tmp_path / "rows.json").read_text())
    kinds = {row["kind"]: row for row in found["pairs"]}
    assert set(kinds) == {"ethanol ethanol", "one"}
    assert kinds["one"]["energy_gfn2"] == pytest.approx(700)
    assert {row["kind"] for row in found["ghosts"]} == {
        "20 H2, C2H6O",
        "20 H2O, C2H6O",
        "one O, H2",
    }
    assert all(np.isfinite(row["energy"]) for row in found["pairs"])
