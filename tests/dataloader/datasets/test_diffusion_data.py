"""Noised molecules: the law of the process, of the noise and of the times, and what a batch has."""

import dataclasses

import numpy as np
import pytest
import torch

from farfield.dataloader.datasets.diffusion_data import DiffusionDataset, open_structures
from farfield.dataloader.datasets.epoch_draws import EpochIndices, EpochPlan
from farfield.dataloader.datasets.molecule_sizes import MoleculeSizes
from farfield.models.diffusion.process import DiffusionProcess, ProcessOptions
from farfield.preprocess import preprocess_qm9
from farfield.train.data_order import EpochLoader
from tests.support.md_data import make_data
from tests.support.molecule_data import random_crystals
from tests.support.prepared import copied
from tests.support.qm9_data import molecules

PROCESS = DiffusionProcess(ProcessOptions("cosine", 40))


@pytest.fixture(scope="module")
def whole():
    return molecules()


def dataset(whole, split="train", seed=0, process=PROCESS, **options):
    return DiffusionDataset(whole, split, process, seed, dtype=torch.float64, **options)


def test_positions_are_the_centred_molecule_and_its_noise_at_its_time(whole):
    """One time for each molecule; t is told as t / (T - 1)."""
    for chosen in ([4, 10], EpochIndices(3, [4, 10])):
        batch = dataset(whole)[chosen]
        for part, place in zip(batch.split(), (4, 10), strict=True):
            clean = torch.from_numpy(whole[place].positions)
            kept = PROCESS.alpha_bar[round(39 * float(part.labels["time"]))]
            noise = part.labels["noise"]
            expected = kept.sqrt() * (clean - clean.mean(0)) + (1 - kept).sqrt() * noise
            assert (part.positions - expected).abs().max() < 1e-12
            assert noise.mean(0).abs().max() < 1e-15
            assert torch.equal(part.graph_features["time"], part.labels["time"])
            assert np.array_equal(part.atomic_numbers.numpy(), whole[place].atomic_numbers)


def test_noise_is_normal_and_times_are_uniform(whole):
    """Of n atoms the variance is (n - 1) / n; noise and time know nothing of each other."""
    copies = whole[[2] * 1500]  # water
    data = dataset(copies, process=DiffusionProcess(ProcessOptions(time_steps=4)))
    parts = [data[EpochIndices(epoch, range(1500))] for epoch in range(4)]
    noise = torch.cat([part.labels["noise"] for part in parts]).view(-1, 9)
    time = torch.cat([part.labels["time"] for part in parts])

    # covariance of two coordinates: (1 or 0) - 1/3 on one axis, 0 on two
    error = len(noise) ** -0.5
    expected = torch.kron(torch.eye(3) - 1 / 3, torch.eye(3))
    assert noise.mean(0).abs().max() < 5 * error
    assert (noise.T @ noise / len(noise) - expected).abs().max() < 5 * error
    assert (1.5 * noise.square()).square().mean() == pytest.approx(3, abs=0.2), "a Gaussian's tails"

    counts = (3 * time).round().long().bincount()
    assert (counts / len(time) - 0.25).abs().max() < 3 * error, "0 and T - 1 as often as others"
    early, late = (noise[chosen].square().mean() for chosen in (time < 0.5, time > 0.5))
    assert early == pytest.approx(float(late), rel=0.05)


def test_training_draws_are_a_function_of_seed_epoch_and_molecule(whole):
    def noise(epoch, place, seed=0):
        return dataset(whole, seed=seed)[EpochIndices(epoch, [place])].labels["noise"]

    assert torch.equal(noise(5, 2), noise(5, 2))
    for other in (noise(6, 2), noise(5, 2, seed=1), noise(5, 0)):
        assert not torch.isclose(other[:3], noise(5, 2)).any()

    # alone, in any batch and in any order
    together = dataset(whole)[EpochIndices(5, [4, 2, 0])].split()[1]
    alone = dataset(whole)[EpochIndices(5, [2])]
    assert torch.equal(together.labels["noise"], noise(5, 2))
    assert torch.equal(together.positions, alone.positions)
    assert torch.equal(together.labels["time"], alone.labels["time"])


def test_evaluation_draws_are_fixed_for_a_molecule_of_a_split(whole):
    one, other = dataset(whole, "val"), dataset(whole, "val", seed=7)
    assert torch.equal(one[3].positions, other[3].positions), "whatever the seed of the run"
    assert not torch.isclose(one[3].positions, dataset(whole, "test")[3].positions).any()


def test_a_filter_by_size_changes_no_draw(whole):
    some = dataset(whole, sizes=MoleculeSizes(heavy_atoms="2,3"))
    assert len(some) == 7 and some.numbers[0] == 3
    assert some.atoms_per_structure.tolist() == whole.counts[some.numbers].tolist()
    for epoch in (None, 2):
        for place, number in enumerate(some.numbers.tolist()):
            chosen = [
                index if epoch is None else EpochIndices(epoch, [index])
                for index in (place, number)
            ]
            assert torch.equal(some[chosen[0]].positions, dataset(whole)[chosen[1]].positions)


