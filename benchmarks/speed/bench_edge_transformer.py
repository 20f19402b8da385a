"""Time and memory of a training step of the EdgeTransformer, conservative and direct forces.

    python -m benchmarks.speed.bench_edge_transformer

    # what must fit into 4 GB; minutes of one thread
    python -m benchmarks.speed.bench_edge_transformer --preset base --atoms 64 --structures 16 \\
        --forces conservative --json edge_transformer.json

Structures are balls of H, C, N and O at random places, all of one size. A step is energy, forces
and the gradient of all weights, without an optimiser: the first one of a fresh process, which is
ended beyond ``--limit-gb`` or ``--limit-minutes``. Time is CPU seconds of one thread, memory the
largest resident set of the process, loaded libraries included.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_edge_transformer.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip

from benchmarks.speed.far_scaling_systems import cluster
from benchmarks.watched_step import watched_step
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.structures import Structures
from farfield.models.factory import build_model
from farfield.models.networks.edge_transformer import PRESETS

FORCES = ("conservative", "direct")
CUTOFF = 4.0  # Angstrom, of the graph; the network reads no edges
COLUMNS = {
    "forces": "forces",
    "weights": "weights",
    "said": "step",
    "step_s": "CPU s",
    "peak_mb": "peak MB",
}


def edge_transformer_step(preset: str, atoms: int, structures: int, forces: str) -> harness.Program:
    """An EdgeTransformer of a preset on ``structures`` balls of ``atoms`` atoms each."""
    balls = Structures.concatenate([cluster(atoms, seed) for seed in range(structures)])
    batch = MoleculeDataset(balls, CUTOFF)[range(structures)].to(dtype=torch.float32)
    torch.manual_seed(0)
    options = {"name": "edge_transformer", "preset": preset, "forces": forces}
    model = build_model({**options, "avg_atoms": float(atoms)}).train()

    def run() -> tuple[torch.Tensor, ...]:
        """Energy and forces, with a graph for the gradient of the weights."""
        out = model(batch)
        return out["energy"], out["forces"]

    return harness.Program(forces, model, run)


def rows_of(options) -> list[dict]:
    """A row for each kind of forces."""
    rows = []
    for forces in harness.chosen(options.forces, FORCES, "--forces"):
        arguments = (options.preset, options.atoms, options.structures, forces)
        found = watched_step(
            edge_transformer_step,
            arguments,
            "train",
            limit_mb=1e3 * options.limit_gb,
            limit_s=60 * options.limit_minutes,
        )

        # weights do not depend on the sizes, so they are counted on one atom
        rows.append(
            {
                "forces": forces,
                "weights": edge_transformer_step(options.preset, 1, 1, forces).num_parameters,
                "said": found.said,
                "step_s": found.step_s,
                "peak_mb": found.peak_mb,
            }
        )

    return rows


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_edge_transformer", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--preset", str, "small", choices=list(PRESETS), help="sizes of the network")
    bench.add("--atoms", int, 16, low=1, help="atoms of a structure")
    bench.add("--structures", int, 4, low=1, help="structures per batch")
    bench.add("--forces", str, "all", help=f"comma list of {', '.join(FORCES)}, or all")
    bench.add("--limit-gb", float, 4.0, low=0.0, help="memory beyond which a step is ended, GB")
    bench.add("--limit-minutes", float, 30.0, low=0.0, help="wall time after which a step is ended")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(("torch",), options.json)
    print(f"preset {options.preset}, {options.structures} structures of {options.atoms} atoms")
    rows = rows_of(options)
    harness.finish(rows, COLUMNS, options, report)


if __name__ == "__main__":
    run_script(main)
