"""Molecular dynamics that can be interrupted: integrators of ASE, a record of what happened, and a
state to go on from bit-identically.

A run folder holds

    log.csv             step, time (fs), potential, kinetic and total energy (eV), temperature (K; 3
                        atoms degrees of freedom, as in ASE)
    trajectory.extxyz   the same frames: positions, momenta, energy, forces
    state.npz           everything that decides the next step, and how long both files were when it
                        was written

The state is written atomically; going on cuts both files back to it, so that frames of a killed
session are neither lost nor doubled. Only `ENSEMBLES` knows integrators: a new one is a function
there. Integrators and writers of ASE are imported where they are used: they cost half a second.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from farfield.common.session import Interrupted, SignalWatch, cpu_seconds
from farfield.dataloader.storage import files

if TYPE_CHECKING:
    from ase.md.md import MolecularDynamics

LOG, TRAJECTORY, STATE = "log.csv", "trajectory.extxyz", "state.npz"
RECORDS = (LOG, TRAJECTORY)
COLUMNS = ("step", "time_fs", "potential_eV", "kinetic_eV", "total_eV", "temperature_K")
MEND = "start again with --overwrite"


def nve(atoms: Atoms, options, rng: np.random.Generator) -> MolecularDynamics:
    """Constant energy: velocity Verlet."""
    from ase.md.verlet import VelocityVerlet

    return VelocityVerlet(atoms, options.timestep * units.fs)


def langevin(atoms: Atoms, options, rng: np.random.Generator) -> MolecularDynamics:
    """Constant temperature: Langevin dynamics, every degree of freedom in the bath."""
    if options.temperature is None:
        raise ValueError(
            "the ensemble langevin needs a temperature; give --temperature in K, or --ensemble nve"
        )
    from ase.md.langevin import Langevin

    bath = {"temperature_K": options.temperature, "friction": options.friction / units.fs}
    return Langevin(atoms, options.timestep * units.fs, **bath, fixcm=False, rng=rng)


class Ensemble(NamedTuple):
    """How an integrator is made from (atoms, options, random generator), and whether the total
    energy should stay what it is.
    """

    make: Callable[..., MolecularDynamics]
    conserves_energy: bool


ENSEMBLES = {"nve": Ensemble(nve, True), "langevin": Ensemble(langevin, False)}


def draw_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator):
    """Maxwell-Boltzmann velocities of exactly this temperature (K), without drift and, for open
    structures, without rotation.
    """
    from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta

    thermalize_momenta(atoms, temperature, rng=rng)
    if len(atoms) > 1:
        Stationary(atoms, preserve_temperature=False)
        if not atoms.pbc.any():
            ZeroRotation(atoms, preserve_temperature=False)
    now = atoms.get_temperature()
    if now > 0:
        atoms.set_momenta(atoms.get_momenta() * (temperature / now) ** 0.5)


class Simulation:
    """``atoms`` (with a calculator) under ``options``: ensemble, temperature, timestep, friction,
    steps, record_every, ... of ``run_md``.

    :meth:`begin`, or :meth:`verify` and :meth:`restore`, then :meth:`run`. ``folder`` is there
    already. ``potential`` is the checksum of what the forces come from; a state of another one is
    refused.
    """

    def __init__(self, atoms: Atoms, options, folder: Path, seed: int, potential: str):
        self.atoms, self.options, self.folder, self.potential = (
            atoms,
            options,
            Path(folder),
            potential,
        )
        self.rng = np.random.default_rng(seed)
        self.integrator = ENSEMBLES[options.ensemble].make(atoms, options, self.rng)
        self.step, self.cpu_seconds = 0, 0.0

    def begin(self):
        """Velocities of the start (those of the structure if no temperature was given) and the
        first record.
        """
        if self.options.temperature is not None:
            draw_velocities(self.atoms, self.options.temperature, self.rng)
        (self.folder / LOG).write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
        (self.folder / TRAJECTORY).write_text("", encoding="utf-8")
        self._record()
        self.save()

    def run(
        self, shown: Callable[[dict], None] = lambda row: None, pause: int | None = None
    ) -> bool:
        """Integrate to the last step; ``shown(row)`` after every step. False if ``pause`` steps
        ended the session.

        Raises ``ValueError`` for a structure that flies apart, and `Interrupted` after a signal;
        the last state is on the disk.
        """
        options, clock = self.options, cpu_seconds()
        last = options.steps if pause is None else min(options.steps, self.step + pause)
        with SignalWatch() as signals:
            while self.step < last:
                self.integrator.step()
                self.step += 1
                row = self._row()
                self._check(row)
                if self.step % options.record_every == 0:
                    self._record(row)
                if self.step % options.checkpoint_every == 0:
                    clock = self._spent(clock)
                    self.save()
                shown(row)
                if signals.stop is not None:
                    self._stop(clock)
                    raise Interrupted(
                        f"{signals.stop}: saved {self.folder / STATE} at step {self.step}"
                    )
            self._stop(clock)
        return self.step >= options.steps

    def _stop(self, clock: float):
        self._spent(clock)
        self.save()

    def _spent(self, clock: float) -> float:
        now = cpu_seconds()
        self.cpu_seconds += now - clock
        return now

    def _row(self) -> dict:
        atoms = self.atoms
        potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
        values = (
            self.step,
            self.step * self.options.timestep,
            potential,
            kinetic,
            potential + kinetic,
            atoms.get_temperature(),
        )
        return dict(zip(COLUMNS, values, strict=True))

    def _check(self, row: dict):
        limit, now = self.options.max_temperature, row["temperature_K"]
        if not (np.isfinite(row["total_eV"]) and now <= limit):
            saved = f"{self.folder / STATE} holds an earlier step"
            raise ValueError(
                f"step {self.step}: {now:.4g} K is beyond --max-temperature {limit:g} K, the "
                "structure flies apart; give a shorter "
                f"--timestep, a lower --temperature, or train on such geometries ({saved})"
            )

    def _record(self, row: dict | None = None):
        """Append the present frame to log and trajectory."""
        import ase.io

        row = row or self._row()
        atoms = self.atoms
        frame = Atoms(
            atoms.numbers,
            atoms.positions,
            momenta=atoms.get_momenta(),
            cell=atoms.cell,
            pbc=atoms.pbc,
        )
        frame.calc = SinglePointCalculator(
            frame, energy=row["potential_eV"], forces=atoms.get_forces()
        )
        frame.info.update(step=self.step, time_fs=row["time_fs"])
        text = io.StringIO()
        ase.io.write(text, frame, format="extxyz", write_results=True)
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(
            repr(float(value)) if name != "step" else value for name, value in row.items()
        )
        for name, content in zip(RECORDS, (line, text), strict=True):
            with open(self.folder / name, "a", encoding="utf-8") as file:
                file.write(content.getvalue())

    def save(self):
        """Write ``state.npz``, after what it counts on."""
        for name in RECORDS:
            files.sync(self.folder / name)
        atoms = self.atoms
        state = {
            "step": self.step,
            "cpu_seconds": self.cpu_seconds,
            "potential": self.potential,
            "random": json.dumps(self.rng.bit_generator.state),
            "numbers": atoms.numbers,
            "masses": atoms.get_masses(),
            "positions": atoms.positions,
            "momenta": atoms.get_momenta(),
            "cell": atoms.cell.array,
            "pbc": atoms.pbc,
            "lengths": np.array([os.path.getsize(self.folder / name) for name in RECORDS]),
        }
        with files.atomic_write(self.folder / STATE) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{name: np.asarray(value) for name, value in state.items()})

    def verify(self, state: dict[str, np.ndarray]):
        """``ValueError`` for a state of another potential or beyond the planned steps, and if log
        or trajectory lack what it counts on.
        """
        if int(state["step"]) > self.options.steps:
            raise ValueError(
                f"--steps {self.options.steps}: the run has done {int(state['step'])} already; "
                "give as many or more"
            )
        if str(state["potential"]) != self.potential:
            raise ValueError(
                f"{self.folder / STATE} was made with another potential; give the --checkpoint "
                f"of its start, or {MEND}"
            )
        for name, length in zip(RECORDS, state["lengths"].tolist(), strict=True):
            file = self.folder / name
            found = os.path.getsize(file) if file.is_file() else 0
            if found < length:
                raise ValueError(
                    f"{file} has {found} bytes, {STATE} counts on {length}; bring it back, "
                    f"or {MEND}"
                )

    def restore(self, state: dict[str, np.ndarray]):
        """Go on from a verified state."""
        for name, length in zip(RECORDS, state["lengths"].tolist(), strict=True):
            os.truncate(self.folder / name, length)
        self.atoms.set_positions(state["positions"])
        self.atoms.set_momenta(state["momenta"])
        self.rng.bit_generator.state = json.loads(str(state["random"]))
        self.step, self.cpu_seconds = int(state["step"]), float(state["cpu_seconds"])


STATE_ARRAYS = (
    "step",
    "cpu_seconds",
    "potential",
    "random",
    "numbers",
    "masses",
    "positions",
    "momenta",
    "cell",
    "pbc",
    "lengths",
)


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Arrays of ``state.npz``; ``FileNotFoundError`` or ``ValueError`` in one line."""
    return files.read_npz(path, STATE_ARRAYS, MEND)


def atoms_of_state(state: dict[str, np.ndarray]) -> Atoms:
    """The structure that a state is of."""
    names = ("numbers", "positions", "momenta", "masses", "cell", "pbc")
    return Atoms(**{name: state[name] for name in names})


def read_log(folder: Path) -> dict[str, np.ndarray]:
    """Columns of ``log.csv``, each (frames,) float64."""
    values = np.loadtxt(Path(folder) / LOG, delimiter=",", skiprows=1, ndmin=2)
    return dict(zip(COLUMNS, values.T, strict=True))
