"""The Equiformer's benchmark: equal inputs, limits that end a program, memory, rows and errors."""

import dataclasses
import json

import pytest
import torch

from benchmarks.installed_equiformer import PACKAGE
from benchmarks.speed import bench_equiformer as bench
from benchmarks.speed.equiformer_programs import (
    OURS,
    PAIRWISE,
    Clouds,
    clouds_program,
)
from benchmarks.watched_step import watched_step

SMALL = Clouds(2, 12, (8, 4, 4), depth=1, neighbours=4)


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [OURS, PAIRWISE, PACKAGE])
def test_programs_give_scalars_and_vectors_that_turn_with_the_points(name):
    """So the program that is timed is the equivariant one."""
    if name == PACKAGE:
        pytest.importorskip("equiformer_pytorch")
    program = clouds_program(name, SMALL)
    tokens, positions = SMALL.inputs()
    scalars, vectors = program.run()
    assert scalars.shape == (2, 12, 8) and vectors.shape == (2, 12, 4, 3)

    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    turn = turn * torch.linalg.det(turn)
    turned = program.module(tokens, positions @ turn.T)
    torch.testing.assert_close(turned[0], scalars, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(turned[1], vectors @ turn.T, rtol=1e-3, atol=1e-3)
    assert vectors.abs().max() > 0.1


def test_ratios_are_to_the_first_program():
    first, second = bench.timed_rows(SMALL, [OURS, PAIRWISE], rounds=1)
    assert first["train_s"] > 0 and "train_ratio" not in first
    assert second["train_ratio"].value == pytest.approx(second["train_s"] / first["train_s"])
    assert second["parameters"] > first["parameters"]


def test_a_step_within_its_limits_is_timed():
    found = watched_step(clouds_program, (OURS, SMALL), "train", limit_mb=8e3, limit_s=300)
    assert found.said == "done" and found.build_s > 0 and found.step_s > 0
    assert 50 < found.peak_mb < 8e3


@pytest.mark.parametrize(
    ("limits", "said"),
    [({"limit_mb": 1.0}, "more than 0.001 GB"), ({"limit_s": 0.0}, "longer than 0 s")],
)
def test_a_step_beyond_a_limit_is_ended(limits, said):
    limits = {"limit_mb": 8e3, "limit_s": 300.0} | limits
    found = watched_step(clouds_program, (OURS, SMALL), "train", **limits)
    assert found.said == f"{said}, building" and found.build_s is found.step_s is None


def test_a_program_that_fails_is_no_time():
    """There are no clouds to build a program from."""
    found = watched_step(clouds_program, (OURS,), "train", limit_mb=8e3, limit_s=300)
    assert found.said == "failed, building" and found.step_s is None


def test_reversible_layers_keep_few_activations():
    clouds = Clouds(4, 64, (16, 16), depth=10, neighbours=8)
    plain, reversible = (
        bench.depth_row(dataclasses.replace(clouds, reversible=r)) for r in (False, True)
    )
    assert 0 < reversible["activations_mb"] < 0.5 * plain["activations_mb"]
    for row in (plain, reversible):
        gradients = 4 * row["parameters"] / 1e6
        assert row["weights_mb"] == pytest.approx(2 * gradients)
        assert row["total_mb"] == pytest.approx(row["activations_mb"] + 2 * gradients)


def test_rows_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "equiformer_is_installed", lambda: False)
    monkeypatch.setattr(bench, "SPEED_SIZE", SMALL)
    arguments = ["--parts", "speed", "--structures", "2", "--rounds", "1", "--no-many"]
    bench.main([*arguments, "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())["parts"]["speed"]
    assert [row["program"] for row in rows] == [OURS, PAIRWISE]
    assert rows[1]["forward_ratio"].keys() == {"value", "least", "most"}
    shown = capsys.readouterr().out
    assert "equiformer-pytorch is not installed: run `make bench`" in shown
    assert "2 structures of 12 points, 4 neighbours, dim (8, 4, 4), depth 1" in shown


def test_bad_arguments_are_refused_before_measuring(tmp_path):
    with pytest.raises(ValueError, match="--parts must be one of speed, degree6, memory, got 'x'"):
        bench.main(["--parts", "speed,x"])
    with pytest.raises(FileNotFoundError, match="folder .*absent"):
        bench.main(["--parts", "memory", "--json", str(tmp_path / "absent" / "rows.json")])
