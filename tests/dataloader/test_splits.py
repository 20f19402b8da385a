"""Splits: every protocol gives the sizes it promises, no structure twice, the same every time; the
rest is refused.
"""

import numpy as np
import pytest
import torch

from farfield.dataloader.sources import md22
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import Split, SplitOptions, make_split


def sizes(split: Split) -> tuple[int, ...]:
    return tuple(len(getattr(split, part)) for part in SPLITS)


def make(name, count, test_count=0, **options) -> Split:
    return make_split(name, count, "hash", SplitOptions(**options), test_count)


def assert_apart(split: Split):
    """By hand, not by the check of the class."""
    together = np.concatenate([getattr(split, part) for part in SPLITS])
    assert len(set(together.tolist())) == len(together)
    assert 0 <= together.min() <= together.max() < split.count


def test_random_and_md17_take_counts_and_leave_the_rest():
    assert sizes(make("md17", 2000)) == (950, 50, 1000)
    assert sizes(make("random", 30, train=10, val=5)) == (10, 5, 15)
    split = make("random", 30, train=10, val=5, test=7, seed=3)
    assert sizes(split) == (10, 5, 7)
    assert_apart(split)
    again, other = (
        make("random", 30, train=10, val=5, test=7, seed=3),
        make("random", 30, train=10, val=5, test=7, seed=4),
    )
    assert again.test.tolist() == split.test.tolist()
    assert other.test.tolist() != split.test.tolist()
    assert split.train.tolist() != list(range(10))
    with pytest.raises(
        ValueError, match="md17 is 950 / 50 / rest, got --train 100 --val None; give --split random"
    ):
        make("md17", 2000, train=100)


@pytest.mark.parametrize(
    ("count", "given", "expected"),
    [
        (3, {}, (1, 1, 1)),
        (10, {}, (8, 1, 1)),
        (500, {}, (400, 50, 50)),
        (5000, {"train": 900}, (900, 500, 3600)),
        (1000, {"train": 900}, (900, 50, 50)),
        (1000, {"val": 20}, (880, 20, 100)),
        (1000, {"test": 300}, (600, 100, 300)),
        (1000, {"train": 100, "test": 850}, (100, 50, 850)),
        (1000, {"train": 100, "val": 850}, (100, 850, 50)),
    ],
)
def test_fractions_divide_any_set_and_keep_what_is_given(count, given, expected):
    split = make("fractions", count, **given)
    assert sizes(split) == expected
    assert_apart(split)


def test_a_set_too_small_for_the_usual_sizes_is_divided_by_fractions():
    for count in (12, 1000):
        small, shares = make("random", count, seed=3), make("fractions", count, seed=3)
        for part in SPLITS:
            assert getattr(small, part).tolist() == getattr(shares, part).tolist()
    assert sizes(make("random", 1001)) == (950, 50, 1)
    with pytest.raises(ValueError, match="a set of 2 structures cannot be divided .* at least 3"):
        make("fractions", 2)


def test_fractions_divide_what_test_files_leave():
    split = make("fractions", 30, test_count=10)
    assert sizes(split) == (18, 2, 10)
    assert split.test.tolist() == list(range(20, 30))
    assert sizes(make("fractions", 12, test_count=10)) == (1, 1, 10)


@pytest.mark.parametrize(
    "molecule, train, val",
    [("AT-AT", 2850, 150), ("buckyball-catcher", 570, 30), ("DHA", 7600, 400)],
)
def test_lsr_mp_samples_by_molecule(molecule, train, val):
    split = make("lsr-mp", 20001, sample=md22.SAMPLE_SIZES[molecule], seed=md22.SPLIT_SEED)
    assert sizes(split) == (train, val, 20001 - train - val)
    assert_apart(split)
    with pytest.raises(
        ValueError,
        match="sample of lsr-mp has 6000 structures, the data only 232; lower --sample-size",
    ):
        make("lsr-mp", 232, sample=6000)
    with pytest.raises(ValueError, match="needs the size of its sample"):
        make("lsr-mp", 232)


def test_time_split_keeps_order_and_gap():
    split = make("time", 100, train=50, val=10, gap=5)
    assert split.train.tolist() == list(range(50))
    assert split.val.tolist() == list(range(55, 65))
    assert split.test.tolist() == list(range(70, 100))
    last = make("time", 100, train=50, val=10, test=20, gap=5)
    assert last.test.tolist() == list(range(80, 100))
    assert sizes(make("time", 1000)) == (800, 100, 100)
    with pytest.raises(
        ValueError,
        match=r"asks for 50 \+ 25 \(gap\) \+ 10 \+ 25 \(gap\) \+ rest frames, the data have 100",
    ):
        make("time", 100, train=50, val=10, gap=25)


