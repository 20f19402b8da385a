"""preprocess_md22: the protocol of the molecule, files of its format with other labels, splits in
time.
"""

import numpy as np
import pytest

from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.prepared_folder import load_statistics
from farfield.dataloader.sources import md22
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import Split
from farfield.preprocess import preprocess_md22


def main(options: list[str]):
    """The script without the check of labels: random ones fit no geometry."""
    preprocess_md22.main([*options, "--check-labels", "off"])


@pytest.fixture
def raw(tmp_path):
    """A folder with a small file in the format of MD22, named in lower case."""
    rng = np.random.default_rng(0)
    frames = np.cumsum(0.1 * rng.standard_normal((80, 7, 3)), axis=0) + 4 * rng.standard_normal(
        (7, 3)
    )
    words = {
        "theory": np.array("GFN2-xTB"),
        "e_unit": np.array("kcal/mol"),
        "r_unit": np.array("Ang"),
    }
    labels = {"E": rng.standard_normal((80, 1)), "F": rng.standard_normal((80, 7, 3))}
    np.savez(tmp_path / "md22_at-at.npz", z=[6, 1, 8, 7, 1, 6, 1], R=frames, **labels, **words)
    return tmp_path


def lengths(folder) -> list[int]:
    return [len(MoleculeDataset.open(folder, name)) for name in SPLITS]


def test_protocol_of_the_molecule(raw, monkeypatch, capsys):
    options = ["--molecule", "AT-AT", "--data-path", str(raw), "--out", str(raw / "out")]
    with pytest.raises(
        ValueError,
        match="the sample of lsr-mp has 3000 structures, the data only 80; lower --sample-size",
    ):
        main(options)
    monkeypatch.setitem(md22.SAMPLE_SIZES, "AT-AT", 40)
    main(options)
    assert lengths(raw / "out") == [38, 2, 40]
    settings = Split.load(raw / "out" / "split.npz").settings
    assert (settings["name"], settings["seed"], settings["sample"]) == ("lsr-mp", 48, 40)
    shown = capsys.readouterr().out
    assert "labels: GFN2-xTB" in shown
    assert "energy in kcal/mol" in shown
    assert "1 kcal/mol = 0.0433641 eV" in shown
    assert MoleculeDataset.open(raw / "out", "train").structures.theory == "GFN2-xTB"


def test_time_split(raw):
    options = [
        "--data-path",
        str(raw),
        "--split",
        "time",
        "--train",
        "50",
        "--val",
        "5",
        "--gap",
        "4",
        "--out",
        str(raw / "out"),
    ]
    main(options)
    assert lengths(raw / "out") == [50, 5, 17]
    with np.load(raw / "md22_at-at.npz") as content:
        last = content["R"][-1]
    structures = MoleculeDataset.open(raw / "out", "test").structures
    np.testing.assert_array_equal(structures.positions[-7:], last)
    train = MoleculeDataset.open(raw / "out", "train").structures.positions.reshape(50, 7, 3)
    centred = train - train.mean(1, keepdims=True)
    assert load_statistics(raw / "out").design_radius == pytest.approx(
        np.linalg.norm(centred, axis=-1).max()
    )


def test_own_files(raw):
    with pytest.raises(
        ValueError,
        match="says e_unit = 'kcal/mol', it would be read as eV; give the fitting --energy-unit",
    ):
        main(["--file", str(raw / "md22_at-at.npz"), "--out", str(raw / "out")])
    main(
        [
            "--file",
            str(raw / "md22_at-at.npz"),
            "--energy-unit",
            "kcal/mol",
            "--split",
            "time",
            "--out",
            str(raw / "out"),
        ]
    )
    assert lengths(raw / "out") == [64, 8, 8]
    with pytest.raises(ValueError, match="--test-file x.npz needs --file"):
        main(["--test-file", "x.npz", "--out", str(raw / "out")])


def test_without_a_network_the_message_says_where_to_put_the_file(tmp_path, monkeypatch):
    def offline(*arguments, **more):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(
        OSError,
        match=rf"put the file here: {tmp_path}/md22_DHA\.npz \(from "
        r"https://www\.quantum-machine\.org",
    ):
        main(["--molecule", "DHA", "--data-path", str(tmp_path), "--out", str(tmp_path / "out")])
