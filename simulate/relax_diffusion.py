"""Relax molecules by a trained diffusion, from a file or from displaced molecules of a split.

    # every structure of a file, in its order
    python -m simulate.relax_diffusion runs/diffusion/checkpoint_best.pt mine.xyz --out relaxed.xyz
    # by another sampler, with the distance to known geometries before and after
    python -m simulate.relax_diffusion runs/noise/checkpoint_best.pt mine.xyz --sampler as \\
        --time-checkpoint runs/time/checkpoint_best.pt --reference known.xyz
    # displace 100 test molecules by 0.3 Angstrom and find them again; MMFF94 for comparison
    python -m simulate.relax_diffusion runs/diffusion/checkpoint_best.pt --split-of data/qm9 \\
        --number 100 --noise 0.3 --compare mmff94 --json relaxed.json
    # after an interruption: the same molecules
    python -m simulate.relax_diffusion runs/diffusion/checkpoint_best.pt mine.xyz --resume

The file of --out says of each structure how many steps it took (``steps``), whether it came to an
end (``converged``), and how far it moved (``rmsd_to_start``, Angstrom, after the best
superposition). With a reference also ``rmsd_to_reference``, up to the symmetry of the molecule
(``superposition.py``). With ``--noise`` the structures are displaced first and are the reference.

The table has the rows start, relaxed, and one for each method of --compare
(``reference_relaxation.py``); a molecule that a method cannot treat stays where it was and counts
as failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python simulate/relax_diffusion.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

import numpy as np

from farfield.common.command_line import OptionParser, run_script
from farfield.common.log import RunLog, count_bar
from farfield.common.plugins import import_named_files
from farfield.dataloader.chemistry.bond_rules import BOND_RULES
from farfield.dataloader.from_ase import read_structures, structures_from_atoms
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.structure_inputs import find_input, is_number
from farfield.dataloader.structures import Structures
from farfield.models.choices import check_choice
from farfield.simulate.molecule_choice import choose, molecules_of_split, unlabelled
from farfield.simulate.molecule_metrics import MetricOptions, molecule_table, steps_table
from farfield.simulate.molecule_noise import displaced
from farfield.simulate.reference_relaxation import RELAXATIONS, check_installed, relax_molecules
from farfield.simulate.sampling_batches import Remarks
from farfield.simulate.sampling_options import (
    NUMBER,
    add_choice_options,
    add_output_options,
    add_sampler_options,
    check_files,
    chosen_sizes,
    open_sampler,
    sample_settings,
    sampling_parser,
)
from farfield.simulate.sampling_script import finish, run_interruptible, run_options
from farfield.simulate.superposition import check_same_molecules, superpose, symmetric_rmsd
from farfield.simulate.trained_sampler import PATIENCE, SampledMolecules, TrainedSampler

SPLIT = "test"  # of --split-of, where no option says another
OF_SPLIT = ("split", "number", "atoms", "heavy_atoms")  # options that go with --split-of

# columns of the table
OF_REFERENCE = ("rmsd_mean", "rmsd_median", "heavy_rmsd_mean", "heavy_rmsd_median", "topology_kept")
OF_MOLECULE = ("stable_atoms", "valid")


def build_parser() -> OptionParser:
    """All options of the script."""
    usage = "%(prog)s CHECKPOINT [STRUCTURES] [options]"
    parser = sampling_parser("relax_diffusion", __doc__, usage)
    given = "file of structures, of any format that ASE reads; or --split-of"
    parser.add_argument("structures", metavar="STRUCTURES", nargs="?", help=given)

    data = parser.section("molecules", "what is relaxed")
    folder = "prepared folder of which molecules of a split are relaxed, in place of a file"
    data.add("--split-of", str, None, help=folder)
    part = f"split of --split-of (default {SPLIT})"
    data.add("--split", str, None, choices=list(SPLITS), help=part)
    add_choice_options(data)
    noise = "standard deviation of the noise that displaces every coordinate first, Angstrom"
    data.add("--noise", float, None, above=0, help=noise)
    known = "file with a reference for each structure, of the same atoms in the same order"
    data.add("--reference", str, None, help=known)
    methods = f"other methods that relax the same structures: {', '.join(RELAXATIONS)}, with commas"
    data.add("--compare", str, None, help=methods)

    # noise would lead to one of the molecules that fit; without it steps end near their mean
    sampler = add_sampler_options(parser, "time steps of the process", "zero", PATIENCE)
    time = "time step of the given positions, for the sampler ddpm, which guesses none"
    sampler.add("--start", int, None, low=0, help=time)
    add_output_options(parser, "relaxed.xyz")
    return parser


def read_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of a command line; ValueError for options that do not go together."""
    options = build_parser().parse_args(import_named_files(argv))
    if (options.structures is None) == (options.split_of is None):
        raise ValueError("give either a file of STRUCTURES or --split-of FOLDER to be relaxed")

    # an option without an effect is an error
    for name in OF_SPLIT if options.split_of is None else ():
        if getattr(options, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} chooses molecules of --split-of, a file of STRUCTURES "
                "is relaxed as a whole; leave one of them out"
            )
    if options.noise is not None and options.reference is not None:
        raise ValueError(
            "--noise displaces the structures and takes them as the reference; leave --noise or "
            "--reference out"
        )

    options.methods = [] if options.compare is None else options.compare.split(",")
    for method in options.methods:
        check_choice("--compare", method, RELAXATIONS)
    check_files(options)
    return options


