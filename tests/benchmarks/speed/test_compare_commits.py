"""The comparison of two checkouts: turns, the ratio, layouts of a checkout, refusals."""

import pytest

from benchmarks.speed import commit_worker, compare_commits


class Answering:
    """A worker whose steps take ``seconds``; it notes when it is asked."""

    def __init__(self, name: str, seconds: float, weights: int, asked: list[str]):
        self.name, self.seconds, self.asked = name, seconds, asked
        self.start = {"weights": weights}

    def ask(self, request: str) -> dict:
        self.asked.append(self.name)
        return {"seconds": self.seconds}


def test_checkouts_take_turns_and_the_ratio_is_now_over_before():
    asked: list[str] = []
    workers = {
        "before": Answering("before", 0.02, 7, asked),
        "now": Answering("now", 0.03, 7, asked),
    }
    rows = compare_commits.measure(workers, rounds=3)
    assert asked == ["before", "now"] * 8  # three rounds and a warm-up of two kinds of steps
    assert [row["step"] for row in rows] == ["train", "md"]
    for row in rows:
        assert row["before"] == pytest.approx(20.0) and row["now"] == pytest.approx(30.0)
        assert row["ratio"].value == pytest.approx(1.5)
        assert len(row["milliseconds"]["now"]) == 3


def test_different_networks_are_refused():
    workers = {"before": Answering("before", 1, 7, []), "now": Answering("now", 1, 8, [])}
    with pytest.raises(ValueError, match="7 and 8 weights"):
        compare_commits.measure(workers, rounds=1)


def test_layout_is_read_off_the_folder(tmp_path):
    assert commit_worker.module_name(tmp_path, "data") == "dataloader.molecules"
    (tmp_path / "farfield").mkdir()
    found = commit_worker.module_name(tmp_path, "data")
    assert found == "farfield.dataloader.datasets.potential_data"


def test_refusals_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="--before is missing"):
        compare_commits.main([])
    with pytest.raises(ValueError, match="no checkout of Farfield: it has no folder models"):
        compare_commits.main(["--before", str(tmp_path)])
