"""The far field's cost: against matrix products of the same size, against plain plane waves of
equal accuracy, pairs or moments, and in N.

    python -m benchmarks.speed.bench_far_field
    python -m benchmarks.speed.bench_far_field --atoms 300 --no-baseline --largest 4000 \\
        --json far_field.json

Kernel sum alone (4 heads, degrees l <= 2, 8 wave numbers up to kappa R = 2, tolerance 1e-5,
float32, one thread): features C = 32 or 16 channels of 9 components, d = 32 or 8 key features.

speed        matmul: products of float32 matrices with the multiply-adds of moments and read-back,
             forward; multipole, planewave, pairwise: ours; einsum: the sum over Lebedev directions
             of E2Former-FMM written plainly (atoms x directions x kappas x heads x features) with
             as many directions as the tolerance asks for. Errors relative to the pairwise sum in
             float64.
choice       pairwise, multipole and what ``auto`` takes, from 20 to 5000 atoms
scale        balls of fixed density with the wave numbers fixed to the ball (the same moments for
             all) and fixed in space (moments grow with the ball); memory is the peak of one forward
             and backward in a fresh process, the output reduced to one number an atom

Times are medians of CPU milliseconds, all programs of a table taking turns in one process.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_far_field.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import math
import statistics

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip
from scipy.integrate import lebedev_rule
from torch import Tensor, nn

from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.storage.files import write_json
from farfield.models.far_field.expansion import ExpansionOptions
from farfield.models.far_field.expansions.auto import AutoExpansion
from farfield.models.far_field.expansions.multipole import MultipoleExpansion
from farfield.models.far_field.expansions.pairwise import PairwiseExpansion
from farfield.models.far_field.expansions.planewave import PlaneWaveExpansion
from farfield.models.graph_ops import GraphIndex
from farfield.models.so3.harmonics import spherical_harmonics
from farfield.models.so3.irreps import degree_of_row, num_rows

HEADS, LMAX, KAPPAS, RADIUS, TOLERANCE = 4, 2, 8, 10.0, 1e-5
SHAPES = {"d=32 C=32": (32, 32), "d=8 C=16": (8, 16)}
CHOICE_ATOMS = (20, 50, 100, 200, 500, 1000, 2000, 5000)
SCALE_ATOMS = (1000, 10_000, 100_000)
LEBEDEV_ORDERS = (3, 5, 7, 9, 11, 15, 17, 19, 21, 23, 29)
COLUMNS = {
    "shape": "shape",
    "program": "program",
    "forward": "forward ms",
    "train": "with backward ms",
}
COLUMNS |= {"forward_ratio": "/ matmul", "train_ratio": "/ matmul", "error": "error"}
CHOICE_COLUMNS = {
    "shape": "shape",
    "atoms": "atoms",
    "pairwise": "pairwise ms",
    "multipole": "multipole ms",
    "auto": "auto ms",
}
CHOICE_COLUMNS |= {"ratio": "auto / faster"}
SCALE_COLUMNS = {
    "law": "wave numbers",
    "shape": "shape",
    "atoms": "atoms",
    "moments": "moments",
    "train": "with backward ms",
}
SCALE_COLUMNS |= {"memory": "MB", "per_atom": "kB per atom"}


class PlaneWaveBaseline(nn.Module):
    """``j_l Y_lm = Re i^-l <Y_lm(u) exp(i kappa u.r)>`` over Lebedev directions, each product as
    large as it comes.
    """

    def __init__(self, wave_numbers: tuple[float, ...], lmax: int, radius: float):
        super().__init__()
        twice = 2 * max(wave_numbers) * radius
        degree = twice + 2.8 * twice ** (1 / 3) + 4.1  # for a tolerance of 1e-5
        points, weights = lebedev_rule(next(order for order in LEBEDEV_ORDERS if order >= degree))
        directions = torch.tensor(points.T)
        harmonics = (
            spherical_harmonics(directions, lmax) * torch.tensor(weights / weights.sum())[:, None]
        )
        degrees = degree_of_row(lmax)
        turns = (
            torch.cos(math.pi / 2 * degrees),
            torch.sin(math.pi / 2 * degrees),
        )  # i^-l = cos - i sin
        self.degree, self.count = degrees, len(weights)
        self.wave_vectors = (
            torch.tensor(wave_numbers)[:, None, None] * directions.float()[None]
        ).flatten(0, 1)  # (q s, 3)
        self.real, self.imaginary = ((harmonics * turn).float().T for turn in turns)  # (rows, s)

    def forward(
        self,
        graph: GraphIndex,
        positions: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        coefficients: Tensor,
    ) -> Tensor:
        """The call of every expansion, for one graph."""
        phase = (positions - positions.mean(0)) @ self.wave_vectors.T  # (n, q s)
        weight = coefficients[self.degree]  # (rows, h, q)
        real, imaginary = (
            torch.einsum("rs,rhq->rhqs", part, weight).flatten(2)
            for part in (self.real, self.imaginary)
        )
        waves = torch.stack([phase.cos(), phase.sin()])  # (2, n, q s)
        moments = torch.einsum(
            "wnphd,nhv->wphdv", torch.einsum("wnp,nhd->wnphd", waves, keys), values
        )
        spread = torch.einsum("wnp,nhd->wnphd", waves, queries)
        found = torch.einsum(
            "wnphd,wphdv->nphv", spread, moments
        )  # Re of target times conjugate source
        crossed = torch.einsum("nphd,phdv->nphv", spread[1], moments[0]) - torch.einsum(
            "nphd,phdv->nphv", spread[0], moments[1]
        )
        return torch.einsum("rhp,nphv->nhrv", real, found) + torch.einsum(
            "rhp,nphv->nhrv", imaginary, crossed
        )


def inputs(atoms: int, keys: int, channels: int, radius: float) -> tuple:
    """One graph of atoms in a ball, random features: the arguments of an expansion, float32."""
    torch.manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(atoms, 3), dim=1) * torch.rand(atoms, 1) ** (
        1 / 3
    )
    points = points - points.mean(0)
    points = points * (radius / points.norm(dim=1).max() * 0.999)
    none = torch.zeros(0, dtype=torch.long)
    graph = GraphIndex(none, none, torch.tensor([atoms]))
    width = num_rows(LMAX) * channels // HEADS
    features = [
        torch.rand(atoms, HEADS, keys),
        torch.rand(atoms, HEADS, keys),
        torch.randn(atoms, HEADS, width),
    ]
    return graph, *(
        part.requires_grad_() for part in (points, *features, torch.randn(LMAX + 1, HEADS, KAPPAS))
    )


def wave_numbers(radius: float) -> tuple[float, ...]:
    """Evenly spaced, kappa R from 2 / KAPPAS to 2."""
    return tuple(2 / radius * (q + 1) / KAPPAS for q in range(KAPPAS))


def program(
    expansion: type[nn.Module], arguments: tuple, radius: float = RADIUS, waves: float = RADIUS
) -> harness.Program:
    """``expansion`` for a ball of ``radius`` with the wave numbers of a ball of radius
    ``waves``.
    """
    module = expansion(wave_numbers(waves), LMAX, ExpansionOptions(TOLERANCE, radius))
    return harness.Program(expansion.__name__, module, lambda: (module(*arguments),))


def reduced(atoms: int, keys: int, channels: int, radius: float, waves: float) -> harness.Program:
    """The multipole expansion of one ball, its output reduced to one number an atom: what it needs
    itself, without a loss.
    """
    whole = program(MultipoleExpansion, inputs(atoms, keys, channels, radius), radius, waves)
    return harness.Program("multipole", whole.module, lambda: (whole.run()[0].flatten(1).mean(1),))


def matmul(atoms: int, moments: int, keys: int, width: int) -> harness.Program:
    """Products with the multiply-adds of moments (atoms into moments) and read-back (keys into
    atoms, moments into kernel components).
    """
    piece = min(atoms, 128)  # with its results in the cache, into memory that is there already
    source, pair, sums = (
        torch.randn(moments, atoms),
        torch.randn(atoms, HEADS * keys * width),
        torch.empty(moments, HEADS * keys * width),
    )
    query, block = torch.randn(HEADS, piece, keys), torch.randn(HEADS, keys, 64 * width)
    read, target = (
        torch.empty(HEADS, piece, 64 * width),
        torch.randn(HEADS * piece, num_rows(LMAX), 64),
    )
    spread, out = (
        torch.randn(HEADS * piece, 64, width),
        torch.empty(HEADS * piece, num_rows(LMAX), width),
    )

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
        exact = PairwiseExpansion(wave_numbers(RADIUS), LMAX)(
            graph, *(part.detach().double() for part in tensors)
        )
        expansions = {
            "multipole": MultipoleExpansion,
            "planewave": PlaneWaveExpansion,
            "pairwise": PairwiseExpansion,
        }
        programs = {key: program(expansion, arguments) for key, expansion in expansions.items()}
        if options.baseline:
            plain = PlaneWaveBaseline(wave_numbers(RADIUS), LMAX, RADIUS)
            programs["einsum"] = harness.Program(
                "einsum", plain, lambda plain=plain, arguments=arguments: (plain(*arguments),)
            )
        moments, width = programs["multipole"].module.moments, tensors[3].shape[-1]
        products = matmul(options.atoms, moments, keys, width)
        tasks = {
            (key, step): getattr(each, step)
            for key, each in programs.items()
            for step in harness.STEPS
        }
        times = harness.interleave(
            tasks | {("matmul", "forward"): products.forward}, options.rounds
        )
        times = {key: 1e3 * statistics.median(each) for key, each in times.items()}
        unit = times["matmul", "forward"]
        count = options.atoms * moments * HEADS * width * (2 * keys + num_rows(LMAX))
        print(f"{name}: {moments} moments, {count / 1e9:.2f} 10^9 multiply-adds")
        rows.append({"shape": name, "program": "matmul", "forward": unit, "forward_ratio": 1.0})
        for key, each in programs.items():
            with torch.no_grad():
                found = each.run()[0].double()
            row = {
                "shape": name,
                "program": key,
                "error": f"{float((found - exact).norm() / exact.norm()):.1e}",
            }
            for step in harness.STEPS:
                row |= {step: times[key, step], f"{step}_ratio": times[key, step] / unit}
            rows.append(row)
    return rows


def choice_rows(options) -> list[dict]:
    """Forward and backward of pairs, moments and the choice between them."""
    rows = []
    for name, (keys, channels) in SHAPES.items():
        for atoms in (size for size in CHOICE_ATOMS if size <= options.largest):
            arguments = inputs(atoms, keys, channels, RADIUS)
            expansions = {
                "pairwise": PairwiseExpansion,
                "multipole": MultipoleExpansion,
                "auto": AutoExpansion,
            }
            tasks = {
                key: program(expansion, arguments).train for key, expansion in expansions.items()
            }
            rounds = options.rounds if atoms <= 1000 else 1
            times = {
                key: 1e3 * statistics.median(each)
                for key, each in harness.interleave(tasks, rounds).items()
            }
            ratio = times["auto"] / min(times["pairwise"], times["multipole"])
            rows.append({"shape": name, "atoms": atoms, **times, "ratio": ratio})
    return rows


def scale_rows(options) -> list[dict]:
    """Time and memory of balls of fixed density, each ten times larger than the one before."""
    sizes = [size for size in SCALE_ATOMS if size <= options.largest]
    rows = []
    for shape, law in (
        ("d=8 C=16", "fixed to the ball"),
        ("d=32 C=32", "fixed to the ball"),
        ("d=8 C=16", "fixed in space"),
    ):
        for atoms in sizes:
            if shape == "d=32 C=32" and atoms > 10_000:
                continue
            radius = RADIUS * (atoms / 1000) ** (1 / 3)
            arguments = (
                atoms,
                *SHAPES[shape],
                radius,
                radius if law == "fixed to the ball" else RADIUS,
            )
            case = reduced(*arguments)
            times = harness.interleave({"train": case.train}, 3 if atoms <= 1000 else 1)["train"]
            memory = harness.peak_memory_mb(reduced, arguments, "train")
            row = {
                "law": law,
                "shape": shape,
                "atoms": atoms,
                "moments": case.module.moments,
                "train": 1e3 * statistics.median(times),
            }
            rows.append(row | {"memory": memory, "per_atom": 1e3 * memory / atoms})
            del case
    return rows


def exponents(rows: list[dict]) -> str:
    """Slopes of log time and log memory against log atoms at a fixed number of moments."""
    own = [row for row in rows if (row["law"], row["shape"]) == ("fixed to the ball", "d=8 C=16")]
    if len(own) < 2:
        return "one size only: no exponents"
    atoms = [math.log(row["atoms"]) for row in own]
    slopes = {
        name: statistics.linear_regression(atoms, [math.log(row[name]) for row in own]).slope
        for name in ("train", "memory")
    }
    return (
        f"fixed moments, d=8 C=16: time ~ atoms^{slopes['train']:.2f}, memory ~ "
        f"atoms^{slopes['memory']:.2f}"
    )


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_far_field", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--atoms", int, 1000, low=8, help="atoms of the speed table")
    bench.add(
        "--largest",
        int,
        100_000,
        low=20,
        help="largest number of atoms in the tables of choice and scale",
    )
    bench.add(
        "--baseline", bool, True, help="measure the plain plane waves too (3 GB at 1000 atoms)"
    )
    bench.add("--rounds", int, 3, low=1, help="timed rounds")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(("torch", "scipy"), options.json)
    tables = {"speed": speed_rows(options)}
    print(harness.table(tables["speed"], COLUMNS))
    tables["choice"] = choice_rows(options)
    print(harness.table(tables["choice"], CHOICE_COLUMNS))
    tables["scale"] = scale_rows(options)
    print(harness.table(tables["scale"], SCALE_COLUMNS))
    print(exponents(tables["scale"]))
    if options.json:
        write_json(options.json, {"environment": report, "options": dict(options), **tables})


if __name__ == "__main__":
    run_script(main)
