"""The table of rotation errors: what should turn turns, and what cannot turn does not."""

import torch

from benchmarks.accuracy.bench_far_field_rotation import (
    LMAX,
    TOLERANCE,
    printed,
    rotation_rows,
    turn_of_rows,
    turns,
)
from farfield.models.so3.harmonics import spherical_harmonics


def test_rows_of_the_table():
    rows = {(row["radius"], row["program"]): row for row in rotation_rows((2.5, 5.0), 40, 2)}
    assert len(rows) == 8

    def worst(radius: float, program: str) -> float:
        """Largest rotation error of the degrees."""
        return max(rows[radius, program][f"turn{l}"] for l in range(LMAX + 1))

    for radius in (2.5, 5.0):
        assert (
            worst(radius, "multipole") < 1e-13 and worst(radius, "multipole, degrees <= 3") < 1e-13
        )
        assert worst(radius, "planewave") < TOLERANCE
        assert (
            rows[radius, "multipole"]["error"] < TOLERANCE
            and rows[radius, "planewave"]["error"] < TOLERANCE
        )
        assert rows[radius, "multipole, degrees <= 3"]["error"] > 1e-3
    assert worst(5.0, "25 directions") > 0.1
    assert printed(rows[5.0, "25 directions"])["turn2"].endswith("e-01")


def test_turn_of_the_rows():
    torch.manual_seed(1)
    (turn,), points = turns(1), torch.randn(20, 3, dtype=torch.float64)
    expected = spherical_harmonics(points @ turn.T, LMAX)
    torch.testing.assert_close(
        spherical_harmonics(points, LMAX) @ turn_of_rows(turn).T, expected, rtol=0, atol=1e-14
    )
    assert torch.linalg.det(turn) > 0.999
