"""preprocess_nbody reads the pickles of public programs as simulations."""

import pickle

import numpy as np
import pytest

from farfield.dataloader.datasets.nbody_data import NBodyDataset
from farfield.dataloader.sources.nbody_pickles import read_public_nbody
from farfield.dataloader.sources.nbody_simulation import simulate_nbody
from farfield.preprocess.preprocess_nbody import main


def write(path, count, seed=0, dynamics="charged", **changes):
    """A file as the public generator writes it; gives back the simulations."""
    generator = np.random.RandomState(seed)  # noqa: NPY002 - part of the protocol
    found = simulate_nbody(count, generator, 3, dynamics, frames=12)
    content = {
        "points": found["positions"].swapaxes(2, 3),
        "vel": found["velocities"].swapaxes(2, 3),
        "edges": found.get("springs", np.zeros((count, 3, 3))),
        "E": np.zeros(12),
        "delta_T": 0.001,
        "sample_freq": 100,
        "args": {"name": "small"},
    }
    if dynamics == "charged":
        content["charges"] = found["charges"][..., None]
    path.write_bytes(pickle.dumps(content | changes))
    return found


@pytest.mark.parametrize("dynamics", ["charged", "springs"])
def test_the_simulations_are_those_of_the_files(tmp_path, dynamics):
    train, test = tmp_path / "nbody_train.pkl", tmp_path / "nbody_test.pkl"
    first, second = write(train, 7, 0, dynamics), write(test, 4, 1, dynamics)
    command = ["--train-file", str(train), "--test-file", str(test), "--lmax", "1"]
    command += ["--train", "4", "--val", "3", "--test", "4", "--out", str(tmp_path / "out")]
    main(command)
    expected = {"train": first["positions"][:4], "val": first["positions"][4:]}
    expected["test"] = second["positions"]
    for split, positions in expected.items():
        dataset = NBodyDataset(tmp_path / "out", split, horizon=2)
        assert np.array_equal(dataset.positions, positions.astype(np.float32))
        assert (dataset.springs is None) == (dynamics == "charged")

    # the same command finds it; another file is refused
    main(command)
    write(train, 7, 5, dynamics)
    with pytest.raises(ValueError, match="give --rebuild"):
        main(command)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sample_freq": 10}, r"frames must be 0\.1 apart, got 0\.01"),
        ({"vel": np.zeros(3)}, r"vel must be numbers of the shape \(2, 12, 3, 3\)"),
        ({"charges": np.full((2, 3, 1), np.nan)}, "charges are not finite"),
        ({"sim": print}, "names builtins.print, which could run code"),
    ],
)
def test_files_that_cannot_be_right_are_refused(tmp_path, changes, words):
    path = tmp_path / "nbody_train.pkl"
    write(path, 2, **changes)
    with pytest.raises(ValueError, match=words):
        read_public_nbody(path)


def test_too_few_simulations_and_half_a_pair_are_refused(tmp_path):
    train, test = tmp_path / "a.pkl", tmp_path / "b.pkl"
    write(train, 3), write(test, 2)
    options = ["--train-file", str(train), "--out", str(tmp_path / "out"), "--train", "3"]
    with pytest.raises(ValueError, match="--train-file and --test-file are read together"):
        main(options)
    with pytest.raises(ValueError, match=r"a\.pkl has 3 simulations, 4 are asked for"):
        main([*options, "--test-file", str(test), "--val", "1", "--test", "2"])
    assert not (tmp_path / "out" / "nbody_train.npz").exists()
