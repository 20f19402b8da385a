"""Molecular dynamics with a trained potential.

    # what `make train` left, 10,000 steps at constant energy
    python -m simulate.run_md --checkpoint runs/ethanol/checkpoint_best.pt
    python -m simulate.run_md --checkpoint runs/aspirin/checkpoint_best.pt \\
        --structure mine.xyz --ensemble langevin --temperature 500
    # after an interruption: bit-identical
    python -m simulate.run_md --run-dir runs/md --resume
    python -m simulate.run_md --run-dir runs/md --resume --steps 50000            # longer

Without ``--structure`` the run starts from the test split of the data that the potential was
trained on. Velocities are drawn for the temperature, over the degrees of freedom that are left
without drift and rotation; ``--temperature none`` takes the velocities of the structure (at
constant energy alone). The run folder holds trajectory.extxyz (any viewer reads it), log.csv,
plots/, config.yaml, state.npz and results.json: mean temperature, drift and fluctuation of the
total energy, speed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # `python simulate/run_md.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from ase import Atoms

from farfield.common import checkpoint
from farfield.common.command_line import OptionParser, add_config_option, find_device, run_script
from farfield.common.configuration import IMPORTED_FILES
from farfield.common.folder_lock import only_process
from farfield.common.log import RunLog, progress_bar
from farfield.common.plugins import import_named_files
from farfield.common.precision import PRECISIONS
from farfield.common.run_folder import prepare_run_folder, save_config
from farfield.common.script import resume_command
from farfield.common.session import Interrupted
from farfield.dataloader.from_ase import inputs_held, read_structures
from farfield.dataloader.prepared_folder import structures_of_split
from farfield.dataloader.set_names import parse_sets
from farfield.dataloader.storage import files
from farfield.dataloader.structure_inputs import find_input
from farfield.models.compiled.compiled_potential import MODES
from farfield.simulate.calculator import FarfieldCalculator
from farfield.simulate.dynamics import (
    ENSEMBLES,
    LOG,
    STATE,
    TRAJECTORY,
    Simulation,
    atoms_of_state,
    read_state,
)
from farfield.simulate.md_results import finish
from farfield.simulate.start_checks import check_start

RUN_FILES = ("config.yaml", STATE, LOG, TRAJECTORY, "results.json", "plots")

# what a resumed run may change; of the checkpoint only the path, since its content is compared
FREE_ON_RESUME = frozenset(
    {
        "run_dir",
        "resume",
        "overwrite",
        "pause_after",
        "device",
        "threads",
        "progress",
        "compile",
        "steps",
        "checkpoint_every",
        "max_temperature",
        "checkpoint",
        "structure",
        "index",
    }
)


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("md", __doc__)
    add_config_option(parser)
    add_run_options(parser)
    add_system_options(parser)
    add_dynamics_options(parser)
    return parser


def add_run_options(parser: OptionParser) -> None:
    """Where the run lives, which machine it uses, how it continues."""
    run = parser.section("run", "where the run lives and what it uses")

    # the folder of the run, and how it starts
    folder = "folder of the run: trajectory, log, state, results"
    run.add("--run-dir", str, "runs/md", main=True, help=folder)
    resume = "continue from state.npz, bit-identically"
    run.add("--resume", bool, False, main=True, help=resume)
    run.add("--overwrite", bool, False, main=True, help="delete the run in the folder first")
    seed = "seed of the first velocities and of the Langevin bath"
    run.add("--seed", int, 0, low=0, high=2**31 - 1, main=True, help=seed)

    # the machine and the session
    run.add("--device", str, "cpu", main=True, help="cpu, cuda, cuda:1, ...")
    run.add("--threads", int, 1, low=1, high=4096, main=True, help="CPU threads of torch")
    compiled = "compile the potential to C++"
    run.add("--compile", str, "auto", choices=MODES, main=True, help=compiled)
    pause = "steps after which this session pauses, as after an interrupt (default: no pause)"
    run.add("--pause-after", int, None, low=1, help=pause)
    run.add("--progress", bool, True, help="show a progress bar")


def add_system_options(parser: OptionParser) -> None:
    """The potential and the first structure."""
    system = parser.section("system", "what moves, and in which potential")
    potential = (
        "checkpoint of the potential, of train_potential, train_md17 or train_md22 (needed, "
        "except with --resume)"
    )
    system.add("--checkpoint", str, None, main=True, help=potential)
    head = "energy head of a checkpoint with several, the name of a training set"
    system.add("--head", str, None, help=head)

    # the first structure
    structure = (
        "file with the first structure, of any format that ASE reads (default: the test split "
        "of the training data)"
    )
    system.add("--structure", str, None, main=True, help=structure)
    index = "number of the structure in the file or the split; -1 is the last"
    system.add("--index", int, 0, main=True, help=index)


def add_dynamics_options(parser: OptionParser) -> None:
    """Ensemble, temperature, time step and length."""
    dynamics = parser.section("dynamics", "how the structure moves")
    ensemble = "nve: constant energy, langevin: constant temperature"
    names = list(ENSEMBLES)
    dynamics.add("--ensemble", str, "nve", choices=names, main=True, help=ensemble)
    kelvin = "temperature of the first velocities and of the bath, K; none: keep the velocities"
    dynamics.add("--temperature", float, 300.0, above=0, optional=True, main=True, help=kelvin)
    dynamics.add("--timestep", float, 0.5, above=0, high=10.0, main=True, help="time step, fs")
    friction = "friction of --ensemble langevin, 1/fs"
    dynamics.add("--friction", float, 0.01, above=0, high=10.0, main=True, help=friction)
    dynamics.add("--steps", int, 10_000, low=1, main=True, help="number of steps of the run")

    # what is written, and when a run ends early
    frames = "steps between frames of trajectory and log"
    dynamics.add("--record-every", int, 10, low=1, main=True, help=frames)
    states = "steps between writes of state.npz"
    dynamics.add("--checkpoint-every", int, 1000, low=1, help=states)
    limit = "temperature that ends the run with an error, K"
    dynamics.add("--max-temperature", float, 10_000.0, above=0, help=limit)
    arithmetic = "arithmetic of the network"
    dynamics.add("--dtype", str, "float32", choices=list(PRECISIONS), help=arithmetic)


def first_structure(config, inputs: Sequence[str]) -> Atoms:
    """The structure that the options name, with the ``inputs`` of the potential in its info.

    ValueError or OSError in one line.
    """
    system = config.system
    if system.structure is None:
        return structure_of_split(system.checkpoint, system.index, inputs, system.get("head"))
    return read_structures(system.structure, system.index)


def structure_of_split(
    path: str, index: int, inputs: Sequence[str] = (), head: str | None = None
) -> Atoms:
    """Structure ``index`` of the test split that the checkpoint ``path`` was judged by.

    inputs: names of the further values of a structure that are put into ``info``. head: name of
    the set of several that it comes from (None: the first).
    """
    sets = parse_sets(checkpoint.read_run(path)["config"].get("data", {}).get("data_path", ""))
    data = sets.get(head, next(iter(sets.values())))
    try:
        structures = structures_of_split(data, "test")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the data of {path} cannot be read ({error}); give --structure FILE"
        ) from None
    if not -len(structures) <= index < len(structures):
        raise ValueError(
            f"--index must be in {-len(structures)} .. {len(structures) - 1}, the test split of "
            f"{data}, got {index}"
        )

    one = structures[index % len(structures)]
    cell = {} if one.cell is None else {"cell": one.cell[0], "pbc": one.periodic[0]}
    found = {name: find_input(one.extra, name) for name in inputs}
    info = {name: values[0] for name, values in found.items() if values is not None}
    return Atoms(numbers=one.atomic_numbers, positions=one.positions, info=info, **cell)


def simulate(config) -> dict | None:
    """One run from start to results; None if ``--pause-after`` ended the session."""
    with only_process(config.run.run_dir):
        return _simulate_alone(config)


def _simulate_alone(config) -> dict | None:
    """The same, where no other process is in the folder of the run."""
    folder = Path(config.run.run_dir)
    torch.set_num_threads(config.run.threads)
    log = RunLog()

    # whatever cannot run is refused here, before anything is written
    potential = moving_potential(config)
    state = None
    read = [*potential.inputs, *potential.optional_inputs]
    if config.run.resume and (folder / STATE).exists():
        state = read_state(folder / STATE, potential.inputs, potential.optional_inputs)
    atoms = first_structure(config, read) if state is None else atoms_of_state(state)
    notes = [] if state is not None else check_start(atoms, config.dynamics.timestep)
    atoms.calc = potential

    # one choice for the whole run, for it must repeat bit for bit
    compiled = potential.prepare(atoms, None if state is None else bool(state["compiled"]))
    atoms.get_potential_energy()
    checksum = files.file_checksum(potential.path)
    inputs = [*potential.inputs, *inputs_held(atoms, potential.optional_inputs)]
    inputs = list(dict.fromkeys(inputs))
    simulation = Simulation(
        atoms, config.dynamics, folder, config.run.seed, checksum, inputs, compiled
    )
    if state is not None:
        simulation.verify(state)

    prepare_run_folder(folder, config.run.resume, config.run.overwrite, RUN_FILES)
    save_config(folder, config, FREE_ON_RESUME)
    if state is None:
        simulation.begin()
    else:
        simulation.restore(state)
    log(describe(atoms, simulation, config))
    for note in notes:
        log(f"note: {note}")
    return finish(simulation, config, log) if integrate(simulation, config) else None


def moving_potential(config) -> FarfieldCalculator:
    """The potential of the run; ValueError for one without forces."""
    device = find_device(config.run.device)
    potential = FarfieldCalculator(
        config.system.checkpoint,
        device,
        config.dynamics.dtype,
        compile=config.run.compile,
        evaluations=config.dynamics.steps,
        report=RunLog(),
        head=config.system.get("head"),
    )

    if "forces" not in potential.implemented_properties:
        raise ValueError(
            f"{config.system.checkpoint} was trained with --forces none, nothing moves; give a "
            "potential with forces"
        )
    return potential


def integrate(simulation: Simulation, config) -> bool:
    """Run to the last step with a progress bar; False if ``--pause-after`` ended the session."""
    bar = progress_bar(
        config.dynamics.steps,
        initial=simulation.step,
        unit=" steps",
        disable=not config.run.progress,
    )
    with bar:

        def show(row: dict) -> None:
            """Time and temperature behind the bar."""
            bar.update(1)
            shown = {"ps": f"{row['time_fs'] / 1000:.2f}", "K": f"{row['temperature_K']:.0f}"}
            bar.set_postfix(shown, refresh=False)

        return simulation.run(show, config.run.pause_after)


def describe(atoms: Atoms, simulation: Simulation, config) -> str:
    """What moves and how, in a line or two."""
    options, potential = config.dynamics, atoms.calc
    kind = "periodic" if atoms.pbc.any() else "open"
    line = (
        f"{atoms.get_chemical_formula()}, {len(atoms)} atoms, {kind}; {options.ensemble}, "
        f"{options.timestep:g} fs, step {simulation.step} of {options.steps}; potential "
        f"{potential.path}, cutoff {potential.cutoff:g} A"
    )

    # nothing moves where the forces are zero, and a run at 0 K is rarely meant
    if simulation.step == 0 and not atoms.get_momenta().any():
        line += (
            "\nnote: the structure has no velocities, the run starts at 0 K; --temperature 300 "
            "draws some"
        )

    # direct forces are not the slope of the energy that an ensemble conserves
    if ENSEMBLES[options.ensemble].conserves_energy and not potential.conservative:
        line += (
            "\nnote: the forces of this potential are direct, not the slope of its energy; the "
            "total energy will drift"
        )
    return line


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    # files of the user come first: they may add to the ensembles that the parser lists
    argv = import_named_files(argv)
    config = build_parser().parse_config(argv)
    if config.system.checkpoint is None:
        raise ValueError(
            "no potential was given; give --checkpoint FILE (runs/ethanol/checkpoint_best.pt after "
            "`make train`), or --run-dir and --resume to continue a run"
        )

    # a run that ends early says how it continues
    imports = config.get(IMPORTED_FILES, ())
    again = resume_command("simulate.run_md", config.run.run_dir, imports)
    try:
        results = simulate(config)
    except (Interrupted, KeyboardInterrupt) as stop:
        begun = (Path(config.run.run_dir) / STATE).exists()
        hint = f"; continue with: {again}" if begun else ""
        raise Interrupted(f"{str(stop) or 'interrupted'}{hint}") from None
    if results is None:
        log = RunLog()
        log(f"paused after {config.run.pause_after} steps; continue with: {again}")


if __name__ == "__main__":
    run_script(main)
