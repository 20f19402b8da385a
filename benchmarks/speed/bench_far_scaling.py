"""Far field and charges: time and memory of the default network from 72 to 10,000 atoms.

    python -m benchmarks.speed.bench_far_scaling
    python -m benchmarks.speed.bench_far_scaling --largest 3000 --models near,hybrid --no-memory \\
        --json scaling.json

Systems (``far_scaling_systems.py``): clusters and periodic boxes of water of 300 to 10,000 atoms,
and batches of small molecules, where the far field should cost next to nothing. ``--data-path``
takes the small molecules from files.

Two steps: ``predict``, energy and forces in evaluation mode, as a step of molecular dynamics has
them; ``train``, energy, forces and the gradient of all weights, without an optimiser. Neighbours
are found before.

Times are medians of CPU milliseconds of one thread, all networks taking turns in one process; the
ratio to the near field alone is the median of the ratios in each round. Memory is the peak of a
fresh process above the loaded program; the first step of a process alone takes some 90 MB, whatever
its size. Exponents are slopes of log time and log memory against log atoms.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_far_scaling.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import dataclasses
import math
import statistics

from benchmarks import harness  # before torch: it sets the thread count

import torch  # isort: skip
from easydict import EasyDict

from benchmarks.compared_networks import (
    DEFAULT_ROWS,
    NETWORK,
    default_options,
    default_value,
    typed_options,
)
from benchmarks.speed.far_scaling_systems import (
    ETHANOL,
    MOLECULES,
    cluster,
    small_molecules,
    water,
)
from farfield.common.command_line import OptionParser, run_script
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.storage.files import write_json
from farfield.dataloader.structures import Structures
from farfield.models.factory import build_model

SIZES = (300, 1000, 3000, 10_000)
MANY_ATOMS = 2000  # from here on a system has fewer rounds
SCALED = {"cluster": cluster, "water": water}
SMALL = (ETHANOL, *MOLECULES)
STEPS = {"predict": "forward", "train": "train"}  # name of a step -> that of a program

COLUMNS = {
    "system": "system",
    "step": "step",
    "atoms": "atoms",
    "edges": "edges",
    "model": "model",
    "weights": "weights",
    "milliseconds": "ms",
    "ratio": "/ near",
    "least": "least",
    "most": "most",
    "memory": "peak MB",
}
EXPONENT_COLUMNS = {
    "system": "system",
    "step": "step",
    "model": "model",
    "time": "time exponent",
    "memory": "memory exponent",
}


@dataclasses.dataclass
class SizedProgram(harness.Program):
    """A program that says how large its batch is."""

    atoms: int
    edges: int


def structures_of_system(system: str, atoms: int, folder: str | None) -> Structures:
    """The structures of a system; atoms: of a system of ``SCALED``."""
    return SCALED[system](atoms) if system in SCALED else small_molecules(system, folder)


def program(
    system: str, atoms: int, folder: str | None, model: str, extra: dict, step: str
) -> SizedProgram:
    """A network with new weights on a system, ready for a step of ``STEPS``.

    extra: options of the network. ValueError for a model that the network does not know.
    """
    structures = structures_of_system(system, atoms, folder)
    cutoff = float(extra.get("cutoff", default_value("cutoff")))
    dataset = MoleculeDataset(structures, cutoff, inputs=("total_charge",))
    batch = dataset[range(len(structures))]
    found = Statistics.of(structures, batch.num_edges)

    torch.manual_seed(0)
    network = build_model({"name": NETWORK, **default_options(model, found, extra)})
    network.train(step == "train")

    def run() -> tuple[torch.Tensor, ...]:
        """Energy and forces; those of training mode have a graph for the weights."""
        out = network(batch)
        return out["energy"], out["forces"]

    return SizedProgram(model, network, run, batch.num_nodes, batch.num_edges)


def system_rows(bench: EasyDict, system: str, atoms: int, step: str) -> list[dict]:
    """A row for every network on a system."""
    extra, programs, arguments = typed_options(bench.option), {}, {}
    for model in harness.chosen(bench.models, DEFAULT_ROWS, "--models"):
        arguments[model] = (system, atoms, bench.data_path, model, extra, step)
        try:
            programs[model] = program(*arguments[model])
        except ValueError as error:
            print(f"{system}, {model}: skipped ({error})", flush=True)

    name = STEPS[step]
    rounds = bench.rounds if atoms < MANY_ATOMS else bench.large_rounds
    tasks = {model: getattr(found, name) for model, found in programs.items()}
    times = harness.interleave(tasks, rounds)

    rows = []
    for model, found in programs.items():
        row = {
            "system": system,
            "step": step,
            "atoms": found.atoms,
            "edges": found.edges,
            "model": model,
            "weights": found.num_parameters,
            "milliseconds": 1e3 * statistics.median(times[model]),
        }
        if "near" in times:
            row |= ratios(times[model], times["near"])
        if bench.memory:
            row["memory"] = harness.peak_memory_mb(program, arguments[model], name)
        rows.append(row)
    return rows


def ratios(times: list[float], near: list[float]) -> dict[str, float]:
    """Median, smallest and largest ratio within one round."""
    each = [own / base for own, base in zip(times, near, strict=True)]
    return {"ratio": statistics.median(each), "least": min(each), "most": max(each)}


def exponent(rows: list[dict], name: str) -> float | None:
    """Slope of log ``row[name]`` against log atoms; None where fewer than two sizes have it."""
    points = [(math.log(row["atoms"]), math.log(row[name])) for row in rows if row.get(name)]
    if len({size for size, _ in points}) < 2:
        return None
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def exponent_rows(rows: list[dict]) -> list[dict]:
    """How time and memory of every network grow with the atoms of a system of ``SCALED``."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["system"] in SCALED:
            groups.setdefault((row["system"], row["step"], row["model"]), []).append(row)

    return [
        {
            "system": system,
            "step": step,
            "model": model,
            "time": exponent(members, "milliseconds"),
            "memory": exponent(members, "memory"),
        }
        for (system, step, model), members in groups.items()
    ]


