"""The table of attention orders: all ways of one order compute the same step; rows are complete."""

import json

import pytest
import torch

from benchmarks.speed import bench_e2former_attention as bench
from farfield.models.near_field.e2former_attention import ORDERS


@pytest.mark.parametrize("order", ORDERS)
def test_all_variants_of_an_order_are_the_same_network(order):
    """Outputs and gradients of the weights agree.

    Up to rounding where the sums are exact, to eight bits in bfloat16.
    """
    programs = {
        variant: bench.build("small", order, variant) for variant in bench.variants_of(order)
    }
    expected = programs["math"].run()
    programs["math"].train()
    gradients = [parameter.grad for parameter in programs["math"].module.parameters()]
    for variant, program in programs.items():
        bar = 3e-2 if variant == "flash" else 1e-4
        for found, right in zip(program.run(), expected, strict=True):
            assert float((found - right).detach().norm() / right.detach().norm()) < bar, variant
        program.train()
        for parameter, right in zip(program.module.parameters(), gradients, strict=True):
            assert float((parameter.grad - right).norm()) <= bar * max(
                float(g.norm()) for g in gradients
            ), variant


def test_rows_are_written(tmp_path, capsys):
    threads = torch.get_num_threads()
    bench.main(["--scenes", "small", "--rounds", "1", "--json", str(tmp_path / "rows.json")])
    torch.set_num_threads(threads)
    rows = {row["order"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert list(rows) == list(ORDERS) and "node form" not in rows["zero-order"]
    assert all(rows[order][variant] > 0 for order in ORDERS for variant in bench.variants_of(order))
    assert (
        "small: 5 structures, 45 atoms, 356 directed edges, 32 channels" in capsys.readouterr().out
    )


def test_bad_arguments_are_refused_before_measuring(tmp_path):
    with pytest.raises(ValueError, match="--scenes must be one of large, small, got 'wide'"):
        bench.main(["--scenes", "small,wide"])
    with pytest.raises(FileNotFoundError, match="folder .*absent"):
        bench.main(["--scenes", "small", "--json", str(tmp_path / "absent" / "rows.json")])
