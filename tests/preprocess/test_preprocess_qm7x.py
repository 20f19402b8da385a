"""preprocess_qm7x: folders whose splits keep molecules whole, and networks that train on them."""

import numpy as np
import pytest

from farfield.common import checkpoint
from farfield.dataloader.prepared_folder import finished_structures
from farfield.dataloader.split_protocols import SPLITS
from farfield.preprocess.preprocess_qm7x import main
from farfield.train import train_potential
from tests.support.diffusion_runs import train_briefly
from tests.support.md_data import SMALL
from tests.support.qm7x_data import small_molecules, write_qm7x


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of ten molecules with what is displaced from them."""
    folder = tmp_path_factory.mktemp("qm7x")
    molecules = list(small_molecules().items())
    write_qm7x(folder / "1000.hdf5", dict(molecules[:6]))
    write_qm7x(folder / "2000.hdf5", dict(molecules[6:]))
    files = ["--data-path", str(folder), "--sets", "1000,2000"]
    main([*files, "--kind", "all", "--out", str(folder / "data")])
    return folder / "data"


def molecules_of(folder, split: str) -> set[int]:
    """Numbers of the molecules of a split."""
    return set(finished_structures(folder, split).extra["molecule"].tolist())


def test_molecules_are_on_one_side_in_the_published_shares(prepared):
    parts = [molecules_of(prepared, split) for split in SPLITS]
    assert [len(part) for part in parts] == [6, 2, 2]  # 4500 : 1250 : 1200
    assert set.union(*parts) == set(range(1, 11))
    for split, part in zip(SPLITS, parts, strict=True):
        assert len(finished_structures(prepared, split)) == 3 * len(part)


def test_sizes_are_numbers_of_molecules(tmp_path, capsys):
    write_qm7x(tmp_path / "1000.hdf5", small_molecules())
    files = ["--data-path", str(tmp_path), "--sets", "1000", "--kind", "displaced"]
    sizes = ["--split", "random", "--train", "3", "--val", "1", "--test", "5"]
    main([*files, *sizes, "--out", str(tmp_path / "data")])
    assert [len(molecules_of(tmp_path / "data", split)) for split in SPLITS] == [3, 1, 5]
    assert "duplicates are known by geometry alone" in capsys.readouterr().out

    with pytest.raises(ValueError, match="20 structures are divided as 10 groups .* asks for 9"):
        main([*files, "--train", "9", "--val", "5", "--out", str(tmp_path / "other")])


def test_a_diffusion_trains_on_it(prepared, tmp_path):
    best = checkpoint.read_run(train_briefly(tmp_path / "run", prepared))["best"]
    assert np.isfinite(best["metrics"]["noise_mse"])


def test_a_potential_trains_on_it(prepared, tmp_path):
    run = ["--run-dir", str(tmp_path), "--data-path", str(prepared), "--epochs", "1"]
    train_potential.main([*run, *SMALL])
    metrics = checkpoint.read_run(tmp_path / checkpoint.BEST)["best"]["metrics"]
    assert all(np.isfinite(metrics[name]) for name in ("energy_mae", "force_mae"))