def test_published_splits_of_rmd17(tmp_path):
    rng = np.random.default_rng(0)
    for number in (1, 2):
        order = rng.permutation(5000)
        for part, chosen in (("train", order[:1000]), ("test", order[1000:2000])):
            (tmp_path / f"index_{part}_0{number}.csv").write_text(
                "\n".join(map(str, chosen)) + "\n"
            )
    split = make("rmd17", 5000, path=str(tmp_path), number=2)
    assert sizes(split) == (950, 50, 1000)
    assert sorted([*split.train, *split.val]) == sorted(order[:1000])
    assert sorted(split.test) == sorted(order[1000:2000])
    assert sizes(make("rmd17", 5000, path=str(tmp_path), train=900)) == (900, 100, 1000)
    with pytest.raises(
        FileNotFoundError,
        match=r"index_train_03\.csv does not exist; put the published index files there",
    ):
        make("rmd17", 5000, path=str(tmp_path), number=3)
    with pytest.raises(
        ValueError, match=r"index_.*_01\.csv holds the index \d+, the data have 3000 structures"
    ):
        make("rmd17", 3000, path=str(tmp_path))
    with pytest.raises(ValueError, match=r"--train must lie in 1 \.\. 999 .* got 1000"):
        make("rmd17", 5000, path=str(tmp_path), train=1000)
    (tmp_path / "index_train_01.csv").write_text("1\nx\n")
    with pytest.raises(ValueError, match="must hold one index a line"):
        make("rmd17", 5000, path=str(tmp_path))


def test_index_file(tmp_path):
    np.savez(tmp_path / "own.npz", train=[4, 2], val=[0], test=[9])
    split = make("file", 10, path=str(tmp_path / "own.npz"))
    assert split.train.tolist() == [4, 2]
    assert sizes(split) == (2, 1, 1)
    with pytest.raises(
        ValueError, match=r"own.npz: test must hold indices 0 \.\. 8 of the data, got 9 \.\. 9"
    ):
        make("file", 9, path=str(tmp_path / "own.npz"))
    np.savez(tmp_path / "own.npz", train=[4, 2], val=[2], test=[9])
    with pytest.raises(
        ValueError, match="structure 2 is in train and in val; the splits must not overlap"
    ):
        make("file", 10, path=str(tmp_path / "own.npz"))
    np.savez(tmp_path / "own.npz", train=[4, 4], val=[2], test=[9])
    with pytest.raises(ValueError, match="train holds the structure 4 twice"):
        make("file", 10, path=str(tmp_path / "own.npz"))
    np.savez(tmp_path / "own.npz", train=[4.5, 4], val=[2], test=[9])
    with pytest.raises(
        ValueError, match="train of a split must be a list of whole numbers, got float64"
    ):
        make("file", 10, path=str(tmp_path / "own.npz"))
    with pytest.raises(ValueError, match="needs --split-path"):
        make("file", 10)


def test_test_files_are_the_test_set():
    split = make("random", 30, test_count=10)
    assert split.test.tolist() == list(range(20, 30))
    assert sizes(split) == (19, 1, 10)
    assert_apart(split)
    few = make("random", 30, test_count=10, train=5, val=4, test=3)
    assert sizes(few) == (5, 4, 3)
    assert few.test.min() >= 20
    assert max(few.train.max(), few.val.max()) < 20
    with pytest.raises(ValueError, match="--test asks for 11 structures, the test files have 10"):
        make("random", 30, test_count=10, test=11)
    ordered = make("time", 30, test_count=10, train=12, val=3, gap=2)
    assert ordered.train.tolist() == list(range(12))
    assert ordered.val.tolist() == [14, 15, 16]
    assert len(ordered.test) == 10


QM9_SIZES = {
    "3dml": (100_000, 18_000, 12_831),
    "nvidia": (100_000, 17_748, 13_083),
    "cormorant": (100_000, 17_748, 13_083),
}


@pytest.mark.parametrize("name", QM9_SIZES)
def test_published_splits_of_qm9(name):
    split = make(name, 130_831)
    assert sizes(split) == QM9_SIZES[name]
    assert sorted(np.concatenate([split.train, split.val, split.test]).tolist()) == list(
        range(130_831)
    )
    for count in (20_000, 133_885):
        with pytest.raises(
            ValueError,
            match=f"the split {name} divides 130831 molecules of QM9, the data have {count}; "
            "take all of QM9",
        ):
            make(name, count)
    with pytest.raises(
        ValueError, match=r"needs --train and --val .*, got --train 500 --val None --test 5"
    ):
        make(name, 1000, train=500, test=5)
    with pytest.raises(ValueError, match=r"asks for 900 \+ 200 structures, the data have 1000"):
        make(name, 1000, train=900, val=200)
    assert sizes(make(name, 1000, train=700, val=200)) == (700, 200, 100)
    assert sizes(make(name, 1000, train=7, val=2, test=3)) == (7, 2, 3)


