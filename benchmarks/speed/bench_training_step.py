"""A training step of E2Former on a large molecule, near field and hybrid, beside mace-torch of the
same channels and layers.

    # ours alone
    python -m benchmarks.speed.bench_training_step
    # environment: compare_mace.py
    python -m benchmarks.speed.bench_training_step --mace-python .venv-mace/bin/python

One structure (a generated double-walled nanotube, 370 atoms, edges up to 5 Angstrom, or
``--geometry``), 2 layers, lmax 2; a step is energy, forces and the gradient of all weights, without
an optimiser. Medians of CPU milliseconds of one thread, all programs taking turns (mace-torch waits
in a process of its own); memory is the peak of a fresh process above the loaded program.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_training_step.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import contextlib
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator

from benchmarks import harness  # before torch: it sets the thread count

import numpy as np  # isort: skip
import torch

from benchmarks.speed.near_field_cases import double_walled_nanotube, load_geometry
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.storage.files import write_json
from farfield.dataloader.structures import Structures
from farfield.models.factory import build_model

CUTOFF, LMAX = 5.0, 2
SCHEDULES = {"near": "first-order", "hybrid": "hybrid-first-order"}
MACE_IRREPS = ("{0}x0e+{0}x1o", "{0}x0e+{0}x1o+{0}x2e")
COLUMNS = {
    "program": "program",
    "weights": "weights",
    "edges": "edges",
    "milliseconds": "ms",
    "ratio": "/ hybrid",
    "memory": "peak MB",
}
# the far field of the published rows
FAR_FIELD = {
    "far_heads": 4,
    "far_value_channels": 4,
    "far_kernel_lmax": 2,
    "far_kappa_max": 0.8,
}


def structures_of(numbers: np.ndarray, positions: np.ndarray) -> Structures:
    """Equally large structures, numbers (structures, atoms) and positions (structures, atoms, 3),
    slightly off their symmetric places.
    """
    count, atoms = numbers.shape
    positions = (
        positions + 0.05 * np.random.default_rng(0).standard_normal(positions.shape)
    ).reshape(-1, 3)
    labels = {"energy": np.zeros(count), "forces": np.zeros_like(positions)}
    return Structures(
        atomic_numbers=numbers.reshape(-1),
        positions=positions,
        counts=np.full(count, atoms),
        **labels,
    )


def structure(geometry: str | None) -> Structures:
    """The structure of the comparison as a set of one."""
    numbers, positions = load_geometry(geometry) if geometry else double_walled_nanotube()
    return structures_of(numbers[None], positions[None])


def training_step(
    name: str, structures: Structures, channels: int, schedule: str, **options
) -> harness.Program:
    """E2Former of two layers and degrees 0 .. ``LMAX`` on all structures at once, its lengths and
    averages those of the structures.
    """
    batch = MoleculeDataset(structures, CUTOFF)[range(len(structures))].to(dtype=torch.float32)
    torch.manual_seed(0)
    averages = {
        "avg_degree": batch.num_edges / batch.num_nodes,
        "avg_atoms": batch.num_nodes / batch.num_graphs,
    }
    radius = float(batch.positions.norm(dim=1).max())  # the data set puts centroids at zero
    irreps = "+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(LMAX + 1))
    sizes = {
        "irreps": irreps,
        "schedule": schedule,
        "layers": 2,
        "cutoff": CUTOFF,
        "far_design_radius": radius,
    }
    config = {"name": "e2former", **FAR_FIELD, **sizes, **averages, **options}
    model = build_model(config).train()

    def run() -> tuple[torch.Tensor, ...]:
        """Energy and forces, with a graph for the gradient of the weights."""
        out = model(batch)
        return out["energy"], out["forces"]

    return harness.Program(name, model, run)


def ours(name: str, channels: int, geometry: str | None) -> harness.Program:
    """Our network on the structure of the comparison."""
    return training_step(name, structure(geometry), channels, SCHEDULES[name])


@contextlib.contextmanager
def mace(
    python: str, irreps: str, geometry: Path
) -> Iterator[tuple[dict, Callable[[], tuple[float, float]]]]:
    """mace-torch in a process of its own: what it is, and a function for one step -> (CPU ms, peak
    MB).
    """
    script = Path(__file__).with_name("mace_step.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [python, str(script), str(geometry), "--irreps", irreps, "--cutoff", str(CUTOFF)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        weights, edges = (int(part) for part in _answer(process))

        def step() -> tuple[float, float]:
            process.stdin.write("step\n")
            process.stdin.flush()
            milliseconds, memory = (float(part) for part in _answer(process))
            return milliseconds, memory

        yield {"program": f"mace-torch {irreps}", "weights": weights, "edges": edges}, step
        process.stdin.close()


def _answer(process: subprocess.Popen) -> list[str]:
    """The next line of numbers; RuntimeError if the process has ended instead."""
    for line in process.stdout:
        parts = line.split()
        with contextlib.suppress(ValueError):
            [float(part) for part in parts]
            if len(parts) == 2:
                return parts
    raise RuntimeError(
        "mace-torch ended without an answer; try benchmarks/rivals/mace_step.py by itself "
        "to see why"
    )


def rows_of(options) -> list[dict]:
    """A row for every program."""
    rows, steps = [], {}
    with contextlib.ExitStack() as stack:
        for name in SCHEDULES:
            program = ours(name, options.channels, options.geometry)
            edges = structure_edges(options.geometry)
            memory = harness.peak_memory_mb(
                ours, (name, options.channels, options.geometry), "train"
            )
            rows.append(
                {
                    "program": f"Farfield {name}",
                    "weights": program.num_parameters,
                    "edges": edges,
                    "memory": memory,
                }
            )
            steps[rows[-1]["program"]] = lambda program=program: (
                1e3 * harness.seconds(program.train)
            )
        if options.mace_python:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "geometry.npz"
            one = structure(options.geometry)
            np.savez(place, numbers=one.atomic_numbers, positions=one.positions)
            for pattern in MACE_IRREPS:
                row, step = stack.enter_context(
                    mace(options.mace_python, pattern.format(options.channels), place)
                )
                rows.append(row)
                steps[row["program"]] = lambda step=step, row=row: _noted(row, *step())
        times = {name: [] for name in steps}
        for _ in range(options.rounds + 1):  # the first one warms up
            for name, step in steps.items():
                times[name].append(step())
    for row in rows:
        row["milliseconds"] = statistics.median(times[row["program"]][1:])
    hybrid = next(row for row in rows if row["program"] == "Farfield hybrid")["milliseconds"]
    return [{**row, "ratio": row["milliseconds"] / hybrid} for row in rows]


def _noted(row: dict, milliseconds: float, memory: float) -> float:
    """Keep the memory of a step in its row."""
    row["memory"] = memory
    return milliseconds


def structure_edges(geometry: str | None) -> int:
    """Directed edges up to the cutoff."""
    return int(MoleculeDataset(structure(geometry), CUTOFF).edges_per_structure.sum())


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_training_step", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--channels", int, 64, low=4, help="channels of every degree")
    bench.add(
        "--geometry",
        str,
        None,
        help="npz file with the structure instead of the generated nanotube",
    )
    bench.add("--rounds", int, 5, low=1, help="timed rounds")
    bench.add("--mace-python", str, None, help="python of an environment that has mace-torch")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    options = build_parser().parse_config(argv).bench
    report = harness.start(("torch",), options.json)
    rows = rows_of(options)
    print(harness.table(rows, COLUMNS))
    if options.json:
        write_json(options.json, {"environment": report, "options": dict(options), "rows": rows})


if __name__ == "__main__":
    run_script(main)
