"""A folder with what the documents work on: tiny data and a checkpoint trained for a moment."""

import pytest

from farfield.preprocess import preprocess_md17
from farfield.train import train_md17

TINY = ["--irreps", "4x0e+4x1o", "--schedule", "hybrid-first-order1", "--no-progress"]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """``data/ethanol_sample``, ``runs/ethanol`` and ``mine.xyz``, as after ``make train``."""
    folder = tmp_path_factory.mktemp("documents")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        preprocess_md17.main(["--sample", "--out", "data/ethanol_sample"])
        run = ["--data-path", "data/ethanol_sample", "--run-dir", "runs/ethanol"]
        train_md17.main([*run, *TINY, "--epochs", "1", "--max-cpu-minutes", "0.02"])
    return folder
