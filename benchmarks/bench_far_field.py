"""The far field's cost: against matrix products of the same size, against plain plane waves of equal accuracy, against all pairs, and in N.

    python benchmarks/bench_far_field.py
    python benchmarks/bench_far_field.py --atoms 300 --no-baseline --json far_field.json

Kernel sum alone (4 heads, degrees l <= 2, 8 wave numbers up to kappa R = 2, tolerance 1e-5, float32, one thread): features C = 32 or 16
channels of 9 components, d = 32 or 8 key features.
matmul: products of float32 matrices with the multiply-adds of moments and read-back, forward; multipole, pairwise: ours; planewave: the
sum over Lebedev directions of E2Former-FMM (written plainly with einsum: atoms x directions x kappas x heads x features) with as many
directions as the tolerance asks for. Times are medians of CPU milliseconds, all programs taking turns in one process; errors relative to
the pairwise sum in float64. Scale: balls of fixed density at a fixed number of moments; memory is the peak of one forward and backward
in a fresh process.
"""

from __future__ import annotations

import math
import statistics

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip
from scipy.integrate import lebedev_rule
from torch import Tensor, nn

from dataloader.files import write_json
from models.far_field.multipole import MultipoleExpansion
from models.far_field.options import ExpansionOptions
from models.far_field.pairwise import PairwiseExpansion
from models.graph_ops import GraphIndex
from models.harmonics import spherical_harmonics
from models.irreps import degree_of_row, num_rows
from train.options import OptionParser, run_script

HEADS, LMAX, KAPPAS, RADIUS, TOLERANCE = 4, 2, 8, 10.0, 1e-5
SHAPES = {"d=32 C=32": (32, 32), "d=8 C=16": (8, 16)}
LEBEDEV_ORDERS = (3, 5, 7, 9, 11, 15, 17, 19, 21, 23, 29)
COLUMNS = {"shape": "shape", "program": "program", "forward": "forward ms", "train": "with backward ms"}
COLUMNS |= {"forward_ratio": "/ matmul", "train_ratio": "/ matmul", "error": "error"}
SCALE_COLUMNS = {"atoms": "atoms", "moments": "moments", "train": "with backward ms", "memory": "kB per atom"}


class PlaneWaveBaseline(nn.Module):
    """``j_l Y_lm = Re i^-l <Y_lm(u) exp(i kappa u.r)>`` over Lebedev directions, each product as large as it comes."""

    def __init__(self, wave_numbers: tuple[float, ...], lmax: int, radius: float):
        super().__init__()
        twice = 2 * max(wave_numbers) * radius
        degree = twice + 2.8 * twice ** (1 / 3) + 4.1  # for a tolerance of 1e-5
        points, weights = lebedev_rule(next(order for order in LEBEDEV_ORDERS if order >= degree))
        directions = torch.tensor(points.T)
        harmonics = spherical_harmonics(directions, lmax) * torch.tensor(weights / weights.sum())[:, None]
        degrees = degree_of_row(lmax)
        turns = (torch.cos(math.pi / 2 * degrees), torch.sin(math.pi / 2 * degrees))  # i^-l = cos - i sin
        self.degree, self.count = degrees, len(weights)
        self.wave_vectors = (torch.tensor(wave_numbers)[:, None, None] * directions.float()[None]).flatten(0, 1)  # (q s, 3)
        self.real, self.imaginary = ((harmonics * turn).float().T for turn in turns)  # (rows, s)

    def forward(self, graph: GraphIndex, positions: Tensor, queries: Tensor, keys: Tensor, values: Tensor, coefficients: Tensor) -> Tensor:
        """The call of every expansion, for one graph."""
        phase = (positions - positions.mean(0)) @ self.wave_vectors.T  # (n, q s)
        weight = coefficients[self.degree]  # (rows, h, q)
        real, imaginary = (torch.einsum("rs,rhq->rhqs", part, weight).flatten(2) for part in (self.real, self.imaginary))
        waves = torch.stack([phase.cos(), phase.sin()])  # (2, n, q s)
        moments = torch.einsum("wnphd,nhv->wphdv", torch.einsum("wnp,nhd->wnphd", waves, keys), values)
        spread = torch.einsum("wnp,nhd->wnphd", waves, queries)
        found = torch.einsum("wnphd,wphdv->nphv", spread, moments)  # Re of target times conjugate source
        crossed = torch.einsum("nphd,phdv->nphv", spread[1], moments[0]) - torch.einsum("nphd,phdv->nphv", spread[0], moments[1])
        return torch.einsum("rhp,nphv->nhrv", real, found) + torch.einsum("rhp,nphv->nhrv", imaginary, crossed)


def inputs(atoms: int, keys: int, channels: int, radius: float) -> tuple:
    """One graph of atoms in a ball, random features: the arguments of an expansion, float32."""
    torch.manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(atoms, 3), dim=1) * torch.rand(atoms, 1) ** (1 / 3)
    points = points - points.mean(0)
    points = points * (radius / points.norm(dim=1).max() * 0.999)
    none = torch.zeros(0, dtype=torch.long)
    graph = GraphIndex.from_edges(none, none, torch.tensor([atoms]))
    width = num_rows(LMAX) * channels // HEADS
    features = [torch.rand(atoms, HEADS, keys), torch.rand(atoms, HEADS, keys), torch.randn(atoms, HEADS, width)]
    return graph, *(part.requires_grad_() for part in (points, *features, torch.randn(LMAX + 1, HEADS, KAPPAS)))


