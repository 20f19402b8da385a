"""Sizes of every rule at its limits: all structures are used, and one too many is refused."""

import numpy as np
import pytest

from farfield.dataloader.split_protocols import PROTOCOLS, SplitOptions, protocols_for


def divided(name: str, count: int, **options) -> list[np.ndarray]:
    return list(PROTOCOLS[name].divide(count, SplitOptions(**options)))


ALL_OF_TEN = {"train": 6, "val": 4}
# rule, number of structures, options -> sizes of train, val, test
SIZES = [
    ("random", 1000, {}, (800, 100, 100)),
    ("random", 1001, {}, (950, 50, 1)),
    ("random", 10, ALL_OF_TEN, (6, 4, 0)),
    ("random", 1002, {"train": 951}, (951, 50, 1)),
    ("random", 10, {"train": 5, "val": 2, "test": 1}, (5, 2, 1)),
    ("fractions", 3, {}, (1, 1, 1)),
    ("fractions", 2, {"test": 0}, (1, 1, 0)),
    ("fractions", 20, {}, (16, 2, 2)),
    ("fractions", 20, {"test": 5}, (13, 2, 5)),
    ("fractions", 20, {"val": 5}, (13, 5, 2)),
    ("fractions", 20, {"train": 10}, (10, 2, 8)),
    ("fractions", 20, {"train": 17}, (17, 1, 2)),
    ("fractions", 20, {"train": 18, "test": 1}, (18, 1, 1)),
    ("md17", 1001, {}, (950, 50, 1)),
    ("md17", 1000, {"val": 50}, (950, 50, 0)),
    ("lsr-mp", 101, {"sample": 100}, (95, 5, 1)),
    ("lsr-mp", 200, {"sample": 30}, (28, 2, 170)),
    ("qm7x", 5751, {}, (4500, 1250, 1)),
    ("qm7x", 695, {}, (450, 125, 120)),
    ("qm7x", 3, {}, (1, 1, 1)),
    ("qm7x", 20, {"train": 8}, (8, 4, 8)),
    ("time", 10, {}, (8, 1, 1)),
    ("time", 10, {"gap": 1}, (6, 1, 1)),
    ("time", 11, {"gap": 1, "test": 0}, (8, 1, 0)),
    ("time", 100, {"test": 10}, (80, 10, 10)),
    ("time", 10, {"train": 7, "val": 1, "gap": 1, "test": 0}, (7, 1, 0)),
    ("time", 10, {"train": 5, "val": 2, "test": 3}, (5, 2, 3)),
    ("3dml", 10, {"train": 5, "val": 2}, (5, 2, 3)),
    ("nvidia", 10, {"train": 5, "val": 2, "test": 1}, (5, 2, 1)),
    ("cormorant", 10, ALL_OF_TEN, (6, 4, 0)),
    ("3dml", 130_831, {}, (100_000, 18_000, 12_831)),
    ("nvidia", 130_831, {}, (100_000, 17_748, 13_083)),
    ("cormorant", 130_831, {}, (100_000, 17_748, 13_083)),
]


@pytest.mark.parametrize("name, count, options, sizes", SIZES)
def test_sizes_are_those_of_the_rule(name, count, options, sizes):
    parts = divided(name, count, **options)
    assert tuple(map(len, parts)) == sizes
    whole = np.concatenate(parts)
    assert len(np.unique(whole)) == len(whole)
    assert all((np.diff(part) > 0).all() for part in parts)
    if len(whole):
        assert whole.min() >= 0 and whole.max() < count


@pytest.mark.parametrize(
    "name, count, options, words",
    [
        ("random", 10, {"train": 7, "val": 4}, "asks for 7 . 4 structures, the data have 10"),
        ("random", 10, {"train": 5, "val": 4, "test": 2}, "asks for 5 . 4 . 2 structures"),
        ("fractions", 2, {}, "give at least 3 structures"),
        ("fractions", 1, {"test": 0}, "give at least 2 structures"),
        ("md17", 2000, {"train": 949}, "the split md17 is 950 / 50 / rest"),
        ("md17", 2000, {"val": 51}, "the split md17 is 950 / 50 / rest"),
        ("md17", 999, {}, "asks for 950 . 50 structures"),
        ("rmd17", 10, {"number": 0}, "published splits 1 .. 5, got 0"),
        ("rmd17", 10, {"number": 6}, "published splits 1 .. 5, got 6"),
        ("lsr-mp", 100, {"sample": 100}, "the data only 100"),
        ("lsr-mp", 100, {}, "give --sample-size"),
        ("time", 3, {"gap": 1}, "a gap of 1 frames leaves nothing of 3"),
        ("time", 4, {"gap": 1}, "1 . 1 .gap. . 1 . 1 .gap. . rest frames, the data have 4"),
        ("time", 10, {"train": 5, "val": 2, "test": 4}, "5 . 0 .gap. . 2 . 0 .gap. . 4 frames"),
        ("time", 10, {"train": 8, "val": 2}, "rest frames, the data have 10"),
        ("file", 10, {}, "needs --split-path"),
        ("3dml", 10, {"train": 5}, "needs --train and --val"),
        ("nvidia", 130_831, {"test": 5}, "needs --train and --val"),
        ("cormorant", 130_830, {}, "divides 130831 molecules of QM9, the data have 130830"),
    ],
)
def test_what_cannot_be_divided_is_refused(name, count, options, words):
    with pytest.raises(ValueError, match=words):
        divided(name, count, **options)


def test_a_time_split_keeps_its_gaps():
    train, val, test = divided("time", 20, train=8, val=4, test=3, gap=2)
    assert (train[0], train[-1], val[0], val[-1], test[0], test[-1]) == (0, 7, 10, 13, 17, 19)


@pytest.mark.parametrize("train, words", [(3, None), (4, r"1 .. 3 of the 4"), (0, r"1 .. 3 of")])
def test_published_indices_lie_in_the_data(tmp_path, train, words):
    (tmp_path / "index_train_05.csv").write_text("0\n2\n4\n6\n")
    (tmp_path / "index_test_05.csv").write_text("7\n5\n")
    options = {"number": 5, "path": str(tmp_path), "train": train}
    if words is None:
        assert tuple(map(len, divided("rmd17", 8, **options))) == (3, 1, 2)
        with pytest.raises(ValueError, match="holds the index 7, the data have 7 structures"):
            divided("rmd17", 7, **options)
    else:
        with pytest.raises(ValueError, match=words):
            divided("rmd17", 8, **options)


def test_rules_divide_what_they_are_made_for():
    molecules = protocols_for("molecules with properties")
    assert {"3dml", "nvidia", "cormorant", "random", "file"} == set(molecules)
    structures = set(protocols_for("structures with energies and forces"))
    assert {"fractions", "md17", "rmd17", "lsr-mp", "qm7x", "time", "random"} <= structures
    assert not structures & {"3dml", "nvidia", "cormorant"}
