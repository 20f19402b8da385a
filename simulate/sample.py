"""Generate molecules by a trained diffusion: positions out of noise, for given compositions.

    # compositions drawn from the molecules that the network was trained on
    python -m simulate.sample runs/diffusion/checkpoint_best.pt --number 100
    # of another folder, by another sampler, with the time network of the same process
    python -m simulate.sample runs/noise/checkpoint_best.pt --number 100 --like data/qm9 \\
        --heavy-atoms 5,9 --sampler as --time-checkpoint runs/time/checkpoint_best.pt
    # isomers of two formulas; bonds in an sdf, the way of every molecule in a folder
    python -m simulate.sample runs/diffusion/checkpoint_best.pt --composition C2H6O \\
        --composition C3H8 --number 20 --out isomers.xyz --sdf isomers.sdf --trajectory ways
    # after an interruption: the same molecules
    python -m simulate.sample runs/diffusion/checkpoint_best.pt --number 100 --resume

The file of --out says of each molecule how many steps it took (``steps``) and whether it came to an
end (``converged``). The table has the metrics of ``molecule_metrics.py`` and the steps; where the
training data are there, it says which share of the molecules is new. Noise of a molecule is a
function of (--seed, its number) alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python simulate/sample.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

from farfield.common.command_line import OptionParser, run_script
from farfield.common.log import RunLog
from farfield.common.plugins import import_named_files
from farfield.dataloader.datasets.diffusion_data import check_open
from farfield.dataloader.structures import Structures
from farfield.models.diffusion.process import ProcessOptions
from farfield.simulate.molecule_choice import (
    blank_of_formulas,
    choose,
    elements_of_formula,
    molecules_of_split,
    unlabelled,
    with_compositions_of,
)
from farfield.simulate.molecule_metrics import (
    IDENTITIES,
    MetricOptions,
    molecule_table,
    steps_table,
)
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
from farfield.simulate.trained_sampler import SampledMolecules, TrainedSampler

PATIENCE = 100  # steps: fresh noise lifts the guessed time now and then
PROCESSES = 2  # lengths of the process after which a molecule is given up


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = sampling_parser("sample", __doc__, "%(prog)s CHECKPOINT [options]")
    data = parser.section("molecules", "which elements they have")
    folder = "prepared folder whose training molecules give the compositions"
    data.add("--like", str, None, help=f"{folder} (default: the training data)")
    formula = "composition such as C2H6O, in place of --like; several take turns"
    parser.add_argument("--composition", metavar="FORMULA", action="append", help=formula)
    add_choice_options(data)
    identity = "what makes two molecules the same, for unique and new ones"
    data.add("--identity", str, "auto", choices=list(IDENTITIES), help=identity)

    most = f"{PROCESSES} times the time steps of the process"
    add_sampler_options(parser, most, ProcessOptions.variance, PATIENCE)
    add_output_options(parser, "molecules.xyz")
    return parser


def read_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of a command line; ValueError for options that do not go together."""
    options = build_parser().parse_args(import_named_files(argv))
    if options.composition is not None:
        for name in ("like", "atoms", "heavy_atoms"):
            if getattr(options, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')} chooses molecules of a folder, --composition "
                    "names them; leave one of them out"
                )
        for formula in options.composition:
            elements_of_formula(formula)
    check_files(options)
    return options


def blank_structures(options: argparse.Namespace, sampler: TrainedSampler) -> Structures:
    """Molecules of which only the elements are read; ValueError or OSError in one line."""
    number = options.number or NUMBER
    if options.composition is not None:
        return blank_of_formulas(options.composition, number)

    # otherwise molecules of a training split, by default of the data the sampler was trained on
    folder = options.like or sampler.run.config.data.data_path
    try:
        molecules = molecules_of_split(folder, "train", chosen_sizes(options, sampler))
    except OSError as error:
        if options.like is not None:
            raise
        raise FileNotFoundError(
            f"the training data are not there ({error}); give --like FOLDER, or --composition"
        ) from None

    check_open(molecules)
    places = choose(number, len(molecules), options.seed)
    return unlabelled(molecules[places], sampler.inputs)


def sample_table(
    found: SampledMolecules, training: Structures | None, options: argparse.Namespace
) -> dict[str, float | str]:
    """Metrics of the molecules, and steps.

    Molecules of different compositions are different: only those training molecules are compared
    whose composition was sampled.
    """
    rules = MetricOptions(bonds=options.bonds, identity=options.identity)
    if training is not None:
        training = with_compositions_of(training, found.structures)
    table = molecule_table(found.structures, training=training, options=rules)
    return table | steps_table(found.steps, found.converged)


def sample(argv: list[str] | None) -> dict[str, float | str]:
    """Generate, write the files and print the table; returns it."""
    options, log = read_options(argv), RunLog()
    sampler = open_sampler(options)
    blank = blank_structures(options, sampler)
    sampler.check(blank)
    settings = sample_settings(options, PROCESSES * sampler.sampler.process.options.time_steps)
    found, folder = run_options(options, sampler, blank, log, relax=False, settings=settings)
    table = sample_table(found, sampler.training, options)
    finish(options, folder, [table], log, "shares, numbers of molecules, and steps")
    return table


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    run_interruptible("simulate.sample", argv, sample)


if __name__ == "__main__":
    run_script(main)
