"""Rotation error of the far field: fixed directions against expansions that turn with the atoms.

    python -m benchmarks.accuracy.bench_far_field_rotation
    python -m benchmarks.accuracy.bench_far_field_rotation --largest 10 --json rotation.json

Kernel sum alone at the band of the public program (8 evenly spaced kappa from 1.0 to 1.4, its
falling coefficients, degrees l <= 2), float64, atoms evenly in a ball of radius R (Angstrom),
non-negative queries and keys. The error of a degree is ``|f(turned atoms) - D f(atoms)| /
|f(atoms)|``, the worst of several random turns. Programs:

    25 directions   5 Gauss-Legendre circles of 5 azimuths, as E2Former-FMM ships
    multipole       the addition theorem, with as many moments as a tolerance of 1e-5 needs
    degrees <= 3    the same with moments of degrees <= 3 alone: wrong for large R, and yet it turns
                    exactly
    planewave       Gauss-Legendre directions, as many as the tolerance needs

The last column is the error of the worst degree against the sum over all pairs.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/accuracy/bench_far_field_rotation.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import dataclasses
import warnings

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip
from torch import Tensor, nn

from farfield.common.command_line import OptionParser, run_script
from farfield.models.far_field.expansion import Expansion, ExpansionOptions
from farfield.models.far_field.expansions.multipole import MultipoleExpansion
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion
from farfield.models.far_field.expansions.planewave import PlaneWaveExpansion
from farfield.models.far_field.spectrum import RadialSpectrum, SpectrumOptions
from farfield.models.graph_ops import GraphIndex
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, degree_slice
from farfield.models.so3.quadrature import RULES

RADII = (2.5, 5.0, 10.0, 20.0, 40.0)
HEADS, FEATURES, VALUES, LMAX, TOLERANCE = 2, 2, 2, 2, 1e-5
BAND = SpectrumOptions(num_kappa=8, kappa_min=1.0, kappa_max=1.4, kappa_grid="uniform")
FIXED_DIRECTIONS, FIXED_DEGREE = 25, 3
COLUMNS = {
    "radius": "R",
    "program": "program",
    "moments": "moments",
    "turn0": "l = 0",
    "turn1": "l = 1",
    "turn2": "l = 2",
    "error": "error",
}


def programs(wave_numbers: tuple[float, ...], radius: float) -> dict[str, Expansion]:
    """What is compared, made for a ball of ``radius`` Angstrom."""
    options = ExpansionOptions(TOLERANCE, 1.001 * radius, rule="gauss_legendre")
    fixed = dataclasses.replace(options, directions=FIXED_DIRECTIONS)
    low_degrees = (FIXED_DEGREE,) * len(wave_numbers)
    with warnings.catch_warnings():
        # The warning quotes the error to expect, which is measured here.
        warnings.filterwarnings("ignore", "25 directions of rule")
        shipped = PlaneWaveExpansion(wave_numbers, LMAX, fixed)
    return {
        "25 directions": shipped,
        "multipole": MultipoleExpansion(wave_numbers, LMAX, options),
        f"multipole, degrees <= {FIXED_DEGREE}": MultipoleExpansion(
            wave_numbers, LMAX, options, low_degrees
        ),
        "planewave": PlaneWaveExpansion(wave_numbers, LMAX, options),
    }


def turns(count: int) -> list[Tensor]:
    """Random rotations (3, 3)."""
    found = []
    for _ in range(count):
        q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
        q = q * r.diagonal().sign()
        found.append(q * torch.linalg.det(q))
    return found


def turn_of_rows(turn: Tensor) -> Tensor:
    """D of kernel rows, ``Y(turn u) = D Y(u)``, as averages over directions: (rows, rows)."""
    directions, weights = (torch.from_numpy(part) for part in RULES["lebedev"](2 * LMAX))
    before = spherical_harmonics(directions, LMAX)
    after = spherical_harmonics(directions @ turn.T, LMAX)
    return (2 * degree_of_row(LMAX) + 1) * (after.T @ (weights[:, None] * before))


def inputs(atoms: int) -> tuple[GraphIndex, Tensor, tuple[Tensor, ...]]:
    """One graph, points evenly in a unit ball (the farthest on its surface), random features."""
    torch.manual_seed(0)
    kind = {"dtype": torch.float64}
    directions = nn.functional.normalize(torch.randn(atoms, 3, **kind), dim=1)
    points = directions * torch.rand(atoms, 1, **kind) ** (1 / 3)
    points = points - points.mean(0)
    points = points / points.norm(dim=1).max()

    none = torch.zeros(0, dtype=torch.long)
    graph = GraphIndex(none, none, torch.tensor([atoms]))
    queries = torch.rand(atoms, HEADS, FEATURES, **kind)
    keys = torch.rand(atoms, HEADS, FEATURES, **kind)
    values = torch.randn(atoms, HEADS, VALUES, **kind)
    return graph, points, (queries, keys, values)


def of_degrees(difference: Tensor, whole: Tensor) -> list[float]:
    """Norm of a difference relative to the whole, degree by degree.

    Both are (nodes, heads, rows, values).
    """
    found = []
    for l in range(LMAX + 1):
        rows = degree_slice(l)
        found.append(float(difference[:, :, rows].norm() / whole[:, :, rows].norm()))
    return found


@torch.no_grad()
def rotation_rows(radii: tuple[float, ...], atoms: int, count: int) -> list[dict]:
    """A row for every radius and program; count: random turns."""
    graph, unit, features = inputs(atoms)
    spectrum = RadialSpectrum(LMAX, HEADS, BAND).double()
    arguments = (*features, spectrum())
    rotations = [(turn, turn_of_rows(turn)) for turn in turns(count)]

    rows = []
    for radius in radii:
        positions = radius * unit
        exact = PairwiseExpansion(spectrum.wave_numbers, LMAX)(graph, positions, *arguments)
        for name, expansion in programs(spectrum.wave_numbers, radius).items():
            here = expansion(graph, positions, *arguments)

            # Errors of each turn and degree.
            errors = []
            for turn, rows_turn in rotations:
                there = expansion(graph, positions @ turn.T, *arguments)
                errors.append(of_degrees(there - rows_turn @ here, here))

            row = {"radius": radius, "program": name, "moments": expansion.moments}
            row |= {f"turn{l}": max(each[l] for each in errors) for l in range(LMAX + 1)}
            rows.append(row | {"error": max(of_degrees(here - exact, exact))})
    return rows


def printed(row: dict) -> dict:
    """Errors with two digits."""
    errors = [key for key in COLUMNS if key.startswith("turn") or key == "error"]
    return row | {key: f"{row[key]:.1e}" for key in errors}


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_far_field_rotation", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--atoms", int, 64, low=4, help="atoms in the ball")
    bench.add("--rotations", int, 4, low=1, help="random rotations, of which the worst counts")
    bench.add("--largest", float, RADII[-1], low=RADII[0], help="largest radius, Angstrom")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(("torch", "scipy"), options.json)
    radii = tuple(radius for radius in RADII if radius <= options.largest)
    rows = rotation_rows(radii, options.atoms, options.rotations)
    print(harness.table([printed(row) for row in rows], COLUMNS))
    harness.keep(options, report, rotation=rows)


if __name__ == "__main__":
    run_script(main)
