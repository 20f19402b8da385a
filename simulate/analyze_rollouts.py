"""Analyse trajectories: bonds, distances, diffusion, temperature and what should be conserved.

    # a run of run_md; results in runs/md/rollout
    python -m simulate.analyze_rollouts runs/md
    # against reference frames
    python -m simulate.analyze_rollouts runs/md --gt-traj ethanol.npz --xlim 8
    # several runs and a mean, files of other programs
    python -m simulate.analyze_rollouts a.traj b.extxyz --frame-time 5 --out both

Reads run folders of run_md, npz of one molecule (MD17, MD22) and whatever ASE reads. Measures:

    stability time   until a bond differs by 0.5 A from its equilibrium   (bond_stability.py)
    h(r), its MAE    distribution of interatomic distances                (pair_distributions.py)
    g(r)             by pairs of elements, of periodic structures         (pair_distributions.py)
    D                diffusion coefficient by element, of periodic ones   (diffusivity.py)
    temperature, drift of the total energy, momentum, angular momentum    (rollout_results.py)

The output folder holds results.json and plots/. Options may be written with _ for - (--gt_traj).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # `python simulate/analyze_rollouts.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from easydict import EasyDict

from farfield.common import checkpoint
from farfield.common.command_line import (
    UNSET,
    OptionParser,
    add_config_option,
    plain,
    run_script,
)
from farfield.common.log import RunLog, count_bar, format_table, write_json
from farfield.common.run_folder import prepare_run_folder
from farfield.simulate.bond_stability import MAX_BOND_CHANGE

RESULTS, PLOTS = "results.json", "plots"
RUN_FILES = (RESULTS, PLOTS)


class _NamedTrajectories(argparse.Action):
    """Files named without an option: the same as ``--trajectories`` with commas between them."""

    def __call__(self, parser, namespace, values, option_string=None):
        if values and namespace.trajectories is not UNSET:
            parser.error("trajectories are given with --trajectories and without; give them once")
        if values:
            namespace.trajectories = ",".join(values)


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("rollouts", __doc__)
    add_config_option(parser)

    # trajectories with and without their option
    run = parser.section("run", "what is read, and where results go")
    many = "trajectories, separated by commas: files or run folders of run_md"
    run.add("--trajectories", str, None, help=many)
    parser.add_argument(
        "files",
        nargs="*",
        action=_NamedTrajectories,
        default=argparse.SUPPRESS,
        metavar="TRAJECTORY",
        help="files or run folders of run_md",
    )

    reference = (
        "trajectory that equilibrium bond lengths and h(r) are compared with (default: the first "
        "frame gives the bond lengths)"
    )
    run.add("--gt-traj", str, None, help=reference)
    run.add("--out", str, None, help="folder of the results (default: rollout/ in the first run)")
    run.add("--overwrite", bool, False, help="replace the results in the folder")
    run.add("--progress", bool, True, help="show a progress bar")
    add_analysis_options(parser)
    return parser


def add_analysis_options(parser: OptionParser) -> None:
    """What is measured, and how."""
    analysis = parser.section("analysis", "what is measured")
    time = "time between frames, fs (default: as the trajectory says)"
    analysis.add("--frame-time", float, None, above=0, help=time)
    change = "change of a bond length that ends the stable part of a trajectory, Angstrom"
    analysis.add("--max-bond-change", float, MAX_BOND_CHANGE, above=0, help=change)
    analysis.add("--xlim", float, 15.0, above=0, help="largest distance of h(r), Angstrom")
    analysis.add("--rdf-limit", float, 6.0, above=0, help="largest distance of g(r), Angstrom")

    # how finely, and over how much of a trajectory
    bins = "number of bins of h(r) and of g(r)"
    analysis.add("--bins", int, 500, low=2, high=100_000, help=bins)
    origins = (
        "number of first frames that displacements are counted from, spread over the first half; "
        "1: the first frame, over all times"
    )
    analysis.add("--origins", int, 10, low=1, help=origins)
    fit = "fraction of the longest time before which no diffusion is fitted"
    analysis.add("--fit-from", float, 0.1, low=0, below=1, help=fit)


def with_dashes(argv: Sequence[str]) -> list[str]:
    """Arguments whose flags have dashes, as in ``--gt-traj``, where they had underscores."""
    found = []
    for word in argv:
        flag, equals, value = word.partition("=")
        is_flag = flag.startswith("--")
        found.append(f"{flag.replace('_', '-')}{equals}{value}" if is_flag else word)
    return found


def read_options(argv: Sequence[str] | None = None) -> EasyDict:
    """The configuration of a command line; ValueError where it names no trajectory."""
    given = with_dashes(sys.argv[1:] if argv is None else argv)
    config = build_parser().parse_config(given)
    if not config.run.trajectories:
        raise ValueError(
            "no trajectory was given; name run folders or files, e.g. analyze_rollouts runs/md"
        )
    return config


def output_folder(config: EasyDict) -> Path:
    """Where results go."""
    if config.run.out is not None:
        return Path(config.run.out)
    first = Path(config.run.trajectories.split(",")[0])
    return first / "rollout" if first.is_dir() else first.with_name(f"{first.stem}_rollout")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command line."""
    config = read_options(argv)
    run_analysis(config)


def run_analysis(config: EasyDict) -> list[dict]:
    """Analyse what ``config`` names, write results and pictures; returns the rows of the table."""
    # here: the help waits for none of them
    from farfield.simulate.rollout_frames import read_frames
    from farfield.simulate.rollout_plots import write_plots
    from farfield.simulate.rollout_results import Reference, analyse, results_of, shown_rows

    options, log, reference = config.analysis, RunLog(), None
    names = config.run.trajectories.split(",")
    folder = output_folder(config)

    # whatever cannot be read is refused before anything is written
    quiet = {"disable": not config.run.progress}
    with count_bar(None, "read", "frames", **quiet) as bar:
        trajectories = [read_frames(name, options.frame_time, bar.update) for name in names]
        given = config.run.gt_traj and read_frames(config.run.gt_traj, progress=bar.update)
    total = sum(map(len, trajectories)) + (len(given) if given else 0)
    with count_bar(total, "analyse", "frames", **quiet) as bar:
        if given:
            reference = Reference.of(given, options, bar.update)
        found = [analyse(one, options, reference, bar.update) for one in trajectories]

    # the plots first: a results.json says that everything is there
    content = results_of(found, reference, options)
    content |= {"config": {"run": plain(config.run), "analysis": plain(options)}}
    prepare_run_folder(folder, False, config.run.overwrite, RUN_FILES)
    write_plots(folder / PLOTS, found, reference, options)
    write_json(folder / RESULTS, content | {"versions": checkpoint.package_versions()})

    table = format_table(shown_rows(content["rollouts"]))
    log(f"{table}\nresults {folder / RESULTS}   plots {folder / PLOTS}")
    return content["rollouts"]


if __name__ == "__main__":
    run_script(main)
