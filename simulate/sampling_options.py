"""Options that sample and relax_diffusion share, and the checks of those that name files."""

from __future__ import annotations

import argparse
from pathlib import Path

from farfield.common.command_line import OptionParser, Section, find_device
from farfield.common.plugins import FLAG, HELP
from farfield.common.precision import PRECISIONS
from farfield.dataloader.chemistry.bond_rules import BOND_RULES
from farfield.dataloader.datasets.molecule_sizes import MoleculeSizes
from farfield.models.diffusion.samplers import SAMPLERS
from farfield.models.diffusion.schedules import VARIANCES
from farfield.simulate.trained_sampler import SampleSettings, TrainedSampler

NUMBER = 100  # of molecules, where no option says another
XYZ_SUFFIXES = (".xyz", ".extxyz")


def sampling_parser(name: str, description: str, usage: str) -> OptionParser:
    """A parser with the positional argument CHECKPOINT."""
    parser = OptionParser(name, description)
    parser.usage = usage
    checkpoint = "checkpoint_best.pt or checkpoint_last.pt of a run of train_diffusion"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=checkpoint)
    # import_named_files takes the option out of the arguments: here it is for the help alone
    parser.add_argument(FLAG, metavar="FILE", help=HELP)
    return parser


def add_sampler_options(
    parser: OptionParser, max_steps: str, variance: str, patience: int
) -> Section:
    """How molecules are sampled.

    max_steps: the default of ``--max-steps`` in words. variance, patience: the defaults of
    ``--variance`` and ``--patience``.
    """
    sampler = parser.section("sampler", "how molecules come out of noise")
    which = "sampler (default jt, as or ddpm: the one that the networks were trained for)"
    sampler.add("--sampler", str, None, choices=list(SAMPLERS), help=which)
    other = "checkpoint of the time network that the samplers as and itp ask"
    sampler.add("--time-checkpoint", str, None, help=other)
    end = "largest time t of the last step of a molecule"
    sampler.add("--convergence-step", int, 0, low=0, help=end)
    waits = "guesses of t in a row that are no new least, which finish a molecule as well; none: no"
    sampler.add("--patience", int, patience, optional=True, low=1, help=waits)
    spread = "variance of the fresh noise of a step: lower or upper bound, or zero"
    sampler.add("--variance", str, variance, choices=list(VARIANCES), help=spread)
    most = f"largest number of steps of a molecule (default {max_steps})"
    sampler.add("--max-steps", int, None, low=1, help=most)
    sampler.add("--seed", int, 0, low=0, high=2**31 - 1, help="seed of everything random")
    sampler.add("--dtype", str, "float32", choices=list(PRECISIONS), help="arithmetic of networks")
    return sampler


def add_choice_options(section: Section) -> None:
    """Which molecules of a prepared folder are taken."""
    number = f"number of molecules (default {NUMBER})"
    section.add("--number", int, None, low=1, help=number)
    atoms = "number of atoms, hydrogen included: one, or a range such as 9,18"
    section.add("--atoms", str, None, help=f"{atoms} (default: as in training)")
    heavy = "number of atoms but hydrogen: one, or a range such as 5,9"
    section.add("--heavy-atoms", str, None, help=f"{heavy} (default: as in training)")


def add_output_options(parser: OptionParser, out: str) -> None:
    """What is written, which machine is used, how a run continues."""
    files = parser.section("files", "what is written")
    files.add("--out", str, out, help="extended xyz file of the molecules")
    files.add("--sdf", str, None, help="sdf file to write the molecules with their bonds to")
    rule = "rule that finds bonds and stable atoms, see molecule_metrics"
    files.add("--bonds", str, "edm", choices=list(BOND_RULES), help=rule)
    files.add("--json", str, None, help="json file to write the table to as well")
    files.add("--trajectory", str, None, help="folder for the way of every molecule, as xyz")
    every = "steps between frames of --trajectory"
    files.add("--trajectory-every", int, 10, low=1, help=every)

    run = parser.section("run", "which machine is used, and how the run continues")
    resume = "continue with the batches that an interrupted run has finished"
    run.add("--resume", bool, False, help=resume)
    run.add("--overwrite", bool, False, help="replace the file of --out, and start again")
    run.add("--batch-size", int, 64, low=1, help="molecules per batch")
    run.add("--device", str, "cpu", help="cpu, cuda, cuda:1, ...")
    run.add("--threads", int, 1, low=1, high=4096, help="CPU threads of torch")
    run.add("--progress", bool, True, help="show a progress bar")


def check_files(options: argparse.Namespace) -> None:
    """Raise ValueError for files that cannot be written."""
    if Path(options.out).suffix not in XYZ_SUFFIXES:
        raise ValueError(
            f"--out {options.out}: molecules are written as extended xyz; give a name that ends in "
            f"{' or '.join(XYZ_SUFFIXES)}"
        )

    for flag, path in (("--json", options.json), ("--sdf", options.sdf)):
        if path is not None and (Path(path).is_dir() or not Path(path).parent.is_dir()):
            raise ValueError(f"{flag} {path}: give a file in a folder that exists")

    # a resumed run may have written its molecules before it was interrupted
    replaced = options.overwrite or options.resume
    if options.sdf is not None and Path(options.sdf).exists() and not replaced:
        raise ValueError(f"--sdf {options.sdf} exists; give another file, or --overwrite")
    if options.trajectory is not None and Path(options.trajectory).is_file():
        raise ValueError(f"--trajectory {options.trajectory} is a file; give a folder")
    MoleculeSizes(options.atoms, options.heavy_atoms)


def open_sampler(options: argparse.Namespace) -> TrainedSampler:
    """The sampler that the options name."""
    return TrainedSampler.open(
        options.checkpoint,
        options.sampler,
        options.time_checkpoint,
        options.convergence_step,
        options.patience,
        options.variance,
        find_device(options.device),
        options.dtype,
    )


def chosen_sizes(options: argparse.Namespace, sampler: TrainedSampler) -> MoleculeSizes:
    """Sizes of the molecules to take: as in the training where no option says otherwise."""
    if options.atoms is None and options.heavy_atoms is None:
        return sampler.sizes
    return MoleculeSizes(options.atoms, options.heavy_atoms)


def sample_settings(
    options: argparse.Namespace, max_steps: int | None, start: int | None = None
) -> SampleSettings:
    """Settings of the sampler; max_steps: where no option says another number."""
    return SampleSettings(
        seed=options.seed,
        max_steps=options.max_steps or max_steps,
        start=start,
        keep_every=options.trajectory_every if options.trajectory else None,
    )
