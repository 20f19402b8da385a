"""Programs of this project on data so small that a run lasts about a second, to be disturbed.

Each says how it starts, how it starts again after a disturbance, and what it leaves behind that
must not depend on it: every bit of weights, moments, trajectories and files, but for clocks.
Pictures are left out: they are drawn from the files, and would take most of the time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ase.io
import numpy as np
import yaml
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from benchmarks.reliability.digests import checkpoint_digest, digest, files_digest
from benchmarks.reliability.forked_programs import Main, learn_imports
from farfield.common import checkpoint, figures
from farfield.preprocess import (
    basis_shards,
    preprocess_nbody,
    preprocess_qm9,
    preprocess_structures,
)
from farfield.simulate import dynamics, md_results, run_md, sample
from farfield.train import evaluate, monitor, plots, train_diffusion, train_potential
from farfield.train.self_tests import NETWORK as SMALL_NETWORK

FORMULAS = ("CH4", "NH3", "H2O", "C2H2", "HCN", "H2CO", "CH3OH", "CH3CN")
MOLECULES_PER_SHARD = 6
DIFFUSION = {
    "name": "e2former_diffusion",
    "irreps": "4x0e+4x1o",
    "schedule": "first-order",
    "layers": 1,
    "radial_size": 4,
    "radial_hidden": 8,
    "element_size": 3,
    "near_heads": 2,
    "near_score_width": 4,
    "avg_degree": 4.0,
    "far_heads": 2,
    "far_expansion": "pairwise",
}


class SmallProgram(NamedTuple):
    """A program that can be disturbed.

    name    for tables
    main    of the script
    start   (folder of prepared inputs, place of the run) -> arguments of the first start
    again   the same after a disturbance
    left    place of the run -> checksum of what it leaves behind
    """

    name: str
    main: Main
    start: Callable[[Path, Path], list[str]]
    again: Callable[[Path, Path], list[str]]
    left: Callable[[Path], str]


def prepare_inputs(folder: Path) -> Path:
    """Make what the programs read: files of molecules, a prepared folder and two checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    write_frames(folder / "frames.xyz", 48)
    write_property_file(folder / "molecules.npz", 48)
    network = folder / "network.yaml"
    network.write_text(yaml.safe_dump({"model": {**SMALL_NETWORK, "cutoff": 4.0}}))
    denoiser = folder / "denoiser.yaml"
    denoiser.write_text(yaml.safe_dump({"model": DIFFUSION}))

    _made(folder, preprocess_structures.main, structures_arguments(folder, folder / "data"))
    potential = [*training_arguments(folder, folder / "potential"), "--epochs", "2"]
    _made(folder, train_potential.main, potential)
    diffusion = ["--data-path", str(folder / "data"), "--run-dir", str(folder / "diffusion")]
    diffusion += ["--config", str(denoiser), "--epochs", "1", "--diffusion-steps", "12"]
    diffusion += ["--batch-size", "8", "--no-progress"]
    _made(folder, train_diffusion.main, diffusion)
    return folder


def without_pictures(main: Main) -> Main:
    """The same program, which draws nothing; for a process of its own."""

    def quick(arguments: list[str]) -> None:
        """Draws nothing, and runs the program."""
        drawing = [(plots, name) for name in ("draw_pairs", "draw_errors", "draw_curves")]
        drawing += [(figures, "save_figure"), (monitor.Monitor, "picture")]
        for place, name in [*drawing, (md_results, "draw_energies")]:
            setattr(place, name, lambda *unused: None)
        main(arguments)

    return quick


def _made(folder: Path, main: Main, arguments: list[str]) -> None:
    ended = learn_imports(without_pictures(main), arguments, folder / "output.txt")
    if ended.code:
        raise RuntimeError(f"the inputs cannot be made: {ended.text.strip()[-2000:]}")