def measure(bench: EasyDict) -> list[dict]:
    """Rows of all systems, sizes and steps, written as they come."""
    rows = []
    for system in harness.chosen(bench.systems, (*SMALL, *SCALED), "--systems"):
        sizes = [0]
        if system in SCALED:
            sizes = [size for size in SIZES if size <= bench.largest]

        for step in harness.chosen(bench.steps, STEPS, "--steps"):
            for atoms in sizes:
                rows += system_rows(bench, system, atoms, step)
                if bench.json:
                    report = {"environment": harness.environment(), "options": dict(bench)}
                    content = {"rows": rows, "exponents": exponent_rows(rows)}
                    write_json(bench.json, {**report, **content})
    return rows


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_far_scaling", __doc__)
    bench = parser.section("bench", "what is measured")
    systems, steps = ", ".join((*SMALL, *SCALED)), ", ".join(STEPS)
    bench.add("--systems", str, "all", help=f"comma list of {systems}, or all")
    bench.add("--steps", str, "all", help=f"comma list of {steps}, or all")
    bench.add("--models", str, "all", help=f"comma list of {', '.join(DEFAULT_ROWS)}, or all")
    bench.add("--option", str, None, help="options of every network, name=value,name=value")
    bench.add("--largest", int, SIZES[-1], low=SIZES[0], help="most atoms of a system")
    bench.add("--data-path", str, None, help="folder below which the files of molecules lie")

    # How it is measured.
    bench.add("--rounds", int, 7, low=1, help="timed rounds")
    bench.add("--large-rounds", int, 3, low=1, help=f"timed rounds from {MANY_ATOMS} atoms on")
    bench.add("--memory", bool, True, help="measure memory too, in fresh processes")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    bench = build_parser().parse_config(argv).bench
    harness.start(("torch", "scipy"), bench.json)
    rows = measure(bench)
    print(harness.table(rows, COLUMNS))
    print(harness.table(exponent_rows(rows), EXPONENT_COLUMNS))


if __name__ == "__main__":
    run_script(main)
