"""The comparison of near and far fields on data made here: a charge beyond the cutoff is heard."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.accuracy import bench_far_sight as bench
from benchmarks.accuracy import far_sight_models as models

TINY = {
    "radial_hidden": 8,
    "element_size": 4,
    "far_heads": 2,
    "far_value_channels": 2,
    "far_kernel_lmax": 0,
}
QUICK = {"warmup_steps": 5, "lr": 1e-2}


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """A small case ``two_atoms``: opposite charges 5.5 .. 9 Angstrom apart, beyond the cutoff."""
    generator = np.random.default_rng(0)
    distance = generator.uniform(5.5, 9.0, 200)
    direction = generator.normal(size=(200, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    half = 0.5 * distance[:, None] * direction
    force = (-1.1 / distance**2)[:, None] * direction  # of the first atom, drawn towards the second
    content = {
        "Z": np.array([1, 2]),
        "R": np.stack([half, -half], 1),
        "E": -1.1 / distance,
        "F": np.stack([force, -force], 1),
    }
    (tmp_path / "below").mkdir()
    np.savez(tmp_path / "below" / "two_atoms.npz", **content)
    sizes = {
        "sizes": (120, 30, 50),
        "lmax": 1,
        "schedule": "hybrid-first-order1",
        "channels": 12,
        "batch_size": 30,
    }
    case = dataclasses.replace(bench.CASES["two_atoms"], **sizes, model=TINY, training=QUICK)
    monkeypatch.setitem(bench.CASES, "two_atoms", case)
    return tmp_path


def test_far_field_hears_a_charge_beyond_the_cutoff_and_runs_are_read_back(pairs, capsys):
    arguments = [
        "--data-path",
        str(pairs),
        "--sets",
        "two_atoms",
        "--models",
        "near,hybrid",
        "--minutes",
        "0.06",
    ]
    arguments += ["--run-dir", str(pairs / "runs"), "--json", str(pairs / "rows.json")]
    bench.main(arguments)
    first = capsys.readouterr().out.splitlines()[-2:]
    rows = {row["model"]: row for row in json.loads((pairs / "rows.json").read_text())["rows"]}
    floor = rows["near"]["baseline"]
    assert rows["near"]["energy_mae"] > 0.8 * floor  # no edge: nothing to learn but a constant
    assert rows["hybrid"]["energy_mae"] < 0.4 * floor
    assert rows["near"]["ratio"] == pytest.approx(
        rows["near"]["energy_mae"] / rows["hybrid"]["energy_mae"]
    )
    assert (
        abs(rows["near"]["weights"] - rows["hybrid"]["weights"])
        <= models.TOLERANCE * rows["hybrid"]["weights"]
    )
    stamps = {path: path.stat().st_mtime_ns for path in pairs.rglob("checkpoint_last.pt")}
    bench.main(arguments)
    assert capsys.readouterr().out.splitlines()[-2:] == first
    assert {path: path.stat().st_mtime_ns for path in pairs.rglob("checkpoint_last.pt")} == stamps


def test_channels_are_matched_or_refused(monkeypatch):
    monkeypatch.setattr(models, "count_weights", lambda options: options["channels"] ** 2)
    assert models.matched_channels(95, lambda channels: {"channels": channels}, 2) == 10
    with pytest.raises(ValueError, match="120 weights within 10%: 10 give 100"):
        models.matched_channels(120, lambda channels: {"channels": channels}, 2)


def test_bad_names_and_missing_files_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="--sets must be one of .* did you mean 'two_atoms'"):
        bench.main(["--sets", "two_atom"])
    with pytest.raises(FileNotFoundError, match="there is no two_atoms.npz below"):
        bench.main(["--sets", "two_atoms", "--data-path", str(tmp_path)])
    with pytest.raises(ValueError, match="--option must be name=value .* got 'far_head=3'"):
        bench.main(["--sets", "two_atoms", "--option", "far_head=3"])


def test_median_and_worst_are_over_the_seeds():
    tests = [{"energy_mae": value, "energy_rmse": 2 * value} for value in (1.0, 2.0, 9.0)]
    found = bench.error_columns(tests)
    assert (found["energy_mae"], found["energy_mae_median"], found["energy_mae_worst"]) == (4, 2, 9)
    assert found["energy_rmse_worst"] == 18
    assert not [name for name in found if name.startswith("force")]


def test_options_of_the_command_line_have_run_folders_of_their_own():
    arguments = ["--sets", "two_atoms", "--option"]
    folders = {
        bench.run_folder(bench.build_parser().parse_config([*arguments, text]).bench, "sn2", "near")
        for text in ("far_heads=2", "far_heads=4", "none")
    }
    assert len(folders) == 3
