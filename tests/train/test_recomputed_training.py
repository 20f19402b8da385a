"""A run with --recompute is the run without it up to rounding, and goes on bit for bit."""

from __future__ import annotations

import pytest

from farfield.train import train_md17
from tests.support.md_data import SMALL, make_data
from tests.support.run_results import assert_equal_checkpoints, results_of, without_clocks

OPTIONS = ["--epochs", "2", "--lr", "0.01", "--precision", "float64", "--drop-path", "0.3"]


def test_a_run_is_the_same_up_to_rounding_and_goes_on_bit_for_bit(tmp_path):
    data = make_data(tmp_path / "set")

    def run(name: str, *arguments: str) -> dict | None:
        folder = ["--run-dir", str(tmp_path / name), "--data-path", str(data)]
        train_md17.main([*folder, *SMALL, *OPTIONS, *arguments])
        return results_of(tmp_path / name)

    plain = without_clocks(run("plain")["history"])
    again = run("again", "--recompute", "--compile", "on")
    for one, other in zip(plain, without_clocks(again["history"]), strict=True):
        assert one == pytest.approx(other, rel=1e-8)
    log = (tmp_path / "again" / "log.txt").read_text()
    assert "training without compiled code: it keeps what --recompute makes again" in log

    # interrupted after an epoch
    run("two", "--recompute", "--compile", "on", "--pause-after", "1")
    train_md17.main(["--run-dir", str(tmp_path / "two"), "--resume"])
    assert_equal_checkpoints(tmp_path / "again", tmp_path / "two")


def test_another_network_refuses_in_one_line(tmp_path):
    data = make_data(tmp_path / "set")
    with pytest.raises(ValueError, match="--recompute: .* choose --model e2former"):
        train_md17.main(
            ["--run-dir", str(tmp_path / "run"), "--data-path", str(data)]
            + ["--model", "equiformer", "--recompute", "--epochs", "1"]
        )