def test_orders_of_the_splits_of_qm9():
    blocks, nvidia, cormorant = (make(name, 130_831) for name in QM9_SIZES)
    assert blocks.val.tolist() == list(range(100_000, 118_000))
    np.random.seed(0)  # noqa: NPY002 - as the authors did
    order = np.random.permutation(130_831)  # noqa: NPY002
    assert cormorant.val.tolist() == sorted(order[100_000:117_748])
    assert cormorant.test.tolist() == sorted(order[117_748:])
    parts = torch.utils.data.random_split(
        range(130_831), (100_000, 17_748, 13_083), torch.Generator().manual_seed(0)
    )
    assert [sorted(part.indices) for part in parts] == [
        nvidia.train.tolist(),
        nvidia.val.tolist(),
        nvidia.test.tolist(),
    ]
    assert make("nvidia", 130_831, seed=1).test.tolist() != nvidia.test.tolist()


def test_more_than_there_is_is_refused():
    with pytest.raises(
        ValueError,
        match=r"asks for 950 \+ 50 structures, the data have 500; lower --train, --val or --test",
    ):
        make("md17", 500)
    with pytest.raises(ValueError, match=r"asks for 5 \+ 3 \+ 3 structures, the data have 10"):
        make("random", 10, train=5, val=3, test=3)
    with pytest.raises(ValueError, match="the split md17 of 1000 structures leaves none for test"):
        make("md17", 1000)
    with pytest.raises(
        ValueError,
        match="split must be one of random, fractions, md17, rmd17, lsr-mp, qm7x, time, file, "
        ".*cormorant, got 'kfold'",
    ):
        make("kfold", 10)


def test_file_remembers_data_and_settings(tmp_path):
    split = make("random", 30, train=10, val=5, seed=7)
    split.save(tmp_path / "split.npz")
    again = Split.load(tmp_path / "split.npz", "hash")
    assert all(getattr(again, part).tolist() == getattr(split, part).tolist() for part in SPLITS)
    assert again.settings == split.settings
    assert again.settings["seed"] == 7
    assert again.settings["name"] == "random"
    with pytest.raises(
        ValueError,
        match=r"split\.npz splits another data set \(hash hash\.\.\., the data here have other",
    ):
        Split.load(tmp_path / "split.npz", "other")


@pytest.mark.parametrize("gap", [0, 2])
def test_a_time_split_beside_a_test_file_divides_the_rest(gap):
    split = make("time", 30, test_count=10, gap=gap)
    assert sizes(split)[2] == 10
    assert 17 - gap <= sizes(split)[0] + sizes(split)[1] <= 20 - gap
    assert split.val.min() - split.train.max() == gap + 1
    with pytest.raises(
        ValueError, match="a gap of 20 frames leaves nothing of 12 for the time split"
    ):
        make("time", 12, gap=20)


def test_molecules_of_qm7x_are_divided_as_published_and_fewer_in_the_same_shares():
    assert sizes(make("qm7x", 6950)) == (4500, 1250, 1200)
    assert sizes(make("qm7x", 5751)) == (4500, 1250, 1)
    assert sizes(make("qm7x", 695)) == (450, 125, 120)
    assert sizes(make("qm7x", 3)) == (1, 1, 1)
    assert sizes(make("qm7x", 100, train=50)) == (50, 18, 32)
    with pytest.raises(ValueError, match="the split qm7x of 2 structures leaves none for test"):
        make("qm7x", 2)


@pytest.mark.parametrize("name", ["random", "fractions", "qm7x", "time"])
def test_groups_stay_together_and_sizes_count_them(name):
    groups = np.random.default_rng(0).integers(100, 140, 500)
    options = SplitOptions(train=10, val=5)
    split = make_split(name, 500, "hash", options, groups=groups)
    parts = [set(groups[getattr(split, part)].tolist()) for part in SPLITS]
    count = len(set(groups.tolist()))
    assert [len(part) for part in parts] == [10, 5, count - 15]
    assert len(set.union(*parts)) == count
    assert sum(sizes(split)) == 500
    assert_apart(split)

    with pytest.raises(
        ValueError, match=rf"500 structures are divided as {count} groups that stay"
    ):
        make_split("random", 500, "hash", SplitOptions(train=450, val=5), groups=groups)


def test_groups_beside_test_files_and_index_lists(tmp_path):
    groups = np.repeat(np.arange(10), 3)
    split = make_split("random", 30, "hash", SplitOptions(), test_count=6, groups=groups)
    assert split.test.tolist() == list(range(24, 30))
    assert sizes(split) == (21, 3, 6)
    assert len(set(groups[split.val].tolist())) == 1

    # who names structures means structures
    lists = {"train": [0, 3], "val": [1], "test": [2, 29]}
    np.savez(tmp_path / "lists.npz", **lists)
    options = SplitOptions(path=str(tmp_path / "lists.npz"))
    named = make_split("file", 30, "hash", options, groups=groups)
    assert {part: getattr(named, part).tolist() for part in SPLITS} == lists
