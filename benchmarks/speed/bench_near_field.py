"""Near field: the SE(3)-Transformer against ``equiformer-pytorch``, in time and memory.

    # installs equiformer-pytorch, and runs all cases and the other benchmarks of speed
    make bench

    python -m benchmarks.speed.bench_near_field --cases a,b1 --rounds 9 --json near_field.json
    python -m benchmarks.speed.bench_near_field --cases c \\
        --geometry md22_double-walled_nanotube.npz

    # ours alone, synchronised wall clock
    python -m benchmarks.speed.bench_near_field --device cuda

Both networks get the same positions, scalars, vectors and invariant edge features. They have equal
layers, degrees, channels, heads and channels per head (not parameters: the table shows them), and
compute all that depends on positions in every call. They differ in what they are.
equiformer-pytorch finds lists of nearest neighbours in every call (all 4 others in a, 4 in b, 48
within 5 Angstrom in c) and has an attention and a feed-forward part per layer. Ours gets the edge
list of the case, as from a data loader, and has an attention part per layer.

Forward = without gradients; train step = forward + backward, without an optimiser. Cases:
``near_field_cases.py``; how time and memory are measured: ``benchmarks/harness.py``.

Sources: P. Wang, equiformer-pytorch (MIT licence), an implementation of Liao & Smidt 2023 and
Passaro & Zitnick 2023.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_near_field.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import argparse
import dataclasses
import statistics

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip
from torch import Tensor, nn

from benchmarks.installed_equiformer import PACKAGE, equiformer_is_installed, public_equiformer
from benchmarks.speed.near_field_cases import CASES, Case, make_case
from farfield.common.command_line import run_script
from farfield.dataloader.storage.files import write_json
from farfield.models.edges import edge_vectors
from farfield.models.graph_ops import GraphIndex
from farfield.models.near_field.edge_frames import EdgeBasis
from farfield.models.networks.se3_transformer import SE3Options, SE3Transformer

VECTORS_OUT = 2
OURS, EQUIFORMER = "farfield", "equiformer"
COLUMNS = {
    "case": "case",
    "program": "program",
    "parameters": "parameters",
    "forward_ms": "forward ms",
    "train_ms": "train ms",
    "forward_mb": "forward MB",
    "train_mb": "train MB",
    "forward_ratio": "forward ratio",
    "train_ratio": "train ratio",
}


def build_ours(case: Case, options: dict | None = None, device: str = "cpu") -> harness.Program:
    """Our SE(3)-Transformer on a case; options: replace fields of ``SE3Options``."""
    case = case.to(device)
    size = case.size

    chosen = {
        "layers": size.layers,
        "channels": size.channels,
        "lmax": size.lmax,
        "heads": size.heads,
        "value_divisor": size.divisor,
        "cutoff": case.cutoff,
        "envelope": "none" if case.complete else "polynomial",
        "edge_scalars": case.edge_scalars.shape[1],
    } | (options or {})
    torch.manual_seed(0)
    network = SE3Transformer(
        SE3Options(**chosen),
        scalars_in=case.scalars.shape[1],
        vectors_in=case.vectors.shape[1],
        scalars_out=size.channels,
        vectors_out=VECTORS_OUT,
    ).to(device)

    def run() -> tuple[Tensor, ...]:
        """Everything that depends on the positions, and the network."""
        graph = GraphIndex(case.src, case.dst, case.nodes_per_graph)
        basis = EdgeBasis.from_vectors(edge_vectors(case.positions, graph), network.options.lmax)
        return network(graph, basis, case.scalars, case.vectors, case.edge_scalars)

    return harness.Program(OURS, network, run)


class DenseEquiformer(nn.Module):
    """equiformer-pytorch with a linear map to two vectors.

    Nodes of equally large graphs come as (graphs, n, ...), edge features as (graphs, n, n, k).
    """

    def __init__(self, case: Case):
        super().__init__()
        size = case.size
        self.network = public_equiformer(
            dim=size.channels,
            dim_in=(case.scalars.shape[1], case.vectors.shape[1]),
            input_degrees=2,
            num_degrees=size.lmax + 1,
            heads=size.heads,
            dim_head=size.channels // size.divisor // size.heads,
            depth=size.layers,
            edge_dim=case.edge_scalars.shape[1],
            num_neighbors=case.neighbours or float("inf"),
            valid_radius=1e5 if case.complete else case.cutoff,
        )

        # (..., 3, channels) -> (..., 3, VECTORS_OUT)
        self.vectors = nn.Linear(size.channels, VECTORS_OUT, bias=False)

    def forward(
        self, scalars: Tensor, vectors: Tensor, positions: Tensor, edges: Tensor
    ) -> tuple[Tensor, Tensor]:
        out = self.network({0: scalars, 1: vectors}, positions, edges=edges)
        return out.type0, self.vectors(out.type1.transpose(-1, -2))


def build_equiformer(case: Case) -> harness.Program:
    """equiformer-pytorch on a case."""
    torch.manual_seed(0)
    network = DenseEquiformer(case)

    # All graphs have the same size: (graphs, n, ...) and (graphs, n, n, k).
    graphs, each = case.num_graphs, int(case.nodes_per_graph[0])
    edges = torch.zeros(graphs, each, each, case.edge_scalars.shape[1])
    edges[case.dst // each, case.dst % each, case.src % each] = case.edge_scalars
    inputs = [
        x.view(graphs, each, *x.shape[1:]) for x in (case.scalars, case.vectors, case.positions)
    ]
    return harness.Program(EQUIFORMER, network, lambda: network(*inputs, edges))


def _build_by_name(program: str, case: Case, options: dict) -> harness.Program:
    return build_ours(case, options) if program == OURS else build_equiformer(case)


def measure(case: Case, arguments, against: bool) -> list[dict]:
    """Rows of one case, ours first: milliseconds, MB, and the ratio to ours.

    against: whether the other program is measured too.
    """
    programs = [build_ours(case, arguments.options, arguments.device)]
    if against:
        programs.append(build_equiformer(case))
    tasks = {(p.name, step): getattr(p, step) for step in harness.STEPS for p in programs}
    times = harness.interleave(tasks, arguments.rounds, arguments.device)

    rows = []
    for program in programs:
        row = {
            "case": case.name,
            "program": program.name,
            "parameters": program.num_parameters,
            "rounds": arguments.rounds,
        }
        for step in harness.STEPS:
            milliseconds = [1000 * seconds for seconds in times[program.name, step]]
            row[f"{step}_ms"] = statistics.median(milliseconds)
            row[f"{step}_ms_least"] = min(milliseconds)
            row[f"{step}_ms_most"] = max(milliseconds)
            row[f"{step}_ratio"] = harness.ratio(times[program.name, step], times[OURS, step])
            row[f"{step}_mb"] = _memory(program, case, step, arguments)
        rows.append(row)
    return rows


def _memory(program: harness.Program, case: Case, step: str, arguments) -> float | None:
    if not arguments.memory:
        return None
    if arguments.device != "cpu":
        return harness.peak_device_memory_mb(getattr(program, step), arguments.device)
    return harness.peak_memory_mb(_build_by_name, (program.name, case, arguments.options), step)


def _read_options(pairs: list[str]) -> dict:
    """``key=value`` texts as fields of SE3Options, each of the type of the field's default."""
    defaults = {field.name: field.default for field in dataclasses.fields(SE3Options)}
    options = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in defaults:
            raise ValueError(
                f"--set needs KEY=VALUE with a key of {', '.join(defaults)}, got {pair!r}"
            )
        options[key] = _read_value(key, text, type(defaults[key]))
    return options


