"""Laws of a training by two ranks: the same numbers as one process, whatever is trained; one log,
one error, one end.
"""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch

from farfield.common import checkpoint
from farfield.dataloader.datasets.nbody_data import simulate_nbody
from farfield.preprocess import preprocess_qm9
from farfield.train import train_md17, train_nbody, train_qm9
from tests.support import md_data
from tests.support.qm9_data import molecules
from tests.support.rank_processes import RankProcesses
from tests.support.run_results import CLOCKS, results_of

EQUAL = 1e-6
COMMON = ["--no-progress", "--precision", "float64", "--epochs", "2", "--lr", "0.01"]
SMALL = [*COMMON, "--warmup-steps", "2", "--ema-decay", "0.9"]


def structures_folder(folder):
    """Random structures of 2 to 6 atoms with energies and forces."""
    return md_data.make_data(folder / "structures")


def molecules_folder(folder):
    """Disturbed molecules with a made-up polarisability."""
    one = molecules(("CH4", "NH3", "H2O", "HCN", "H2CO", "CH3OH", "C2H6", "CH3CN"))
    whole = type(one).concatenate([one] * 3)
    rng = np.random.default_rng(0)
    positions = whole.positions + 0.1 * rng.normal(size=whole.positions.shape)
    file = folder / "molecules.npz"
    np.savez(
        file,
        n_atoms=whole.counts,
        Z=whole.atomic_numbers,
        R=positions,
        gdb_id=np.arange(1, 1 + len(whole)),
        alpha=rng.normal(size=len(whole)),
    )
    sizes = ["--train", "13", "--val", "5", "--graph", "cutoff", "--lmax", "1"]
    preprocess_qm9.main(["--file", str(file), "--out", str(folder / "qm9"), *sizes])
    return folder / "qm9"


def bodies_folder(folder):
    """Simulations of charged bodies."""
    rng = np.random.RandomState(3)  # noqa: NPY002 - of the public protocol
    for split, count in (("train", 11), ("test", 3), ("val", 3)):
        arrays = {name: values.astype("f4") for name, values in simulate_nbody(count, rng).items()}
        file = folder / f"nbody_{split}.npz"
        np.savez(file, **arrays, metadata=json.dumps({"dynamics": "charged"}))
    return folder


# many small batches of validation and test, so that both ranks have some
SMALL_EVALUATIONS = """
from farfield.train.tasks import energy_forces, nbody_windows, properties

energy_forces.EnergyForceTask.max_evaluation_atoms = 6
properties.PropertyTask.max_evaluation_atoms = 8
nbody_windows.WINDOWS_PER_EVALUATION_BATCH = 1
"""
E2FORMER = ["--irreps", "4x0e+4x1o", "--schedule", "hybrid-first-order1", "--radial-size", "4"]
CASES = {
    # turned copies of two batches a step, each of three structures, which two ranks share
    "energies and forces": (
        train_md17,
        structures_folder,
        [*md_data.NETWORK, *md_data.flags(batch_size=3, accumulate=2, augment_copies=2)]
        + ["--far-expansion", "pairwise", "--augment", "orthogonal"],
    ),
    "properties": (
        train_qm9,
        molecules_folder,
        [*E2FORMER, "--batch-size", "4", "--targets", "alpha", "--weight-decay", "0.1"],
    ),
    "bodies": (
        train_nbody,
        bodies_folder,
        ["--layers", "1", "--channels", "4", "--lmax", "1", "--batch-size", "5"],
    ),
}


@pytest.mark.parametrize("epochs", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_as_one_process(name, epochs, tmp_path):
    script, make, options = CASES[name]
    common = ["--data-path", str(make(tmp_path)), *SMALL, *options, "--epochs", str(epochs)]
    one, two = tmp_path / "one", tmp_path / "two"
    script.main(["--run-dir", str(one), *common])
    module = script.__name__.removeprefix("farfield.")
    plugin = tmp_path / "plugin.py"
    plugin.write_text(SMALL_EVALUATIONS)
    command = ["-m", module, "--run-dir", str(two), "--import", str(plugin), *common]
    ends = RankProcesses(command, command).wait()
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr

    # the same weights, averages and moments
    first, second = (checkpoint.read_checkpoint(folder / checkpoint.LAST) for folder in (one, two))
    assert first["position"]["step"] == second["position"]["step"] >= 2 * epochs
    for part in ("weights", "averaged"):
        for key, value in first[part].items():
            assert torch.allclose(value, second[part][key], rtol=0, atol=EQUAL), key

    # the same errors of all splits, up to the rounding of the weights
    a, b = results_of(one), results_of(two)
    assert b["ranks"] == 2
    for before, now in zip(a["history"], b["history"], strict=True):
        kept = [key for key in before if key not in CLOCKS]
        assert [now[key] for key in kept] == pytest.approx([before[key] for key in kept], 1e-5)
    for before, now in zip(a["test"], b["test"], strict=True):
        assert list(now.values()) == [
            pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
            for value in before.values()
        ]

    # one of them speaks
    assert ends[0].stdout and not ends[1].stdout and not ends[0].stderr + ends[1].stderr


def options_of(tmp_path, *more):
    data = structures_folder(tmp_path)
    small = [*md_data.NETWORK, "--far-expansion", "pairwise", "--batch-size", "3", *SMALL]
    return ["-m", "train.train_md17", "--data-path", str(data), *small, *more]


def test_a_signal_to_one_rank_stops_all(tmp_path):
    command = options_of(tmp_path, "--run-dir", str(tmp_path / "run"))
    endless = [*command, "--epochs", "100000"]
    ranks, log = RankProcesses(endless, endless), tmp_path / "run" / "log.txt"
    while ranks.scripts[1].process.is_alive():
        if log.exists() and "\nepoch" in log.read_text():
            ranks.scripts[1].send_signal(signal.SIGTERM)
            break
        ranks.scripts[1].process.join(0.1)

    ends = ranks.wait()
    assert [end.returncode for end in ends] == [130, 130], ends
    said = ends[0].stderr + ends[1].stderr
    assert said.startswith("SIGTERM: saved") and said.count("\n") == 1

    # one process goes on
    before = checkpoint.read_checkpoint(tmp_path / "run" / checkpoint.LAST)["position"]
    train_md17.main([*command[2:], "--resume", "--epochs", str(before["epoch"] + 2)])
    assert "note: ranks: 2 before, 1 now" in log.read_text()
    assert results_of(tmp_path / "run")["steps"] > before["step"]


def test_an_error_of_the_first_rank_ends_all_in_one_line(tmp_path):
    command = options_of(tmp_path, "--run-dir", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").touch()
    ends = RankProcesses(command, command).wait()
    assert [end.returncode for end in ends] == [2, 2]
    said = ends[0].stderr + ends[1].stderr
    assert "already holds a run" in said and said.count("\n") == 1


def test_ranks_with_other_options_are_refused(tmp_path):
    command = options_of(tmp_path, "--run-dir", str(tmp_path / "run"))
    ends = RankProcesses(command, [*command, "--seed", "1"]).wait()
    assert [end.returncode for end in ends] == [2, 2]
    said = ends[0].stderr + ends[1].stderr
    assert "rank 1 has other options than rank 0" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()
