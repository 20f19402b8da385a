"""Rotation error of the far field: 25 fixed directions, as E2Former-FMM ships, against expansions
that turn with the atoms.

    python benchmarks/accuracy/bench_far_field_rotation.py
    python benchmarks/accuracy/bench_far_field_rotation.py --largest 10 --json rotation.json

Kernel sum alone at the band of the public program (8 evenly spaced kappa from 1.0 to 1.4, its
falling coefficients, degrees l <= 2), float64, atoms evenly in a ball of radius R (Angstrom),
non-negative queries and keys. The error of a degree is ``|f(turned atoms) - D f(atoms)| /
|f(atoms)|``, the worst of several random turns. 25 directions: 5 Gauss-Legendre circles of 5
azimuths. multipole: the addition theorem with as many moments as a tolerance of 1e-5 asks for, and
with those of degrees <= 3 alone, which is wrong for large R and turns exactly all the same.
planewave: Gauss-Legendre directions, as many as that tolerance asks for. Last column: error of the
worst degree against the sum over all pairs.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/accuracy/bench_far_field_rotation.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import warnings

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip
from torch import Tensor, nn

from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.storage.files import write_json
from farfield.models.far_field.expansion import ExpansionOptions
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


def programs(wave_numbers: tuple[float, ...], radius: float) -> dict[str, nn.Module]:
    """What is compared, made for a ball of ``radius`` Angstrom."""
    options = ExpansionOptions(TOLERANCE, 1.001 * radius, rule="gauss_legendre")
    fixed = ExpansionOptions(
        TOLERANCE, 1.001 * radius, rule="gauss_legendre", directions=FIXED_DIRECTIONS
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "25 directions of rule")  # what it says is measured here
        shipped = PlaneWaveExpansion(wave_numbers, LMAX, fixed)
    return {
        "25 directions": shipped,
        "multipole": MultipoleExpansion(wave_numbers, LMAX, options),
        f"multipole, degrees <= {FIXED_DEGREE}": MultipoleExpansion(
            wave_numbers, LMAX, options, (FIXED_DEGREE,) * len(wave_numbers)
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
    before, after = (
        spherical_harmonics(directions, LMAX),
        spherical_harmonics(directions @ turn.T, LMAX),
    )
    return (2 * degree_of_row(LMAX) + 1) * (after.T @ (weights[:, None] * before))


def inputs(atoms: int) -> tuple[GraphIndex, Tensor, tuple[Tensor, ...]]:
    """One graph: points of a unit ball about their centroid, the farthest on its surface; queries,
    keys and values.
    """
    torch.manual_seed(0)
    kind = {"dtype": torch.float64}
    points = nn.functional.normalize(torch.randn(atoms, 3, **kind), dim=1) * torch.rand(
        atoms, 1, **kind
    ) ** (1 / 3)
    points = points - points.mean(0)
    none = torch.zeros(0, dtype=torch.long)
    graph = GraphIndex(none, none, torch.tensor([atoms]))
    weights = (torch.rand(atoms, HEADS, FEATURES, **kind) for _ in range(2))
    return (
        graph,
        points / points.norm(dim=1).max(),
        (*weights, torch.randn(atoms, HEADS, VALUES, **kind)),
    )


def of_degrees(difference: Tensor, whole: Tensor) -> list[float]:
    """Norm of a difference relative to the whole, (nodes, heads, rows, values), degree by
    degree.
    """
    return [
        float(difference[:, :, degree_slice(l)].norm() / whole[:, :, degree_slice(l)].norm())
        for l in range(LMAX + 1)
    ]


@torch.no_grad()
def rotation_rows(radii: tuple[float, ...], atoms: int, count: int) -> list[dict]:
    """A row for every radius and program; errors are numbers."""
    graph, unit, features = inputs(atoms)
    spectrum = RadialSpectrum(LMAX, HEADS, BAND).double()
    rotations = [(turn, turn_of_rows(turn)) for turn in turns(count)]
    rows = []
    for radius in radii:
        positions, arguments = radius * unit, (*features, spectrum())
        exact = PairwiseExpansion(spectrum.wave_numbers, LMAX)(graph, positions, *arguments)
        for name, expansion in programs(spectrum.wave_numbers, radius).items():
            here = expansion(graph, positions, *arguments)
            each = [
                of_degrees(
                    expansion(graph, positions @ turn.T, *arguments) - rows_turn @ here, here
                )
                for turn, rows_turn in rotations
            ]
            worst = {f"turn{l}": max(errors[l] for errors in each) for l in range(LMAX + 1)}
            error = max(of_degrees(here - exact, exact))
            rows.append(
                {"radius": radius, "program": name, "moments": expansion.moments}
                | worst
                | {"error": error}
            )
    return rows


def printed(row: dict) -> dict:
    """Errors with two digits."""
    return row | {
        key: f"{row[key]:.1e}" for key in COLUMNS if key.startswith("turn") or key == "error"
    }


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
    rows = rotation_rows(
        tuple(radius for radius in RADII if radius <= options.largest),
        options.atoms,
        options.rotations,
    )
    print(harness.table([printed(row) for row in rows], COLUMNS))
    if options.json:
        write_json(
            options.json, {"environment": report, "options": dict(options), "rotation": rows}
        )


if __name__ == "__main__":
    run_script(main)
