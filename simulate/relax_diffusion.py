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
import shlex

import numpy as np
import torch

from farfield.common.command_line import OptionParser, run_script
from farfield.common.log import RunLog, count_bar, format_table, write_json
from farfield.common.plugins import import_named_files
from farfield.common.session import Interrupted
from farfield.dataloader.chemistry.bond_rules import BOND_RULES
from farfield.dataloader.commands import called_as
from farfield.dataloader.datasets.diffusion_data import open_structures
from farfield.dataloader.from_ase import read_structures, structures_from_atoms
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.storage import files
from farfield.dataloader.structure_inputs import find_input, is_number
from farfield.dataloader.structures import Structures
from farfield.models.choices import check_choice
from farfield.simulate.molecule_files import write_sdf
from farfield.simulate.molecule_metrics import MetricOptions, molecule_table, steps_table
from farfield.simulate.molecule_noise import choose, displaced
from farfield.simulate.reference_relaxation import RELAXATIONS, check_installed, relax_molecules
from farfield.simulate.sampling_batches import SamplingJob, run_job
from farfield.simulate.sampling_options import (
    add_choice_options,
    add_output_options,
    add_sampler_options,
    batch_folder,
    check_files,
    chosen_sizes,
    open_sampler,
    resumed_words,
    sample_settings,
    sampling_parser,
)
from farfield.simulate.superposition import check_same_molecules, superpose, symmetric_rmsd
from farfield.simulate.trained_sampler import SampledMolecules, TrainedSampler

COLUMNS = ("rmsd_mean", "rmsd_median", "heavy_rmsd_mean", "heavy_rmsd_median", "topology_kept")
VERDICTS = ("stable_atoms", "valid")


def build_parser() -> OptionParser:
    """All options of the script."""
    usage = "%(prog)s CHECKPOINT [STRUCTURES] [options]"
    parser = sampling_parser("relax_diffusion", __doc__, usage)
    given = "file of structures, of any format that ASE reads; or --split-of"
    parser.add_argument("structures", metavar="STRUCTURES", nargs="?", help=given)

    data = parser.section("molecules", "what is relaxed")
    folder = "prepared folder of which molecules of a split are relaxed, in place of a file"
    data.add("--split-of", str, None, help=folder)
    data.add("--split", str, "test", choices=list(SPLITS), help="split of --split-of")
    add_choice_options(data, 100)
    noise = "standard deviation of the noise that displaces every coordinate first, Angstrom"
    data.add("--noise", float, None, above=0, help=noise)
    known = "file with a reference for each structure, of the same atoms in the same order"
    data.add("--reference", str, None, help=known)
    methods = f"other methods that relax the same structures: {', '.join(RELAXATIONS)}, with commas"
    data.add("--compare", str, None, help=methods)

    sampler = add_sampler_options(parser, "time steps of the process")
    time = "time step of the given positions, for the sampler ddpm, which guesses none"
    sampler.add("--start", int, None, low=0, help=time)
    add_output_options(parser, "relaxed.xyz")
    return parser


