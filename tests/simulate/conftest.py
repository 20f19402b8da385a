"""A potential that was trained for a moment on open structures of hydrogen, carbon and oxygen, and
structures for it.
"""

import numpy as np
import pytest
from ase import Atoms

from farfield.common import checkpoint
from farfield.train import train_md17
from tests.support.diffusion_runs import train_briefly
from tests.support.md_data import SMALL, make_data


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """``trained(*options)``: best checkpoint of a short run with them."""

    def train(*options):
        folder = tmp_path_factory.mktemp("run")
        paths = ["--run-dir", str(folder), "--data-path", str(data)]
        train_md17.main([*paths, *SMALL, "--epochs", "5", "--lr", "0.02", *options])
        return folder / checkpoint.BEST

    return train


@pytest.fixture(scope="session")
def potential(trained):
    """Near and far field, for open and periodic structures."""
    return trained("--far-expansion", "auto")


@pytest.fixture(scope="session")
def diffusions(data, tmp_path_factory):
    """Checkpoints of runs of train_diffusion, by what was learned: joint, noise, time.

    ``other_time`` belongs to another process.
    """
    folder = tmp_path_factory.mktemp("diffusions")
    found = {
        name: train_briefly(folder / name, data, "--objective", name)
        for name in ("joint", "noise", "time")
    }
    other = ["--objective", "time", "--diffusion-steps", "40"]
    return found | {"other_time": train_briefly(folder / "other", data, *other)}


@pytest.fixture
def molecule():
    rng = np.random.default_rng(1)
    return Atoms("CHOHC", 1.3 * rng.standard_normal((5, 3)))


@pytest.fixture
def crystal():
    rng = np.random.default_rng(2)
    cell = 9.5 * np.eye(3) + 0.5 * rng.standard_normal(
        (3, 3)
    )  # large enough for waves of the far field
    return Atoms("COHC", rng.uniform(0, 4, (4, 3)), cell=cell, pbc=True)
