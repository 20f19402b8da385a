"""The published forms of QM9, from the file to a trained network: the bonds of an edge are those of
the file where it has some.
"""

import numpy as np
import pytest

from farfield.dataloader.chemistry.bonds import perceive
from farfield.dataloader.datasets.property_data import PropertyDataset
from farfield.dataloader.sources import qm9
from farfield.preprocess import preprocess_qm9
from farfield.train import train_qm9
from tests.support import qm9_data
from tests.support.run_results import results_of

LEFT_OUT = 2  # number of a molecule in the list of uncharacterised ones
KIND = 3  # of the first bond of methane in DGL's file, which is a single one otherwise


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with the archive, the sdf with its table, DGL's file and the list of what to leave
    out.
    """
    folder = tmp_path_factory.mktemp("raw")
    whole = qm9_data.molecules()
    raw, found = qm9_data.raw_labels(whole), perceive(whole)
    texts = {
        f"{number}.xyz": qm9_data.xyz_text(whole, number - 1, number, raw)
        for number in range(1, len(whole) + 1)
    }
    qm9_data.write_archive(folder / qm9.QM9_FORMS["archive"].remote.name, texts)
    sdf = qm9_data.sdf_text(whole, found.table.ends, found.orders, found.table.counts)
    qm9_data.write_archive(
        folder / qm9.QM9_FORMS["sdf"].remote.name,
        {"gdb9.sdf": sdf, "gdb9.sdf.csv": qm9_data.table_text(raw)},
        "w:gz",
    )
    kinds = found.table.kinds.copy()
    kinds[0] = KIND
    np.savez(
        folder / qm9.QM9_FORMS["edge"].remote.name,
        **qm9_data.edge_arrays(whole, found.table.ends, kinds, found.table.counts, raw),
    )
    listed = [LEFT_OUT, *range(101, 100 + qm9.UNCHARACTERISED_COUNT)]
    (folder / qm9.UNCHARACTERISED.name).write_text(
        "".join(f" {number}  CC  0.1\n" for number in listed)
    )
    return folder


@pytest.mark.parametrize("source", ["archive", "sdf", "edge"])
def test_published_files_are_read_where_they_lie_and_trained_on(published, tmp_path, source):
    made = tmp_path / "made"
    sizes = ["--lmax", "1", "--train", "9", "--val", "2"]
    preprocess_qm9.main(
        ["--source", source, "--data-path", str(published), "--out", str(made), *sizes]
    )
    datasets = {
        split: PropertyDataset.open(made, split, targets=("homo",))
        for split in ("train", "val", "test")
    }
    kept = len(qm9_data.NAMES) - (source != "edge")  # DGL's file has no numbers unless it is whole
    assert sum(len(dataset) for dataset in datasets.values()) == kept
    kinds = {}
    for dataset in datasets.values():
        for place, number in enumerate(dataset.graph_ids.tolist()):
            kinds[number] = dataset[[place]].edge_features["bond_kinds"].tolist()
    assert sorted(kinds[0]) == [1] * 6 + (
        [KIND] * 2 if source == "edge" else [1] * 2
    )  # methane, both directions of each bond
    assert sum(kind == 4 for row in kinds.values() for kind in row) == 2 * (
        6 + 6 + 5
    )  # benzene, pyridine, furan

    network = [
        "--model",
        "se3_transformer_properties",
        "--layers",
        "1",
        "--channels",
        "4",
        "--lmax",
        "1",
        "--heads",
        "2",
    ]
    options = [
        "--targets",
        "homo,U0_atom",
        "--epochs",
        "2",
        "--batch-size",
        "4",
        "--no-progress",
        "--radial-hidden",
        "8",
    ]
    train_qm9.main(
        ["--data-path", str(made), "--run-dir", str(tmp_path / "run"), *network, *options]
    )
    assert [row["row"] for row in results_of(tmp_path / "run")["test"]][0] == "model"
