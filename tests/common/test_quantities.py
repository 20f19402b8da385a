"""Counts, sizes and bars are what a reader expects."""

import io

import pytest

from farfield.common.log import count_bar
from farfield.common.quantities import counted, file_size


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 batches"), (1, "1 batch"), (2, "2 batches"), (1000, "1000 batches")]
)
def test_one_is_no_plural(count, words):
    assert counted(count, "batch", "batches") == words
    assert counted(count, "edge") == words.replace("batches", "edges").replace("batch", "edge")


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (34_567, "34.6 kB"),
        (999_999, "1.0 MB"),
        (55_000_000, "55.0 MB"),
        (7_000_000_000_000, "7000.0 GB"),
    ],
)
def test_no_file_has_zero_megabytes(count, words):
    assert file_size(count) == words


def test_a_bar_counts_whole_things():
    text = io.StringIO()
    with count_bar(750, "neighbours train", "structures", file=text) as bar:
        bar.update(50)
        bar.refresh()
    shown = text.getvalue()
    assert " 0/750 " in shown and " 50/750 " in shown
    assert " structures" in shown and "kstructure" not in shown