def displaced_molecules(count: int, seed: int = 0) -> list[Atoms]:
    """Molecules of ASE, their atoms moved by some hundredths of an Angstrom."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        atoms = molecule(FORMULAS[number % len(FORMULAS)])
        atoms.positions += 0.03 * generator.standard_normal(atoms.positions.shape)
        found.append(atoms)
    return found


def pair_labels(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """E = sum over pairs of exp(-r^2 / 4), eV, and the forces -dE/dx (atoms, 3), eV/Angstrom."""
    difference = positions[:, None] - positions[None]
    weight = np.exp(-np.square(difference).sum(-1) / 4)
    energy = (weight.sum() - len(positions)) / 2
    return energy, (weight[..., None] * difference / 2).sum(1)


def write_frames(path: Path, count: int, seed: int = 0) -> None:
    """Extended xyz of molecules with energies and forces."""
    frames = displaced_molecules(count, seed)
    for atoms in frames:
        energy, forces = pair_labels(atoms.positions)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    ase.io.write(path, frames, format="extxyz")


def write_property_file(path: Path, count: int, seed: int = 0) -> None:
    """Ragged npz of molecules with two properties of QM9."""
    frames = displaced_molecules(count, seed)
    generator = np.random.default_rng(seed)
    np.savez(
        path,
        n_atoms=np.array([len(atoms) for atoms in frames]),
        Z=np.concatenate([atoms.numbers for atoms in frames]),
        R=np.concatenate([atoms.positions for atoms in frames]),
        mu=generator.random(count),
        alpha=10 + generator.random(count),
    )


def structures_arguments(inputs: Path, out: Path) -> list[str]:
    """Arguments of preprocess_structures."""
    sizes = ["--train", "32", "--val", "8", "--test", "8", "--split", "random"]
    return [str(inputs / "frames.xyz"), "--out", str(out), "--cutoff", "4", *sizes]


def training_arguments(inputs: Path, run: Path) -> list[str]:
    """Arguments of train_potential but for the length of the run."""
    paths = ["--data-path", str(inputs / "data"), "--run-dir", str(run)]
    small = ["--config", str(inputs / "network.yaml"), "--batch-size", "8", "--warmup-steps", "2"]
    return [*paths, *small, "--ema-decay", "0.9", "--no-progress", "--compile", "off"]


def _training(inputs: Path, run: Path) -> list[str]:
    return [*training_arguments(inputs, run), "--epochs", "3", "--checkpoint-every", "1"]


def _resumed_training(inputs: Path, run: Path) -> list[str]:
    begun = (run / checkpoint.LAST).exists()
    return [*_training(inputs, run), "--resume" if begun else "--overwrite"]


def _trained(run: Path) -> str:
    test = json.loads((run / "results.json").read_text(encoding="utf-8"))["test"]
    names = (checkpoint.LAST, checkpoint.BEST)
    return digest([test, *(checkpoint_digest(run / name) for name in names)])


def _nbody(inputs: Path, out: Path) -> list[str]:
    sizes = ["--train", "8", "--val", "3", "--test", "3"]
    return ["--out", str(out), *sizes, "--cache-starts", "0,10,20"]


def _molecules(inputs: Path, out: Path) -> list[str]:
    sizes = ["--train", "32", "--val", "8", "--test", "8", "--split", "random"]
    return ["--file", str(inputs / "molecules.npz"), "--out", str(out), *sizes]


def _molecules_in_small_shards(arguments: list[str]) -> None:
    """preprocess_qm9 with a shard for every few molecules, in a process of its own."""
    basis_shards.MOLECULES_PER_SHARD = MOLECULES_PER_SHARD
    preprocess_qm9.main(arguments)


def _dynamics(inputs: Path, run: Path) -> list[str]:
    options = ["--steps", "40", "--record-every", "4", "--checkpoint-every", "8"]
    options += ["--ensemble", "langevin", "--timestep", "0.2", "--no-progress", "--compile", "off"]
    potential = inputs / "potential" / checkpoint.BEST
    return ["--checkpoint", str(potential), "--run-dir", str(run), *options]


def _resumed_dynamics(inputs: Path, run: Path) -> list[str]:
    begun = (run / dynamics.STATE).exists()
    return [*_dynamics(inputs, run), "--resume" if begun else "--overwrite"]


def _moved(run: Path) -> str:
    state = dynamics.read_state(run / dynamics.STATE)
    state.pop("cpu_seconds")
    records = [files_digest(run / name) for name in dynamics.RECORDS]
    return digest([state, records])


def _evaluation(inputs: Path, run: Path) -> list[str]:
    potential = inputs / "potential" / checkpoint.BEST
    run.mkdir(exist_ok=True)
    files = ["--input", str(inputs / "frames.xyz"), "--output", str(run / "out.xyz")]
    return [str(potential), *files, "--overwrite"]


def _sampling(inputs: Path, run: Path) -> list[str]:
    run.mkdir(exist_ok=True)
    options = ["--number", "24", "--batch-size", "3", "--max-steps", "24", "--no-progress"]
    trained = inputs / "diffusion" / checkpoint.BEST
    return [str(trained), "--out", str(run / "out.xyz"), *options]


def _resumed_sampling(inputs: Path, run: Path) -> list[str]:
    begun = (run / "out.xyz.unfinished" / "settings.json").exists()
    return [*_sampling(inputs, run), "--resume" if begun else "--overwrite"]


PROGRAMS = (
    SmallProgram(
        "training", without_pictures(train_potential.main), _training, _resumed_training, _trained
    ),
    SmallProgram(
        "preprocessing of molecules",
        _molecules_in_small_shards,
        _molecules,
        _molecules,
        files_digest,
    ),
    SmallProgram("preprocessing of n-body", preprocess_nbody.main, _nbody, _nbody, files_digest),
    SmallProgram("dynamics", without_pictures(run_md.main), _dynamics, _resumed_dynamics, _moved),
    SmallProgram("evaluation", evaluate.main, _evaluation, _evaluation, files_digest),
    SmallProgram("sampling", sample.main, _sampling, _resumed_sampling, files_digest),
)