# ---- what is relaxed


def given_structures(options: argparse.Namespace, sampler: TrainedSampler) -> Structures:
    """Molecules of the file or the split, with the numbers that the networks read."""
    if options.structures is not None:
        return structures_of_file(options.structures, "STRUCTURES", sampler.inputs)
    sizes = chosen_sizes(options, sampler)
    structures = molecules_of_split(options.split_of, options.split or SPLIT, sizes)
    number = min(options.number or NUMBER, len(structures))
    places = choose(number, len(structures), options.seed)
    return unlabelled(structures[places], sampler.inputs)


def structures_of_file(path: str, option: str, inputs: list[str]) -> Structures:
    """Structures of a file; the numbers ``inputs`` that all of them have become ``extra``."""
    atoms = read_structures(path, option=option)
    structures = structures_from_atoms(atoms)
    for name in inputs:
        values = [find_input(one.info, name) for one in atoms]
        if all(is_number(value) for value in values):
            structures.extra[name] = np.array(values, np.float64)
    return structures


def start_and_reference(
    options: argparse.Namespace, sampler: TrainedSampler
) -> tuple[Structures, Structures | None]:
    """Where the sampler starts, and the known geometries; ValueError for unfit molecules."""
    structures = given_structures(options, sampler)
    sampler.check(structures)
    if options.noise is not None:
        return displaced(structures, options.noise, options.seed), structures
    if options.reference is None:
        return structures, None
    reference = structures_of_file(options.reference, "--reference", [])
    check_same_molecules(structures, reference)
    return structures, reference


# ---- what became of it


def distances(reference: Structures | None, rule: str) -> Remarks:
    """What a file says of a molecule: distance to its start, and to its reference if it has one."""

    def of_batch(
        found: SampledMolecules, start: Structures, places: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Distances (molecules,), Angstrom; places: of the molecules in the reference."""
        moved = {"rmsd_to_start": plain_rmsd(found.structures, start)}
        if reference is not None:
            known = reference[places]
            bonds = BOND_RULES[rule](known).table
            moved["rmsd_to_reference"] = symmetric_rmsd(found.structures, known, bonds).rmsd
        return moved

    return of_batch


def plain_rmsd(structures: Structures, start: Structures) -> np.ndarray:
    """RMSD (structures,) after superposition, every atom on itself."""
    pairs = [slice(*structures.offsets[k : k + 2]) for k in range(len(structures))]
    return np.array(
        [float(superpose(structures.positions[rows], start.positions[rows])[0]) for rows in pairs]
    )


def relaxation_rows(
    found: SampledMolecules,
    start: Structures,
    reference: Structures | None,
    options: argparse.Namespace,
) -> list[dict]:
    """Rows of the table: start, relaxed, and the other methods."""
    columns = (*(OF_REFERENCE if reference is not None else ()), *OF_MOLECULE)
    rules = MetricOptions(bonds=options.bonds, identity="graph")

    def row(name: str, structures: Structures) -> dict:
        table = molecule_table(structures, reference, options=rules)
        return {"row": name, **{column: table[column] for column in columns}}

    rows = [row("start", start)]
    rows.append(row("relaxed", found.structures) | steps_table(found.steps, found.converged))

    # a force field has to be told the bonds, which a displaced geometry may not show
    known = start if reference is None else reference
    bonds = BOND_RULES["perceived"](known) if options.methods else None
    for method in options.methods:
        with count_bar(len(start), method, "molecules", disable=not options.progress) as bar:
            other = relax_molecules(start, method, bonds, progress=bar.update)
        failed = float(np.mean(~np.isfinite(other.after)))
        ended = {"converged": float(other.converged.mean()), "failed": failed}
        rows.append(row(method, other.structures) | ended)
    return rows


def relax(argv: list[str] | None) -> list[dict]:
    """Relax, write the files and print the table; returns its rows."""
    options, log = read_options(argv), RunLog()

    # a missing library is reported before the checkpoint is read
    for method in options.methods:
        check_installed(method)
    sampler = open_sampler(options)
    start, reference = start_and_reference(options, sampler)
    sampler.check_start(options.start)

    found, folder = run_options(
        options,
        sampler,
        start,
        log,
        relax=True,
        settings=sample_settings(options, None, options.start),
        remarks=distances(reference, options.bonds),
        reference=None if reference is None else reference.data_hash,
        bonds=options.bonds,
    )

    # the other methods of --compare relax from the same start
    rows = relaxation_rows(found, start, reference, options)
    finish(
        options, folder, rows, log, "rmsd in Angstrom after the best superposition; shares; steps"
    )
    return rows


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    run_interruptible("simulate.relax_diffusion", argv, relax)


if __name__ == "__main__":
    run_script(main)
