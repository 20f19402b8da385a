"""Molecular dynamics with a trained potential.

    # what `make train` left, 10,000 steps at constant energy
    python -m simulate.run_md
    python -m simulate.run_md --checkpoint runs/aspirin/checkpoint_best.pt \\
        --structure mine.xyz --ensemble langevin --temperature 500
    # after an interruption: bit-identical
    python -m simulate.run_md --run-dir runs/md --resume
    python -m simulate.run_md --run-dir runs/md --resume --steps 50000            # longer

Without ``--structure`` it starts from the test split of the data the potential was trained on.
Velocities are drawn for the temperature; ``--temperature none`` takes those of the structure
(constant energy alone). The run folder holds trajectory.extxyz (any viewer reads it), log.csv,
plots/, config.yaml, state.npz and results.json: mean temperature, drift and fluctuation of the
total energy, speed.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # `python simulate/run_md.py` in a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import shlex
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms

from farfield.common import checkpoint, monitor
from farfield.common.command_line import (
    OptionParser,
    add_config_option,
    find_device,
    run_script,
    saved_config,
)
from farfield.common.precision import PRECISIONS
from farfield.common.run_folder import prepare_run_folder, save_config
from farfield.common.session import Interrupted
from farfield.dataloader.prepared_folder import structures_file
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures
from farfield.simulate.calculator import FarfieldCalculator
from farfield.simulate.dynamics import (
    ENSEMBLES,
    LOG,
    STATE,
    TRAJECTORY,
    Simulation,
    atoms_of_state,
    read_log,
    read_state,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RUN_FILES = ("config.yaml", STATE, LOG, TRAJECTORY, "results.json", "plots")
# what a continued run may change; of the checkpoint only the place, its content is compared
FREE_ON_RESUME = frozenset(
    {
        "run_dir",
        "resume",
        "overwrite",
        "pause_after",
        "device",
        "threads",
        "progress",
        "steps",
        "checkpoint_every",
        "max_temperature",
        "checkpoint",
        "structure",
        "index",
    }
)
UNITS = {
    "time": "ps",
    "mean_temperature": "K",
    "drift": "meV/atom/ps",
    "fluctuation": "meV/atom",
    "kinetic_fluctuation": "meV/atom",
}
UNITS |= {"cpu_per_step": "ms"}


def build_parser() -> OptionParser:
    """All options of the script."""
    parser = OptionParser("md", __doc__)
    add_config_option(parser)
    run = parser.section("run", "where the run lives and what it uses")
    run.add("--run-dir", str, "runs/md", help="folder of the run: trajectory, log, state, results")
    run.add("--resume", bool, False, help="go on from state.npz, bit-identically")
    run.add("--overwrite", bool, False, help="throw away the run in the folder")
    run.add("--seed", int, 0, low=0, high=2**31 - 1, help="seed of velocities and bath")
    run.add("--device", str, "cpu", help="cpu, cuda, cuda:1, ...")
    run.add("--threads", int, 1, low=1, high=4096, help="torch threads")
    run.add(
        "--pause-after",
        int,
        None,
        low=1,
        help="stop after this many more steps, as an interrupt would",
    )
    run.add("--progress", bool, True, help="progress bar")
    system = parser.section("system", "what moves, and in which potential")
    system.add(
        "--checkpoint",
        str,
        "runs/ethanol/checkpoint_best.pt",
        help="potential: checkpoint of train_md17 or train_md22",
    )
    system.add(
        "--structure",
        str,
        None,
        help="file that ASE reads (xyz, extxyz, cif, ...); default: the test split of the "
        "training data",
    )
    system.add("--index", int, 0, help="which structure of the file or the split; -1 is the last")
    dynamics = parser.section("dynamics", "how it moves")
    dynamics.add(
        "--ensemble",
        str,
        "nve",
        choices=list(ENSEMBLES),
        help="nve: constant energy, langevin: constant temperature",
    )
    dynamics.add(
        "--temperature",
        float,
        300.0,
        above=0,
        optional=True,
        help="K, of the first velocities and of the bath",
    )
    dynamics.add("--timestep", float, 0.5, above=0, high=10.0, help="fs")
    dynamics.add("--friction", float, 0.01, above=0, high=10.0, help="of langevin, 1/fs")
    dynamics.add("--steps", int, 10_000, low=1, help="planned steps")
    dynamics.add(
        "--record-every", int, 10, low=1, help="steps between frames of trajectory and log"
    )
    dynamics.add("--checkpoint-every", int, 1000, low=1, help="steps between states on the disk")
    dynamics.add(
        "--max-temperature", float, 10_000.0, above=0, help="K, beyond which the run is given up"
    )
    dynamics.add("--dtype", str, "float32", choices=list(PRECISIONS), help="numbers of the network")
    return parser


def first_structure(config) -> Atoms:
    """The structure that the options name; ``ValueError`` or ``OSError`` in one line."""
    system = config.system
    if system.structure is None:
        return structure_of_split(system.checkpoint, system.index)
    if not Path(system.structure).is_file():
        raise FileNotFoundError(
            f"--structure {system.structure} does not exist; give a file that ASE reads (xyz, "
            "extxyz, cif, ...)"
        )
    from ase.io import read  # half a second that --help does not wait for

    try:
        return read(system.structure, index=system.index)
    except IndexError:
        raise ValueError(
            f"--structure {system.structure} has no structure {system.index}; give another --index"
        ) from None
    except Exception as error:  # ase's readers raise what they meet
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(
            f"--structure {system.structure} cannot be read ({reason}); give a file that ASE reads"
        ) from None


def structure_of_split(path: str, index: int) -> Atoms:
    """Structure ``index`` of the test split of the data that the checkpoint ``path`` was trained
    on.
    """
    data = checkpoint.read_run(path)["config"].get("data", {}).get("data_path", "")
    try:
        structures = Structures.load(structures_file(data, "test"))
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
    return Atoms(numbers=one.atomic_numbers, positions=one.positions, **cell)


def simulate(config) -> dict | None:
    """One run from start to results; None if ``--pause-after`` ended the session."""
    folder, options = Path(config.run.run_dir), config.dynamics
    torch.set_num_threads(config.run.threads)
    potential = FarfieldCalculator(
        config.system.checkpoint, find_device(config.run.device), options.dtype
    )
    if "forces" not in potential.implemented_properties:
        raise ValueError(
            f"{config.system.checkpoint} was trained with --forces none, nothing moves; give a "
            "potential with forces"
        )
    state = read_state(folder / STATE) if config.run.resume and (folder / STATE).exists() else None
    atoms = first_structure(config) if state is None else atoms_of_state(state)
    atoms.calc = potential
    # a structure that the network refuses is refused before anything is written
    atoms.get_potential_energy()
    simulation = Simulation(
        atoms, options, folder, config.run.seed, files.file_checksum(config.system.checkpoint)
    )
    if state is not None:
        simulation.verify(state)
    prepare_run_folder(folder, config.run.resume, config.run.overwrite, RUN_FILES)
    save_config(folder, config, FREE_ON_RESUME)
    log = monitor.RunLog()
    if state is None:
        simulation.begin()
    else:
        simulation.restore(state)
    log(describe(atoms, simulation, config))
    with monitor.progress_bar(
        options.steps, initial=simulation.step, unit="step", disable=not config.run.progress
    ) as bar:

        def shown(row: dict):
            bar.update(1)
            bar.set_postfix(
                {"ps": f"{row['time_fs'] / 1000:.2f}", "K": f"{row['temperature_K']:.0f}"},
                refresh=False,
            )

        if not simulation.run(shown, config.run.pause_after):
            return None
    return finish(simulation, config, log)


def describe(atoms: Atoms, simulation: Simulation, config) -> str:
    """What moves and how, in a line or two."""
    options, potential = config.dynamics, atoms.calc
    kind = "periodic" if atoms.pbc.any() else "open"
    lines = [
        f"{atoms.get_chemical_formula()}, {len(atoms)} atoms, {kind}; {options.ensemble}, "
        f"{options.timestep:g} fs, step "
        f"{simulation.step} of {options.steps}; potential {potential.path}, cutoff "
        f"{potential.cutoff:g} A"
    ]
    if ENSEMBLES[options.ensemble].conserves_energy and not potential.conservative:
        lines.append(
            "note: the forces of this potential are direct, not the slope of its energy: it will "
            "not stay constant"
        )
    return "\n".join(lines)


def summarise(log: dict[str, np.ndarray], atoms: int) -> dict[str, float]:
    """Numbers of a run from its log: ``drift`` is the least-squares slope of the total energy (nan
    for less than three frames), ``fluctuation`` the standard deviation around that line.
    """
    time, total = log["time_fs"] / 1000, 1000 * log["total_eV"] / atoms
    line = np.polyfit(time, total, 1) if len(time) > 2 else np.array([np.nan, total.mean()])
    around = total - np.polyval(np.nan_to_num(line), time)
    values = (
        time[-1],
        log["temperature_K"].mean(),
        line[0],
        around.std(),
        1000 * log["kinetic_eV"].std() / atoms,
    )
    return dict(zip(UNITS, map(float, values), strict=False))


def draw_energies(log: dict[str, np.ndarray]) -> Figure:
    """Potential, kinetic and total energy less their first values, and the temperature, over
    time.
    """
    figure = monitor.new_figure((9, 3.8))
    left, right = figure.subplots(1, 2)
    for name in ("potential", "kinetic", "total"):
        values = log[f"{name}_eV"]
        left.plot(log["time_fs"] / 1000, values - values[0], linewidth=0.8, label=name)
    right.plot(log["time_fs"] / 1000, log["temperature_K"], linewidth=0.8)
    left.set(xlabel="ps", ylabel="energy less that of the start (eV)")
    right.set(xlabel="ps", ylabel="temperature (K)")
    left.legend()
    return figure


def finish(simulation: Simulation, config, log: monitor.RunLog) -> dict:
    """Write ``results.json`` and ``plots/energies.png``, print the numbers; returns them."""
    folder, records = simulation.folder, read_log(simulation.folder)
    results = summarise(records, len(simulation.atoms))
    each = simulation.cpu_seconds / max(simulation.step, 1)
    results |= {"cpu_per_step": 1000 * each, "steps": simulation.step}
    content = {
        **results,
        "units": UNITS,
        "config": saved_config(config),
        "versions": checkpoint.package_versions(),
    }
    monitor.write_json(folder / "results.json", content)
    monitor.save_figure(folder / "plots" / "energies.png", draw_energies(records))
    log(
        f"{results['time']:g} ps, mean temperature {results['mean_temperature']:.0f} K, "
        f"{results['cpu_per_step']:.3g} CPU ms a step"
    )
    if ENSEMBLES[config.dynamics.ensemble].conserves_energy:
        log(
            f"total energy: drift {results['drift']:.3g} meV/atom/ps, fluctuation "
            f"{results['fluctuation']:.3g} meV/atom "
            f"(of the kinetic energy: {results['kinetic_fluctuation']:.3g})"
        )
    log(
        f"results {folder / 'results.json'}   plots {folder / 'plots'}   trajectory "
        f"{folder / TRAJECTORY}   log {folder / LOG}"
    )
    return results


def main(argv: list[str] | None = None):
    """Entry point of the command line."""
    config = build_parser().parse_config(argv)
    again = f"python -m simulate.run_md --run-dir {shlex.quote(config.run.run_dir)} --resume"
    try:
        results = simulate(config)
    except (Interrupted, KeyboardInterrupt) as stop:
        begun = (Path(config.run.run_dir) / STATE).exists()
        raise Interrupted(
            (str(stop) or "interrupted") + (f"; go on with: {again}" if begun else "")
        ) from None
    if results is None:
        monitor.RunLog()(f"paused after {config.run.pause_after} steps; go on with: {again}")


if __name__ == "__main__":
    run_script(main)
