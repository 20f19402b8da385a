"""Energy and forces of one structure of any size, computed in pieces that fit into memory.

    python -m simulate.large --checkpoint runs/water/checkpoint_best.pt --file box.extxyz \\
        --out forces.npz
    python -m simulate.large --checkpoint ethanol --file crystal.cif --out forces.extxyz \\
        --stress --piece-atoms 10000
    # two processes share the pieces
    torchrun --nproc_per_node=2 -m simulate.large --checkpoint ethanol --file box.extxyz \\
        --out forces.npz

Up to rounding the calculator gives the same values: nothing is cut off. Memory holds the
features of all atoms, layer by layer, the grid of the far field and one piece; 100,000 atoms of the
default network take about 2 GB. It serves the network e2former with forces that are the slope of
the energy, with near and far field; charges, clusters and an encoder see the whole structure at
once and are refused.

``--out`` is npz (energy, forces, stress, and seconds and memory of the run) or extended xyz.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # `python simulate/large.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import time

import torch
from ase import Atoms
from easydict import EasyDict

from farfield.common import ranks
from farfield.common.command_line import OptionParser, plain, run_script
from farfield.common.log import RunLog, count_bar
from farfield.common.precision import PRECISIONS
from farfield.common.session import cpu_seconds
from farfield.common.trained import TrainedRun
from farfield.dataloader.from_ase import read_structures
from farfield.dataloader.structure_pieces import StructurePieces
from farfield.models.network import POTENTIAL
from farfield.models.networks.divided_potential import DividedPotential, check_divisible
from farfield.models.potential import Potential
from farfield.simulate.large_results import LargeResult, check_output, peak_memory, write_result


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("large", __doc__)
    run = parser.section("run", "what is computed, and where it goes")
    checkpoint = "checkpoint of the potential, a file or the name of a shipped one (needed)"
    run.add("--checkpoint", str, None, help=checkpoint)
    run.add("--head", str, None, help="energy head of a checkpoint with several")
    run.add("--file", str, None, help="file with the structure, of any format ASE reads (needed)")
    index = "number of the structure in the file; -1 is the last"
    run.add("--index", int, 0, help=index)
    run.add("--out", str, None, help="file of the results, .npz, .xyz or .extxyz (needed)")
    run.add("--overwrite", bool, False, help="replace the file of the results")

    # how it is computed
    pieces = "atoms of a piece; more of them take more memory (about 0.15 MB each) and less time"
    run.add("--piece-atoms", int, 5000, low=1, help=pieces)
    run.add("--stress", bool, False, help="compute the stress of a periodic structure")
    run.add("--dtype", str, "float32", choices=list(PRECISIONS), help="arithmetic of the network")
    run.add("--threads", int, 1, low=1, high=4096, help="CPU threads of torch in each process")
    run.add("--progress", bool, True, help="show a progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command line."""
    config = build_parser().parse_config(argv)
    for flag in ("checkpoint", "file", "out"):
        if config.run[flag] is None:
            raise ValueError(f"--{flag} is missing; give --checkpoint, --file and --out")
    with ranks.together():
        ranks.check_same("options", plain(config))
        compute(config)


def compute(config: EasyDict) -> LargeResult:
    """Compute what ``config`` names; the first rank writes it. Every rank returns the result."""
    options, began = config.run, time.perf_counter()
    check_output(options.out, options.file, options.overwrite)
    torch.set_num_threads(options.threads)
    potential, cutoff = read_potential(options)
    atoms = read_structures(options.file, options.index, "--file")
    known = (potential.inputs, potential.optional_inputs)
    pieces = StructurePieces(atoms, cutoff, options.piece_atoms, *known)
    ranks.check_same("structure", (len(atoms), pieces.num_edges))

    found = evaluate(potential, pieces, options)
    result = LargeResult.of(atoms, pieces.order, found)
    result = result._replace(
        seconds=time.perf_counter() - began,
        cpu_seconds=sum(ranks.gather(cpu_seconds())),
        peak_gigabytes=max(ranks.gather(peak_memory())),
    )
    if ranks.is_first():
        write_result(options.out, atoms, result)
        report(options.out, atoms, pieces, result)
    return result


def read_potential(options: EasyDict) -> tuple[Potential, float]:
    """The potential of the checkpoint and the cutoff of its edges; ValueError in one line."""
    trained = TrainedRun.read(options.checkpoint)
    trained.check_predicts(POTENTIAL)
    trained.check_head(options.head)
    potential = trained.network("cpu", options.dtype, options.head)
    potential.requires_grad_(False)
    check_divisible(potential)
    return potential, trained.graph_cutoff(potential)


def evaluate(
    potential: Potential, pieces: StructurePieces, options: EasyDict
) -> dict[str, torch.Tensor]:
    """What :meth:`DividedPotential.evaluate` gives, by all ranks together."""
    own = Shared(pieces, ranks.rank(), ranks.count())
    structure = pieces.structure.to(dtype=PRECISIONS[options.dtype])

    # the bar counts the pieces of this rank, step by step
    shown = options.progress and ranks.is_first()
    with count_bar(None, "compute", "pieces", disable=not shown) as bar:
        divided = DividedPotential(
            potential,
            structure,
            own,
            stress=options.stress,
            share=ranks.add_up_,
            first=ranks.is_first(),
            done=bar.update,
        )
        bar.reset(divided.steps)
        return divided.evaluate()


class Shared(Sequence):
    """The pieces of one rank: a run of neighbours, of about as many as every other rank has."""

    def __init__(self, pieces: StructurePieces, rank: int, count: int):
        first, last = (len(pieces) * place // count for place in (rank, rank + 1))
        self.pieces, self.places = pieces, range(first, last)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int):
        return self.pieces[self.places[index]]


def report(path: str, atoms: Atoms, pieces: StructurePieces, result: LargeResult) -> None:
    """Say what was computed, in a few lines."""
    log, size = RunLog(), len(atoms)
    log(
        f"{size:,} atoms, {pieces.num_edges:,} edges, {len(pieces)} pieces, "
        f"{ranks.count()} process{'es' if ranks.count() > 1 else ''}"
    )
    log(f"energy {result.energy:.6f} eV   largest force {result.largest_force:.4f} eV/A")
    log(
        f"{result.seconds:.0f} s, CPU {result.cpu_seconds:.0f} s, at most "
        f"{result.peak_gigabytes:.2f} GB in a process   results {path}"
    )


if __name__ == "__main__":
    run_script(main, several_ranks=True)