def wave_numbers(radius: float) -> tuple[float, ...]:
    """Evenly spaced, kappa R from 2 / KAPPAS to 2."""
    return tuple(2 / radius * (q + 1) / KAPPAS for q in range(KAPPAS))


def ours(atoms: int, keys: int, channels: int, radius: float) -> harness.Program:
    """The multipole expansion on one ball at the design radius's moments."""
    arguments = inputs(atoms, keys, channels, radius)
    expansion = MultipoleExpansion(wave_numbers(radius), LMAX, ExpansionOptions(TOLERANCE, radius))
    return harness.Program("multipole", expansion, lambda: (expansion(*arguments),))


def matmul(atoms: int, moments: int, keys: int, width: int) -> harness.Program:
    """Products with the multiply-adds of moments (atoms into moments) and read-back (keys into atoms, moments into kernel components)."""
    piece = min(atoms, 128)  # with its results in the cache, into memory that is there already
    source, pair, sums = torch.randn(moments, atoms), torch.randn(atoms, HEADS * keys * width), torch.empty(moments, HEADS * keys * width)
    query, block = torch.randn(HEADS, piece, keys), torch.randn(HEADS, keys, 64 * width)
    read, target = torch.empty(HEADS, piece, 64 * width), torch.randn(HEADS * piece, num_rows(LMAX), 64)
    spread, out = torch.randn(HEADS * piece, 64, width), torch.empty(HEADS * piece, num_rows(LMAX), width)

    def run() -> tuple[Tensor, ...]:
        """All products once."""
        torch.mm(source, pair, out=sums)
        for _ in range(round(atoms / piece * moments / 64)):
            torch.bmm(query, block, out=read)
            torch.bmm(target, spread, out=out)
        return (sums,)

    return harness.Program("matmul", nn.Module(), run)


def speed_rows(options) -> list[dict]:
    """A row for every shape and program."""
    rows = []
    for name, (keys, channels) in SHAPES.items():
        arguments = inputs(options.atoms, keys, channels, RADIUS)
        graph, *tensors = arguments
        exact = PairwiseExpansion(wave_numbers(RADIUS), LMAX)(graph, *(part.detach().double() for part in tensors))
        multipole = ours(options.atoms, keys, channels, RADIUS)
        width = tensors[3].shape[-1]
        programs = {"matmul": matmul(options.atoms, multipole.module.moments, keys, width), "multipole": multipole}
        others = {"pairwise": PairwiseExpansion(wave_numbers(RADIUS), LMAX)}
        if options.baseline:
            others["planewave"] = PlaneWaveBaseline(wave_numbers(RADIUS), LMAX, RADIUS)
        for other, module in others.items():
            programs[other] = harness.Program(other, module, lambda module=module, arguments=arguments: (module(*arguments),))
        tasks = {(key, step): getattr(program, step) for key, program in programs.items() for step in harness.STEPS}
        del tasks["matmul", "train"]
        times = {key: 1e3 * statistics.median(each) for key, each in harness.interleave(tasks, options.rounds).items()}
        products = times["matmul", "forward"]
        count = options.atoms * multipole.module.moments * HEADS * width * (2 * keys + num_rows(LMAX))
        print(f"{name}: {multipole.module.moments} moments, {count / 1e9:.2f} 10^9 multiply-adds")
        for key, program in programs.items():
            row = {"shape": name, "program": key, "forward": times[key, "forward"], "train": times.get((key, "train"))}
            row["forward_ratio"] = row["forward"] / products
            if key != "matmul":
                with torch.no_grad():
                    found = program.run()[0].double()
                row["train_ratio"] = row["train"] / products
                row["error"] = f"{float((found - exact).norm() / exact.norm()):.1e}"
            rows.append(row)
    return rows


def scale_rows(options) -> list[dict]:
    """Time and memory of balls of fixed density at the moments of kappa R = 2, wide shape."""
    rows = []
    for atoms in (options.largest // 4, options.largest // 2, options.largest):
        radius = RADIUS * (atoms / 1000) ** (1 / 3)
        program = ours(atoms, *SHAPES["d=32 C=32"], radius)
        times = harness.interleave({"train": program.train}, 1)["train"]
        memory = harness.peak_memory_mb(ours, (atoms, *SHAPES["d=32 C=32"], radius), "train")
        rows.append({"atoms": atoms, "moments": program.module.moments, "train": 1e3 * times[0], "memory": 1e3 * memory / atoms})
    return rows


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_far_field", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--atoms", int, 1000, low=8, help="atoms of the speed table")
    bench.add("--largest", int, 4000, low=32, help="atoms of the last row of the scale table; the others have a quarter and half of them")
    bench.add("--baseline", bool, True, help="measure the plane waves too (several GB at 1000 atoms)")
    bench.add("--rounds", int, 3, low=1, help="timed rounds")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    torch.set_num_threads(1)
    report = harness.environment(("torch", "scipy"))
    print(harness.describe_environment(report))
    tables = {"speed": speed_rows(options), "scale": scale_rows(options)}
    print(harness.table(tables["speed"], COLUMNS))
    print(harness.table(tables["scale"], SCALE_COLUMNS))
    if options.json:
        write_json(options.json, {"environment": report, "options": dict(options), **tables})


if __name__ == "__main__":
    run_script(main)