def read_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of a command line; ValueError for options that do not go together."""
    options = build_parser().parse_args(import_named_files(argv))
    if (options.structures is None) == (options.split_of is None):
        raise ValueError("give either a file of STRUCTURES or --split-of FOLDER to be relaxed")
    if options.noise is not None and options.reference is not None:
        raise ValueError(
            "--noise displaces the structures and takes them as the reference; leave --noise or "
            "--reference out"
        )
    options.methods = [] if options.compare is None else options.compare.split(",")
    for method in options.methods:
        check_choice("--compare", method, RELAXATIONS)
        check_installed(method)
    check_files(options)
    return options


# ---- what is relaxed


def given_structures(options: argparse.Namespace, sampler: TrainedSampler) -> Structures:
    """Molecules of the file or the split, with the numbers that the networks read."""
    if options.structures is not None:
        return structures_of_file(options.structures, "STRUCTURES", sampler.inputs)
    structures = open_structures(options.split_of, options.split)
    structures = structures[chosen_sizes(options, sampler).chosen(structures)]
    number = min(options.number, len(structures))
    return with_inputs(structures[choose(number, len(structures), options.seed)], sampler.inputs)


def structures_of_file(path: str, option: str, inputs: list[str]) -> Structures:
    """Structures of a file; the numbers ``inputs`` that all of them have become ``extra``."""
    atoms = read_structures(path, option=option)
    structures = structures_from_atoms(atoms)
    for name in inputs:
        values = [find_input(one.info, name) for one in atoms]
        if all(is_number(value) for value in values):
            structures.extra[name] = np.array(values, np.float64)
    return structures


def with_inputs(structures: Structures, inputs: list[str]) -> Structures:
    """The structures without labels, which belong to other geometries, but with the ``inputs``."""
    held = {name: find_input(structures.extra, name) for name in inputs}
    return Structures(
        structures.atomic_numbers,
        structures.positions,
        structures.counts,
        cell=structures.cell,
        periodic=structures.periodic,
        extra={name: values for name, values in held.items() if values is not None},
        check=False,
    )


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


def remarks(reference: Structures | None, rule: str):
    """Distances of a batch: to its start, and to its reference where there is one."""

    def distances(
        found: SampledMolecules, start: Structures, places: np.ndarray
    ) -> dict[str, np.ndarray]:
        moved = {"rmsd_to_start": plain_rmsd(found.structures, start)}
        if reference is not None:
            known = reference[places]
            bonds = BOND_RULES[rule](known).table
            moved["rmsd_to_reference"] = symmetric_rmsd(found.structures, known, bonds).rmsd
        return moved

    return distances


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

    def row(name: str, structures: Structures, more: dict) -> dict:
        rules = MetricOptions(bonds=options.bonds, identity="graph")
        table = molecule_table(structures, reference, options=rules)
        columns = (*(COLUMNS if reference is not None else ()), *VERDICTS)
        return {"row": name, **{column: table[column] for column in columns}, **more}

    nothing = dict.fromkeys([*steps_table(found.steps, found.converged), "failed"], float("nan"))
    rows = [row("start", start, nothing)]
    steps = steps_table(found.steps, found.converged)
    rows.append(row("relaxed", found.structures, nothing | steps | {"failed": 0.0}))

    # a force field has to be told the bonds, which a displaced geometry may not show
    known = start if reference is None else reference
    bonds = BOND_RULES["perceived"](known) if options.methods else None
    for method in options.methods:
        with count_bar(len(start), method, "molecules", disable=not options.progress) as bar:
            other = relax_molecules(start, method, bonds, progress=bar.update)
        failed = float(np.mean(~np.isfinite(other.after)))
        more = {"converged": float(other.converged.mean()), "failed": failed}
        rows.append(row(method, other.structures, nothing | more))
    return rows


def relax(options: argparse.Namespace, log: RunLog) -> list[dict]:
    """Relax, write the files and print the table; returns its rows."""
    torch.set_num_threads(options.threads)
    sampler = open_sampler(options)
    start, reference = start_and_reference(options, sampler)
    settings = sample_settings(options, None, options.start)
    sampler.check_start(settings.start)
    job = SamplingJob(
        sampler,
        settings,
        start,
        relax=True,
        batch_size=options.batch_size,
        remarks=remarks(reference, options.bonds),
        trajectory=None if options.trajectory is None else Path(options.trajectory),
    )
    recorded = job.recorded(
        checkpoint=files.file_checksum(options.checkpoint),
        time_checkpoint=options.time_checkpoint and files.file_checksum(options.time_checkpoint),
        reference=None if reference is None else reference.data_hash,
        bonds=options.bonds,
    )
    folder = batch_folder(options, recorded)
    log(f"{len(start)} molecules, {sampler.describe()}")
    if sampler.missing:
        log(
            f"note: elements are not checked, since the training data are not there: "
            f"{sampler.missing}"
        )

    found = run_job(job, folder, options.progress)
    if options.sdf is not None:
        values = {"steps": found.steps, "converged": found.converged}
        write_sdf(
            options.sdf, found.structures, BOND_RULES[options.bonds](found.structures), values
        )
    rows = relaxation_rows(found, start, reference, options)
    log(format_table(rows))
    log("rmsd in Angstrom after the best superposition; the others are shares, and steps")
    if options.json is not None:
        write_json(options.json, {"settings": folder.settings, "rows": rows})
    folder.close()
    log(f"molecules {options.out}" + (f"   sdf {options.sdf}" if options.sdf else ""))
    return rows


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    given = list(sys.argv[1:] if argv is None else argv)
    options = read_options(argv)
    try:
        relax(options, RunLog())
    except (Interrupted, KeyboardInterrupt) as stop:
        again = shlex.join(resumed_words(given))
        command = f"{called_as('simulate.relax_diffusion')} {again}"
        raise Interrupted(f"{str(stop) or 'interrupted'}; continue with: {command}") from None


if __name__ == "__main__":
    run_script(main)