def _read_value(key: str, text: str, kind: type) -> float | int | str | None:
    """The text as an option of type ``kind``; ValueError in one line if it is none."""
    if key == "relative_position" and text == "none":
        return None
    if kind not in (int, float):
        return text
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"--set {key} must be of type {kind.__name__}, got {text!r}") from None


def build_parser() -> harness.OneLineParser:
    """All options of the script."""
    parser = harness.OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cases", default="all", help=f"comma list of {', '.join(CASES)}, or all (default all)")
    add("--rounds", type=int, default=5, help="interleaved rounds of each case (default 5)")
    add(
        "--geometry",
        metavar="FILE.npz",
        help="structure for case c: arrays z, R (first frame), Angstrom",
    )
    add(
        "--device",
        default="cpu",
        choices=("cpu", "cuda"),
        help="where networks run (default cpu); on a GPU ours is timed alone",
    )
    add(
        "--no-memory",
        dest="memory",
        action="store_false",
        help="skip the peak memory, which takes a fresh process for each number",
    )

    # What is measured of which networks.
    add("--alone", action="store_true", help="time ours alone")
    add(
        "--set",
        dest="options",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of our network",
    )
    add("--json", metavar="FILE", help="file for the environment and the rows")
    return parser


def read_arguments(argv: list[str] | None = None):
    """The command line, checked; ValueError with one line."""
    arguments = build_parser().parse_args(argv)
    arguments.options = _read_options(arguments.options)
    names = harness.chosen(arguments.cases, CASES, "--cases")
    arguments.cases = [make_case(name, arguments.geometry) for name in names]

    # All that would fail after minutes of measuring fails now.
    if arguments.rounds < 1:
        raise ValueError(f"--rounds must be >= 1, got {arguments.rounds}")
    if arguments.json:
        harness.check_folder(arguments.json)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda needs a GPU and a CUDA build of torch, found neither; use --device cpu"
        )
    return arguments


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, write the rows."""
    arguments = read_arguments(argv)
    on_cpu = arguments.device == "cpu"
    against = on_cpu and not arguments.alone and equiformer_is_installed()
    environment = harness.start(("torch", "dgl", "e3nn", "numpy", PACKAGE), device=arguments.device)
    if on_cpu and not against and not arguments.alone:
        print(
            "equiformer-pytorch is not installed: run `make bench` to install it; timing ours alone"
        )
    clock = "CPU milliseconds" if on_cpu else "wall milliseconds"
    print(
        f"{clock}, median of {arguments.rounds} interleaved rounds; ratio = time over ours "
        "[least, most]; MB above the loaded program"
    )

    rows = []
    for case in arguments.cases:
        print(case.describe(), flush=True)
        rows += measure(case, arguments, against)
    print(harness.table(rows, COLUMNS))
    if arguments.json:
        described = {case.name: case.describe() for case in arguments.cases}
        content = {"environment": environment, "cases": described, "rows": harness.plain_rows(rows)}
        write_json(arguments.json, content)


if __name__ == "__main__":
    run_script(main)
