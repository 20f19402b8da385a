"""The loop of sample and relax_diffusion: batch after batch, each kept as soon as it is finished.

    job = SamplingJob(sampler, settings, start, relax=True, batch_size=64)
    folder = BatchFolder("relaxed.xyz", job.recorded(), resume=False, overwrite=False)
    found = run_job(job, folder)

Noise belongs to (seed, number of the molecule), batches to their place in the list: an interrupted
run that goes on writes the file of the uninterrupted one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from farfield.common.folder_lock import only_process
from farfield.common.log import count_bar
from farfield.common.session import Interrupted, SignalWatch
from farfield.dataloader.from_ase import read_structures, structures_from_atoms
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures
from farfield.simulate.batch_folder import BatchFolder
from farfield.simulate.molecule_files import atoms_of, write_xyz, xyz_text
from farfield.simulate.trained_sampler import (
    Progress,
    SampledMolecules,
    SampleSettings,
    TrainedSampler,
)

# found, start, places of the batch -> further values of each molecule by name
Remarks = Callable[[SampledMolecules, Structures, np.ndarray], dict[str, np.ndarray]]


def no_remarks(
    found: SampledMolecules, start: Structures, places: np.ndarray
) -> dict[str, np.ndarray]:
    """Nothing further."""
    return {}


@dataclasses.dataclass(frozen=True)
class SamplingJob:
    """Molecules that are generated, or relaxed, and how.

    start       molecules: elements, and where they are relaxed the positions
    relax       whether the positions are read
    remarks     what a file says of a molecule besides steps and convergence
    trajectory  folder for the way of every molecule, or None
    """

    sampler: TrainedSampler
    settings: SampleSettings
    start: Structures
    relax: bool
    batch_size: int
    remarks: Remarks = no_remarks
    trajectory: Path | None = None

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-len(self.start) // self.batch_size)

    def places(self, batch: int) -> np.ndarray:
        """Places of the molecules of a batch."""
        first = batch * self.batch_size
        return np.arange(first, min(first + self.batch_size, len(self.start)))

    def recorded(self, **more: object) -> dict[str, object]:
        """What decides the molecules, for the comparison with a run that is resumed."""
        sampler = self.sampler.sampler

        # batch_size too: the files of batches are joined by their place in the list
        return {
            "relax": self.relax,
            "sampler": sampler.name,
            "convergence_step": sampler.convergence_step,
            "patience": sampler.patience,
            "variance": sampler.process.options.variance,
            "molecules": self.start.data_hash,
            "batch_size": self.batch_size,
            "dtype": str(self.sampler.dtype),
            **dataclasses.asdict(self.settings),
            **more,
        }

    def run(self, batch: int, progress: Progress) -> SampledMolecules:
        """Sample a batch."""
        places = self.places(batch)
        sample = self.sampler.relax if self.relax else self.sampler.generate
        return sample(self.start[places], self.settings, places.tolist(), progress)


def run_job(job: SamplingJob, folder: BatchFolder, show: bool = True) -> SampledMolecules:
    """All molecules of a job, in order; finished batches of the folder are not made again.

    show: a progress bar. A signal raises Interrupted between two steps; the batches that were
    finished before stay. ValueError while another process works at the same file.
    """
    with only_process(folder.folder, "--out"):
        return _run_alone(job, folder, show)


def _run_alone(job: SamplingJob, folder: BatchFolder, show: bool) -> SampledMolecules:
    """The same, where no other process works at the file."""
    folder.begin()
    if job.trajectory is not None:
        files.make_folder(job.trajectory)

    done = sum(len(job.places(batch)) for batch in range(job.batches) if folder.has(batch))
    what = "relax" if job.relax else "sample"
    bar = count_bar(len(job.start), what, "molecules", initial=done, disable=not show)
    with SignalWatch() as signals, bar:
        for batch in range(job.batches):
            if not folder.has(batch):
                watch = _Watch(bar, signals, f"{done} of {len(job.start)} molecules are finished")
                write_batch(job, folder, batch, job.run(batch, watch))
                watch.end(len(job.places(batch)))
                done += len(job.places(batch))

    folder.join(job.batches)
    return read_sampled(folder.out, job.start)


class _Watch:
    """Moves the bar with every step of a batch, and ends the run where a signal has come."""

    def __init__(self, bar, signals: SignalWatch, state: str):
        self.bar, self.signals, self.state, self.shown = bar, signals, state, 0

    def __call__(self, step: int, finished: int) -> None:
        self.bar.set_postfix({"step": step}, refresh=False)
        self.end(finished)
        if self.signals.stop is not None:
            raise Interrupted(f"{self.signals.stop}: {self.state}")

    def end(self, finished: int) -> None:
        """So many molecules of the batch are finished."""
        self.bar.update(finished - self.shown)
        self.shown = finished


def write_batch(job: SamplingJob, folder: BatchFolder, batch: int, found: SampledMolecules) -> None:
    """Write the trajectories of a batch, then its molecules."""
    places = job.places(batch)
    if job.trajectory is not None:
        for number, place in enumerate(places.tolist()):
            _write_way(job.trajectory / f"molecule_{place:06d}.xyz", found, number)

    info = {"index": places.tolist(), "steps": found.steps.tolist()}
    info["converged"] = found.converged.tolist()
    more = job.remarks(found, job.start[places], places)
    info |= {name: values.round(6).tolist() for name, values in more.items()}
    folder.add(batch, xyz_text(atoms_of(found.structures, info)))


def _write_way(path: Path, found: SampledMolecules, number: int) -> None:
    """Frames of one molecule; their info says after how many steps they were."""
    frames, steps = found.frames[number], found.frame_steps[number].tolist()
    one = atoms_of(found.structures[[number]])[0]
    ways = []
    for positions, step in zip(frames, steps, strict=True):
        frame = one.copy()
        frame.positions, frame.info["step"] = positions, step
        ways.append(frame)
    write_xyz(path, ways)


def read_sampled(path: Path, start: Structures) -> SampledMolecules:
    """What :func:`run_job` wrote; ``ValueError`` unless it is the molecules of ``start``."""
    atoms = read_structures(path, option="--out")
    structures = structures_from_atoms(atoms)
    if not (
        np.array_equal(structures.counts, start.counts)
        and np.array_equal(structures.atomic_numbers, start.atomic_numbers)
    ):
        raise ValueError(f"{path} is damaged (it holds other molecules); add --overwrite")
    return SampledMolecules(
        structures,
        steps=np.array([one.info["steps"] for one in atoms], np.int64),
        converged=np.array([one.info["converged"] for one in atoms], bool),
    )
