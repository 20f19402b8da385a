"""Boxes of water in pieces: time and memory of `simulate.large`, and its distance from the
calculator.

    python -m benchmarks.speed.bench_large_structure --atoms 10000,100000
    python -m benchmarks.speed.bench_large_structure --atoms 10000 --ranks 1,2 --compare
    python -m benchmarks.speed.bench_large_structure --checkpoint runs/water/checkpoint_best.pt

Every row is a fresh process of the script, or several that torchrun starts. CPU seconds are of all
processes, with start and reading of the file; memory is the peak of the largest process, all of it.
``--compare`` computes the box with the calculator too: the energies' difference is relative to what
the network learned, without the energies of the elements; that of the forces to the largest force.
"From the first" is the same of the forces of the first number of processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

if not __package__:  # `python benchmarks/speed/bench_large_structure.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks import harness  # before torch: it sets the thread count

import numpy as np  # isort: skip
from ase import Atoms
from easydict import EasyDict

from benchmarks.speed.far_scaling_systems import water
from farfield.common.command_line import OptionParser, run_script
from farfield.common.trained import TrainedRun
from farfield.dataloader.from_ase import read_structures
from farfield.dataloader.storage.files import write_json
from farfield.simulate.calculator import FarfieldCalculator
from farfield.simulate.molecule_files import write_xyz

COLUMNS = {
    "atoms": "atoms",
    "ranks": "processes",
    "cpu_seconds": "CPU s",
    "seconds": "wall s",
    "peak_gigabytes": "peak GB",
    "energy_difference": "energy, relative",
    "force_difference": "forces / largest",
    "first_difference": "from the first",
}
MEASURED = ("seconds", "cpu_seconds", "peak_gigabytes")


def box_of_water(atoms: int, open_box: bool) -> Atoms:
    """A cube of about ``atoms`` atoms of water, periodic unless it is open."""
    found = water(atoms)
    pbc = not open_box
    return Atoms(found.atomic_numbers, found.positions, cell=found.cell[0], pbc=pbc)


def compute(bench: EasyDict, file: Path, ranks: int) -> dict[str, np.ndarray]:
    """Results of the script in ``ranks`` fresh processes; ValueError with its last line."""
    out = file.with_suffix(".npz")
    starter = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [sys.executable, *(starter if ranks > 1 else []), "-m", "farfield.simulate.large"]
    command += ["--checkpoint", bench.checkpoint, "--file", str(file), "--out", str(out)]
    command += ["--piece-atoms", str(bench.piece_atoms), "--no-progress", "--overwrite"]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment())
    if done.returncode:
        raise ValueError(f"simulate.large ended with {done.stderr.strip().splitlines()[-1:]}")
    with np.load(out) as found:
        return {name: found[name] for name in found.files}


def _environment() -> dict[str, str]:
    """The project is found from any folder."""
    home = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": home, "OMP_NUM_THREADS": "1"}


def calculated(bench: EasyDict, file: Path) -> dict:
    """Results of the calculator, and ``elements``, the energy of the elements alone.

    The structure is read from its file: a position that text rounds differs by a step of float32
    here and there, and forces by more than what is compared.
    """
    atoms = read_structures(file, 0)
    (whole,) = FarfieldCalculator(bench.checkpoint).evaluate_many([atoms], max_atoms=len(atoms))
    reference = TrainedRun.read(bench.checkpoint).network().reference
    return whole | {"elements": float((reference.energy[atoms.numbers] + reference.shift).sum())}


def differences(whole: dict, found: dict[str, np.ndarray]) -> dict[str, float]:
    """Distance of results from those of the calculator, see the text of this module."""
    energy = abs((found["energy"] - whole["energy"]) / (whole["energy"] - whole["elements"]))
    forces = relative(found["forces"], whole["forces"])
    return {"energy_difference": float(energy), "force_difference": forces}


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference of forces (atoms, 3), as a part of the largest component."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def measure(bench: EasyDict) -> list[dict]:
    """Rows of all sizes and numbers of processes, written as they come."""
    rows = []
    for size in bench.atoms.split(","):
        atoms = box_of_water(int(size), bench.open)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "water.extxyz")
            write_xyz(file, [atoms])
            whole = calculated(bench, file) if bench.compare else None

            # every number of processes computes the same file
            first = None
            for ranks in bench.ranks.split(","):
                found = compute(bench, file, int(ranks))
                first = found if first is None else first
                row = {"atoms": len(atoms), "ranks": int(ranks)}
                row["first_difference"] = relative(found["forces"], first["forces"])
                row |= {name: float(found[name]) for name in MEASURED}
                if whole is not None:
                    row |= differences(whole, found)
                rows.append(row)
                if bench.json:
                    report = {"environment": harness.environment(), "options": dict(bench)}
                    write_json(bench.json, {**report, "rows": rows})
    return rows


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("bench_large_structure", __doc__)
    bench = parser.section("bench", "what is measured")
    bench.add("--atoms", str, "10000,100000", help="comma list of sizes, atoms")
    bench.add("--ranks", str, "1", help="comma list of numbers of processes")
    bench.add("--checkpoint", str, "ethanol", help="checkpoint of a potential that knows H and O")
    bench.add("--piece-atoms", int, 5000, low=1, help="atoms of a piece")
    bench.add("--open", bool, False, help="boxes do not repeat")
    bench.add("--compare", bool, False, help="compute each box with the calculator too")
    bench.add("--json", str, None, help="file for the rows")
    return parser


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    bench = build_parser().parse_config(argv).bench
    harness.start(("torch", "ase"), bench.json)
    print(harness.table(measure(bench), COLUMNS))


if __name__ == "__main__":
    run_script(main)
