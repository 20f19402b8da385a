"""Molecular dynamics that can be interrupted: integrators of ASE, a record, and a state to resume.

A run folder holds

    log.csv             step, time (fs), potential, kinetic and total energy (eV), temperature (K)
    trajectory.extxyz   the same frames: positions, momenta, energy, forces
    state.npz           everything that decides the next step, how long the two files were when it
                        was written, and their checksums

The temperature is 2 E_kin / (f k). A bath has f = 3 N degrees of freedom for N atoms; at constant
energy the motions that no velocity has are left out (simulate.velocities). The state is written
atomically. A resumed run cuts both files back to it, so that no frame of a killed session is lost
or doubled, and continues bit-identically. A new integrator is one function, registered in
`ENSEMBLES`. Integrators and writers of ASE are imported where they are used: they cost half a
second.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from farfield.common.session import Interrupted, SignalWatch, cpu_seconds
from farfield.dataloader.storage import files
from farfield.dataloader.storage.seals import check_sealed_npz, write_sealed_npz
from farfield.dataloader.structure_inputs import find_input
from farfield.models.choices import Registry
from farfield.simulate.further_content import add_further_content, further_content
from farfield.simulate.md_records import (
    HINT,
    LENGTHS,
    LOG,
    RECORDS,
    STATE,
    SUMS,
    TRAJECTORY,
    check_records,
)
from farfield.simulate.start_checks import check_masses
from farfield.simulate.velocities import (
    counted_degrees,
    degrees_of_freedom,
    draw_velocities,
    kinetic_temperature,
)

if TYPE_CHECKING:
    from ase.md.md import MolecularDynamics

COLUMNS = ("step", "time_fs", "potential_eV", "kinetic_eV", "total_eV", "temperature_K")
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
    LENGTHS,
)
INPUT = "input_"  # prefix of the further inputs of the network in a state
FURTHER = "further"  # what else a structure holds; states of earlier versions lack it


class Ensemble(NamedTuple):
    """An integrator.

    make              (atoms, options, random generator) -> integrator
    conserves_energy  whether the total energy should stay what it is
    """

    make: Callable[..., MolecularDynamics]
    conserves_energy: bool


ENSEMBLES: Registry[Ensemble] = Registry("ensemble")


def nve(atoms: Atoms, options, rng: np.random.Generator) -> MolecularDynamics:
    """Constant energy: velocity Verlet."""
    from ase.md.verlet import VelocityVerlet

    return VelocityVerlet(atoms, options.timestep * units.fs)


ENSEMBLES.register("nve")(Ensemble(nve, conserves_energy=True))


def langevin(atoms: Atoms, options, rng: np.random.Generator) -> MolecularDynamics:
    """Constant temperature: Langevin dynamics, every degree of freedom in the bath."""
    if options.temperature is None:
        raise ValueError(
            "the ensemble langevin needs a temperature; give --temperature in K, or --ensemble nve"
        )
    from ase.md.langevin import Langevin

    bath = {"temperature_K": options.temperature, "friction": options.friction / units.fs}
    return Langevin(atoms, options.timestep * units.fs, **bath, fixcm=False, rng=rng)


ENSEMBLES.register("langevin")(Ensemble(langevin, conserves_energy=False))


class Simulation:
    """One run: :meth:`begin`, or :meth:`verify` and :meth:`restore`, then :meth:`run`.

    atoms      the structure, with a calculator
    options    ensemble, temperature, timestep, friction, steps, record_every, ... of ``run_md``
    folder     of the run; it exists
    seed       of the velocities and the bath
    potential  checksum of the checkpoint that gives the forces; the state of another one is refused
    inputs     names in ``atoms.info`` that the potential reads of this structure; they are kept in
               the state
    compiled   whether the potential runs as compiled code: a resumed run does as the state says,
               since the two differ in the last digits
    """

    def __init__(
        self,
        atoms: Atoms,
        options,
        folder: Path,
        seed: int,
        potential: str,
        inputs: Sequence[str] = (),
        compiled: bool = False,
    ):
        self.atoms, self.options, self.potential = atoms, options, potential
        self.compiled = compiled
        self.inputs = {name: float(find_input(atoms.info, name)) for name in inputs}
        check_masses(atoms)
        further_content(atoms)  # refuses what a state cannot keep, before anything is written
        self.folder = Path(folder)
        self.rng = np.random.default_rng(seed)
        self.integrator = ENSEMBLES[options.ensemble].make(atoms, options, self.rng)
        self.step, self.cpu_seconds = 0, 0.0
        self.degrees = atoms.get_number_of_degrees_of_freedom()
        self.sums = {name: hashlib.sha256() for name in RECORDS}

    def begin(self) -> None:
        """First velocities (drawn where a temperature is given), first record, first state."""
        if self.options.temperature is not None:
            draw_velocities(self.atoms, self.options.temperature, self.rng)
        if ENSEMBLES[self.options.ensemble].conserves_energy:
            self.degrees = degrees_of_freedom(self.atoms)
        for name in RECORDS:
            (self.folder / name).write_text("", encoding="utf-8")
        self._append(LOG, ",".join(COLUMNS) + "\n")
        self._record()
        self.save()

    def run(
        self, shown: Callable[[dict], None] = lambda row: None, pause: int | None = None
    ) -> bool:
        """Integrate to the last step; False if ``pause`` steps ended the session.

        shown: called with the row of the log after every step. Raises ValueError for a structure
        that flies apart, and `Interrupted` after a signal; the last state is on the disk.
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

    def save(self) -> None:
        """Write ``state.npz``, after the records that it counts on."""
        for name in RECORDS:
            files.sync(self.folder / name)

        atoms = self.atoms
        state = {
            "step": self.step,
            "cpu_seconds": self.cpu_seconds,
            "potential": self.potential,
            "compiled": self.compiled,
            "random": json.dumps(self.rng.bit_generator.state),
            "numbers": atoms.numbers,
            "masses": atoms.get_masses(),
            "positions": atoms.positions,
            "momenta": atoms.get_momenta(),
            "cell": atoms.cell.array,
            "pbc": atoms.pbc,
            FURTHER: further_content(atoms),
            LENGTHS: np.array([os.path.getsize(self.folder / name) for name in RECORDS]),
            SUMS: np.array([self.sums[name].hexdigest() for name in RECORDS]),
        }
        state |= {INPUT + name: value for name, value in self.inputs.items()}

        # a killed session leaves the state before, or this one
        write_sealed_npz(self.folder / STATE, state)

    def verify(self, state: dict[str, np.ndarray]) -> None:
        """Raise ValueError for a state that this run cannot continue from."""
        done = int(state["step"])
        if done > self.options.steps:
            raise ValueError(
                f"--steps {self.options.steps}: the run has done {done} already; give as many or "
                "more"
            )
        if str(state["potential"]) != self.potential:
            raise ValueError(
                f"{self.folder / STATE} was made with another potential; give the --checkpoint "
                f"of its start, or {HINT}"
            )

        self.sums = check_records(self.folder, state)

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a verified state."""
        for name, length in zip(RECORDS, state[LENGTHS].tolist(), strict=True):
            os.truncate(self.folder / name, length)
        self.degrees = self._degrees_of_log()
        # they obey their constraints already, to the last bit
        self.atoms.set_positions(state["positions"], apply_constraint=False)
        self.atoms.set_momenta(state["momenta"], apply_constraint=False)
        self.rng.bit_generator.state = json.loads(str(state["random"]))
        self.step, self.cpu_seconds = int(state["step"]), float(state["cpu_seconds"])

    def _degrees_of_log(self) -> int:
        """Degrees of freedom that the log counts with: all its temperatures mean the same."""
        log = read_log(self.folder)
        moving = np.flatnonzero(log["temperature_K"] > 0)
        if not len(moving):
            return self.degrees
        return counted_degrees(log["kinetic_eV"][moving[0]], log["temperature_K"][moving[0]])

    def _stop(self, clock: float) -> None:
        self._spent(clock)
        self.save()

    def _spent(self, clock: float) -> float:
        """Add the CPU time since ``clock``; returns the time now."""
        now = cpu_seconds()
        self.cpu_seconds += now - clock
        return now

    def _row(self) -> dict[str, float]:
        """The present line of the log."""
        potential, kinetic = self.atoms.get_potential_energy(), self.atoms.get_kinetic_energy()
        return {
            "step": self.step,
            "time_fs": self.step * self.options.timestep,
            "potential_eV": potential,
            "kinetic_eV": kinetic,
            "total_eV": potential + kinetic,
            "temperature_K": kinetic_temperature(kinetic, self.degrees),
        }

    def _check(self, row: dict[str, float]) -> None:
        limit, now = self.options.max_temperature, row["temperature_K"]
        if np.isfinite(row["total_eV"]) and now <= limit:
            return
        raise ValueError(
            f"step {self.step}: {now:.4g} K is beyond --max-temperature {limit:g} K, the structure "
            "flies apart; give a shorter --timestep, a lower --temperature, or train on such "
            f"geometries ({self.folder / STATE} holds an earlier step)"
        )

    def _record(self, row: dict[str, float] | None = None) -> None:
        """Append the present frame to log and trajectory."""
        row = row or self._row()
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(
            repr(float(value)) if name != "step" else value for name, value in row.items()
        )
        self._append(LOG, line.getvalue())
        self._append(TRAJECTORY, self._frame(row))

    def _append(self, name: str, text: str) -> None:
        """Append to a record, and to its checksum."""
        content = text.encode("utf-8")
        with open(self.folder / name, "ab") as file:
            file.write(content)
        self.sums[name].update(content)

    def _frame(self, row: dict[str, float]) -> str:
        """The present structure as a frame of extended xyz."""
        from ase.io import write

        atoms = self.atoms
        frame = Atoms(
            atoms.numbers,
            atoms.positions,
            momenta=atoms.get_momenta(),
            cell=atoms.cell,
            pbc=atoms.pbc,
            info=self.inputs,
        )
        frame.calc = SinglePointCalculator(
            frame, energy=row["potential_eV"], forces=atoms.get_forces()
        )
        frame.info.update(step=self.step, time_fs=row["time_fs"])
        text = io.StringIO()
        write(text, frame, format="extxyz", write_results=True)
        return text.getvalue()


def read_state(
    path: Path, inputs: Sequence[str] = (), optional_inputs: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Arrays of ``state.npz``; FileNotFoundError or ValueError in one line.

    inputs: names of what the potential reads of a structure besides its geometry. optional_inputs:
    of what it reads where a structure has it.
    """
    files.read_npz(path, (), HINT)  # whole and readable
    with np.load(path, allow_pickle=False) as archive:
        held = set(archive.files)
    check_sealed_npz(path, held, HINT)
    there = [name for name in optional_inputs if INPUT + name in held]
    names = dict.fromkeys(INPUT + name for name in (*inputs, *there))
    said = held & {"compiled", FURTHER, SUMS}  # earlier versions compiled nothing and kept less
    state = files.read_npz(path, [*STATE_ARRAYS, *sorted(said), *names], HINT)
    return {"compiled": np.array(False)} | state


def atoms_of_state(state: dict[str, np.ndarray]) -> Atoms:
    """The structure that a state is of, with the inputs of its potential in ``info``."""
    names = ("numbers", "positions", "momenta", "masses", "cell", "pbc")
    atoms = Atoms(**{name: state[name] for name in names})
    if FURTHER in state:
        add_further_content(atoms, str(state[FURTHER]))
    for name, value in state.items():
        if name.startswith(INPUT):
            atoms.info[name.removeprefix(INPUT)] = float(value)
    return atoms


def read_log(folder: Path) -> dict[str, np.ndarray]:
    """Columns of ``log.csv``, each (frames,) float64."""
    values = np.loadtxt(Path(folder) / LOG, delimiter=",", skiprows=1, ndmin=2)
    return dict(zip(COLUMNS, values.T, strict=True))