def test_a_loader_gives_each_epoch_its_draws_also_in_the_middle_and_with_workers(whole):
    def positions(epoch, first=0, workers=0):
        data = dataset(whole, seed=4)
        loader = EpochLoader(data, EpochPlan(data, batch_size=5, seed=4), workers, 4)
        return [batch.positions for batch in loader.epoch(epoch, first)]

    known = positions(3)
    assert len(known) == 3
    for found in (positions(3), positions(3, workers=1)):
        assert all(torch.equal(a, b) for a, b in zip(found, known, strict=True))
    rest = positions(3, first=1)
    assert all(torch.equal(a, b) for a, b in zip(rest, known[1:], strict=True))
    assert not torch.equal(torch.cat(positions(4)), torch.cat(known))


def test_all_pairs_of_a_molecule_are_edges(whole):
    data = dataset(whole)
    for part, place in zip(data[[0, 2, 10]].split(), (0, 2, 10), strict=True):
        pairs = set(zip(part.graph.src.tolist(), part.graph.dst.tolist(), strict=True))
        atoms = range(int(whole.counts[place]))
        assert pairs == {(i, j) for i in atoms for j in atoms if i != j}
        assert len(pairs) == part.graph.num_edges == data.edges_per_structure[place]
        assert part.cutoff is None


def test_a_network_is_told_what_it_reads_and_no_more(whole):
    charged = dataclasses.replace(whole, extra={"total_charge": np.arange(len(whole))})
    batch = dataset(charged, told=False)[[1, 3]]
    assert not batch.graph_features and set(batch.labels) == {"noise", "time"}
    batch = dataset(charged, inputs=["time", "total_charge"])[[1, 3]]
    assert batch.graph_features["total_charge"].tolist() == [1.0, 3.0]
    assert set(batch.graph_features) == {"time", "total_charge"}
    with pytest.raises(ValueError, match="the structures have no 'spin'"):
        dataset(charged, inputs=["spin"])
    batch = dataset(charged, told=False, optional_inputs=["total_charge", "spin"])[[1, 3]]
    assert set(batch.graph_features) == {"total_charge"}


def test_structures_that_repeat_in_space_are_refused():
    message = "diffusion is for molecules in open space, structure 0 is periodic"
    with pytest.raises(ValueError, match=message):
        dataset(random_crystals())


@pytest.fixture(scope="module")
def folders(whole, tmp_path_factory):
    """Prepared folders of the two kinds, by kind."""
    root = tmp_path_factory.mktemp("folders")
    arrays = {"n_atoms": whole.counts, "Z": whole.atomic_numbers, "R": whole.positions}
    np.savez(root / "own.npz", **arrays, mu=np.ones(len(whole)))
    sizes = ["--train", "6", "--val", "4", "--test", "4"]
    preprocess_qm9.main(
        ["--source", "npz", "--file", str(root / "own.npz"), "--out", str(root / "qm9"), *sizes]
    )
    make_data(root / "md")
    return {"qm9": root / "qm9", "md": root / "md"}


def test_folders_of_molecules_and_of_structures_open_alike(folders, whole):
    sizes = {
        kind: [len(open_structures(folder, split)) for split in ("train", "val", "test")]
        for kind, folder in folders.items()
    }
    assert sizes == {"qm9": [6, 4, 4], "md": [8, 4, 4]}
    parts = [open_structures(folders["qm9"], split) for split in ("train", "val", "test")]
    found = sorted(count for part in parts for count in part.counts.tolist())
    assert found == sorted(whole.counts.tolist())
    for kind, folder in folders.items():
        batch = DiffusionDataset.open(folder, "val", PROCESS)[[0, 1]]
        assert batch.positions.dtype == batch.labels["noise"].dtype == torch.float32, kind
    with pytest.raises(ValueError, match="val split of .*qm9: no molecule is left by atoms 99"):
        DiffusionDataset.open(folders["qm9"], "val", PROCESS, sizes=MoleculeSizes(atoms="99"))


@pytest.mark.parametrize("kind, name", [("qm9", "molecules.npz"), ("md", "train.npz")])
def test_damaged_and_missing_files_are_refused(folders, tmp_path, kind, name):
    folder = copied(folders[kind], tmp_path)
    content = bytearray((folder / name).read_bytes())
    place = content.index(np.float64(open_structures(folder, "train").positions[0, 0]).tobytes())
    content[place] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(ValueError) as error:
        open_structures(folder, "train")
    assert "\n" not in str(error.value) and "make" in str(error.value)


@pytest.mark.parametrize("kind", ["qm9", "md"])
def test_unfinished_folders_are_refused(folders, tmp_path, kind):
    folder = copied(folders[kind], tmp_path)
    (folder / "manifest.json").unlink()
    with pytest.raises((OSError, ValueError), match="manifest.json"):
        open_structures(folder, "train")
    with pytest.raises(FileNotFoundError, match="does not exist; make the folder with"):
        open_structures(tmp_path / "nothing", "train")
