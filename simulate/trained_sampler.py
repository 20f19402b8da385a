"""A sampler out of checkpoints of train_diffusion, for molecules without a prepared folder.

    sampler = TrainedSampler.open("runs/diffusion/checkpoint_best.pt")
    found = sampler.relax(structures, SampleSettings(seed=0))
    print(found.steps, found.converged, found.structures.positions)

Where nobody names a sampler, the checkpoint decides: ``jt`` for a network that was trained with the
objective joint, ``as`` for a noise network with a time network, ``ddpm`` for a noise network alone.

Whatever cannot be sampled is refused in one line before the first step: structures that repeat in
space, elements that the training data did not have, more atoms than a network takes, numbers that a
network reads and the structures do not have. Cost: that of :mod:`farfield.models.diffusion`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from farfield.common.precision import PRECISIONS
from farfield.common.trained import TrainedRun, diffusion_process
from farfield.dataloader.datasets.diffusion_data import TIME, check_open, open_structures
from farfield.dataloader.datasets.molecule_sizes import MoleculeSizes
from farfield.dataloader.datasets.structure_dataset import read_inputs
from farfield.dataloader.structures import Structures
from farfield.models.batch import AtomBatch
from farfield.models.complete_graphs import ragged_complete_edges
from farfield.models.diffusion.process import (
    DiffusionProcess,
    ProcessOptions,
    check_same_process,
)
from farfield.models.diffusion.samplers import SAMPLERS, Sampler
from farfield.models.diffusion.sampling_run import SampleResult, SamplingOptions
from farfield.models.elements import refuse_unknown_structures
from farfield.models.graph_ops import GraphIndex
from farfield.models.network import DIFFUSION, Network
from farfield.simulate.molecule_noise import MoleculeNoise

PATIENCE = 20  # guesses without a new least, after which a molecule is finished
Progress = Callable[[int, int], None]  # (steps taken, molecules finished)


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """What decides, besides the networks, what becomes of molecules.

    seed        of the noise
    max_steps   largest number of steps; None: those of the process
    start       time of given positions, for the sampler that guesses none
    keep_every  steps between frames of the trajectories; None: no trajectory
    """

    seed: int = 0
    max_steps: int | None = None
    start: int | None = None
    keep_every: int | None = None


@dataclasses.dataclass
class SampledMolecules:
    """What a sampler found.

    Attributes
        structures   molecules with the positions found, Angstrom
        steps        (molecules,) int64, steps taken
        converged    (molecules,) bool, whether they came to an end
        frames       for every molecule, positions (frames, atoms, 3) along the way, or None
        frame_steps  for every molecule, the steps (frames,) after which they were, or None
    """

    structures: Structures
    steps: np.ndarray
    converged: np.ndarray
    frames: list[np.ndarray] | None = None
    frame_steps: list[np.ndarray] | None = None


class TrainedSampler:
    """Attributes

    run      of the noise network
    sampler  with its networks and their process
    sizes    range of sizes of the training molecules
    training training molecules, None where their folder is not there (then ``missing`` says why)
    elements atomic numbers that all networks were trained on: as their checkpoints say, else those
             of the training molecules; None where neither is known
    """

    def __init__(
        self,
        run: TrainedRun,
        sampler: Sampler,
        device: torch.device,
        dtype: torch.dtype,
        time_run: TrainedRun | None = None,
    ):
        self.run, self.sampler, self.device, self.dtype = run, sampler, device, dtype
        data = run.config.data
        self.sizes = MoleculeSizes(data.atoms, data.heavy_atoms)
        self.training: Structures | None = None
        self.missing = ""
        try:
            molecules = open_structures(data.data_path, "train")
            self.training = molecules[self.sizes.chosen(molecules)]
        except (OSError, ValueError) as error:
            self.missing = str(error)

        # checkpoints of earlier versions do not say elements, the training molecules do
        recorded = [one.elements for one in (run, time_run) if one is not None and one.elements]
        if not recorded and self.training is not None:
            recorded = [self.training.elements.tolist()]
        self.elements = sorted(set.intersection(*map(set, recorded))) if recorded else None

    @classmethod
    def open(
        cls,
        checkpoint: str | Path,
        name: str | None = None,
        time_checkpoint: str | Path | None = None,
        convergence_step: int = 0,
        patience: int | None = PATIENCE,
        variance: str = ProcessOptions.variance,
        device: torch.device | str = "cpu",
        dtype: str = "float32",
    ) -> TrainedSampler:
        """A sampler by its name in ``SAMPLERS`` (None: what the checkpoint is for).

        time_checkpoint: of the time network, for the samplers that ask one. convergence_step,
        patience: see ``Sampler``. variance: of fresh noise, a name in ``VARIANCES``; zero relaxes
        best. Raises FileNotFoundError or ValueError in one line, also for checkpoints that do not
        fit the sampler or each other.
        """
        run, process = read_diffusion(checkpoint, device)
        process = DiffusionProcess(dataclasses.replace(process.options, variance=variance))
        network = run.network(device, dtype)
        name = name or usual_sampler(network, time_checkpoint)
        check_gives(run, network, "noise", name)

        time_run, time_network = None, None
        if SAMPLERS.find(name).asks_time_network:
            time_run = open_time_run(process, name, time_checkpoint, device)
            time_network = time_run.network(device, dtype)
            check_gives(time_run, time_network, "time", name)
        elif time_checkpoint is not None:
            raise ValueError(
                f"sampler {name} asks no time network; leave --time-checkpoint out, or give "
                "--sampler as"
            )
        elif name == "jt":
            check_gives(run, network, "time", name)
        sampler = SAMPLERS[name](process, network, time_network, convergence_step, patience)
        return cls(run, sampler, torch.device(device), PRECISIONS[dtype], time_run)

    @property
    def networks(self) -> list[Network]:
        """The noise network, and the time network where there is one."""
        both = (self.sampler.noise_network, self.sampler.time_network)
        return [network for network in both if network is not None]

    @property
    def inputs(self) -> list[str]:
        """Numbers of a molecule that the networks read besides its geometry and the time."""
        names = [name for network in self.networks for name in network.inputs if name != TIME]
        return list(dict.fromkeys(names))

    def describe(self) -> str:
        """Sampler, networks and process, a line."""
        names = " and ".join(network.config["name"] for network in self.networks)
        process = self.sampler.process.options
        end = f"t <= {self.sampler.convergence_step}"
        if self.sampler.guesses_every_step and self.sampler.patience is not None:
            end += f" or after {self.sampler.patience} guesses that were no new least"
        return (
            f"sampler {self.sampler.name}, {names}, {process.schedule} noise in "
            f"{process.time_steps} steps, fresh noise of variance {process.variance}, finished at "
            f"{end}"
        )

    def check(self, structures: Structures) -> None:
        """Raise ValueError in one line for molecules that the networks cannot sample."""
        check_open(structures)
        if self.elements is not None:
            refuse_unknown_structures(structures.atomic_numbers, structures.counts, self.elements)

        limits = [getattr(network.options, "max_atoms", None) for network in self.networks]
        limit = min((limit for limit in limits if limit is not None), default=None)
        if limit is not None and structures.counts.max() > limit:
            place = int(structures.counts.argmax())
            raise ValueError(
                f"structure {place} has {structures.counts[place]} atoms, the network takes at "
                f"most {limit}; leave it out, or train with a larger --max-atoms"
            )
        read_inputs(structures, self.inputs, self.dtype)

    def check_start(self, start: int | None) -> None:
        """Raise ValueError in one line unless the time of given positions fits the sampler."""
        last = self.sampler.process.last

        # ddpm reads the time, the other samplers guess it from the positions
        if self.sampler.name == "ddpm" and start is None:
            raise ValueError(
                "sampler ddpm guesses no time; give --start T, the time step of the positions in "
                f"0 .. {last}, or another sampler"
            )
        if self.sampler.name != "ddpm" and start is not None:
            raise ValueError(
                f"sampler {self.sampler.name} guesses the time itself; leave --start out, or give "
                "--sampler ddpm"
            )

        if start is not None and start > last:
            raise ValueError(
                f"--start must be in 0 .. {last}, the times of the process, got {start}"
            )

    def generate(
        self,
        structures: Structures,
        settings: SampleSettings,
        numbers: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> SampledMolecules:
        """Molecules with the elements of ``structures``, whose positions are not read.

        numbers: of the molecules among all of a run, for their noise (None: 0, 1, ...). progress:
        called after every step.
        """
        batch = self._batch(structures, structures.positions)
        options = self._options(structures, settings, numbers, progress)
        found = self.sampler.generate(batch, options)
        return sampled(structures, found, settings.keep_every, np.zeros((len(structures), 3)))

    def relax(
        self,
        structures: Structures,
        settings: SampleSettings,
        numbers: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> SampledMolecules:
        """Molecules out of the positions of ``structures``; arguments as in :meth:`generate`."""
        # float32 resolves most near the origin
        centres = mean_positions(structures)
        positions = structures.positions - by_atom(structures, centres)
        if settings.start is not None:
            # the process shrinks what it adds noise to; displaced structures have their size
            positions = positions * float(self.sampler.process.alpha_bar[settings.start].sqrt())
        batch = self._batch(structures, positions)
        options = self._options(structures, settings, numbers, progress)
        found = self.sampler.relax(batch, settings.start, options)
        return sampled(structures, found, settings.keep_every, centres)

    def _batch(self, structures: Structures, positions: np.ndarray) -> AtomBatch:
        """Molecules with all pairs as edges, in the type of the networks."""
        counts = torch.from_numpy(structures.counts)
        batch = AtomBatch(
            GraphIndex(*ragged_complete_edges(counts), counts),
            positions=torch.from_numpy(positions).to(self.dtype),
            atomic_numbers=torch.from_numpy(structures.atomic_numbers),
            graph_features=read_inputs(structures, self.inputs, self.dtype),
        )
        return batch.to(self.device)

    def _options(
        self,
        structures: Structures,
        settings: SampleSettings,
        numbers: Sequence[int] | None,
        progress: Progress | None,
    ) -> SamplingOptions:
        numbers = range(len(structures)) if numbers is None else numbers
        return SamplingOptions(
            max_steps=settings.max_steps,
            keep_every=settings.keep_every,
            noise=MoleculeNoise(structures.counts, numbers, settings.seed),
            progress=progress,
        )


def read_diffusion(
    checkpoint: str | Path, device: torch.device | str
) -> tuple[TrainedRun, DiffusionProcess]:
    """A run of train_diffusion and its process; ValueError for the run of another task."""
    run = TrainedRun.read(checkpoint, device)
    run.check_predicts(DIFFUSION)
    return run, diffusion_process(run.config)


def open_time_run(
    process: DiffusionProcess,
    sampler: str,
    checkpoint: str | Path | None,
    device: torch.device | str,
) -> TrainedRun:
    """The run of a time network; ValueError unless it belongs to the process."""
    if checkpoint is None:
        raise ValueError(
            f"sampler {sampler} asks a time network; give --time-checkpoint FILE, of a run of "
            "train_diffusion --objective time on the same process, or --sampler ddpm"
        )
    run, other = read_diffusion(checkpoint, device)
    try:
        check_same_process(process.options, other.options)
    except ValueError as error:
        raise ValueError(f"--time-checkpoint {checkpoint}: {error}") from None
    return run


def usual_sampler(network: Network, time_checkpoint: str | Path | None) -> str:
    """Name of the sampler that networks were trained for."""
    if time_checkpoint is not None:
        return "as"
    return "jt" if "time" in network.outputs() else "ddpm"


def check_gives(run: TrainedRun, network: Network, output: str, sampler: str) -> None:
    """Raise ValueError unless the network of a run predicts what the sampler asks of it."""
    given = list(network.outputs())
    if output in given:
        return
    if sampler == "jt":
        hint = "give a run of train_diffusion --objective joint, or --sampler ddpm"
    elif output == "noise":
        hint = "give a run of train_diffusion --objective noise, and this one as --time-checkpoint"
    else:
        hint = "give a run of train_diffusion --objective time"
    raise ValueError(
        f"{run.path} predicts {' and '.join(given)}, sampler {sampler} needs {output} of it; {hint}"
    )


def mean_positions(structures: Structures) -> np.ndarray:
    """Mean of the positions of each structure (structures, 3)."""
    sums = np.add.reduceat(structures.positions, structures.offsets[:-1])
    return sums / structures.counts[:, None]


def by_atom(structures: Structures, values: np.ndarray) -> np.ndarray:
    """Values of structures (structures, ...) for each of their atoms (atoms, ...)."""
    return values[structures.structure_of_atom]


def sampled(
    structures: Structures, found: SampleResult, keep_every: int | None, centres: np.ndarray
) -> SampledMolecules:
    """What a sampler found of ``structures``, moved from the origin to ``centres``."""
    shift = by_atom(structures, centres)
    positions = found.batch.positions.double().cpu().numpy() + shift
    steps, converged = found.steps.cpu().numpy(), found.converged.cpu().numpy()
    molecules = SampledMolecules(
        dataclasses.replace(structures, positions=positions, check=False), steps, converged
    )
    if found.trajectory is None:
        return molecules

    # frames after 0, k, 2 k, ... steps, and at the end of each molecule
    kept = np.stack([frame.double().cpu().numpy() + shift for frame in found.trajectory])
    molecules.frames, molecules.frame_steps = [], []
    for place, last in enumerate(steps.tolist()):
        rows = slice(*structures.offsets[place : place + 2])
        regular = np.arange(0, last, keep_every)
        molecules.frames.append(np.concatenate([kept[: len(regular), rows], positions[None, rows]]))
        molecules.frame_steps.append(np.append(regular, last))
    return molecules
