"""Predictions of a trained network for structures in memory, many at once.

    import farfield
    from ase.io import read

    model = farfield.load("runs/ethanol/checkpoint_best.pt")
    for result in model.predict(read("molecules.xyz", ":")):
        print(result["energy"], result["forces"])            # eV, eV/Angstrom

What a network predicts decides which predictor :func:`load` returns:

| predicts | reads | gives |
|---|---|---|
| potential | structures of ASE | energy, forces, stress of crystals, charges, dipole |
| properties | molecules of ASE; bonds are found from the geometry | one value for each target |
| nbody | positions, velocities, charges | displacement and velocity change |

Structures share batches with a limit of atoms, open and periodic ones apart. Cost: that of the
network; batches of small molecules are several times faster than one molecule after the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from farfield.common.device import find_device
from farfield.common.precision import PRECISIONS
from farfield.common.trained import TrainedRun
from farfield.dataloader.chemistry.molecule_graphs import graph_rule
from farfield.dataloader.datasets.property_data import read_settings
from farfield.dataloader.from_ase import (
    batch_from_atoms,
    check_structures,
    inputs_held,
    molecule_batch_from_atoms,
)
from farfield.dataloader.particles import check_sample, particle_batch
from farfield.dataloader.sources.qm9_targets import TARGETS
from farfield.dataloader.to_ase import give, rows_of_structures, structure_results
from farfield.models.choices import Registry, check_choice
from farfield.models.compiled.compiled_potential import MODES, CompiledPotential
from farfield.models.elements import refuse_unknown_structures

PREDICTORS: Registry[type[Predictor]] = Registry("predictor")


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    head: str | None = None,
    compile: str = "off",
) -> Predictor:
    """The trained network of a checkpoint, ready to predict.

    path: checkpoint_best.pt or checkpoint_last.pt of a run, or the name of a shipped checkpoint,
    such as "ethanol". dtype: arithmetic of the network, "float32" or "float64". head: of a network
    that was trained on several sets with heads of their own, the name of the set whose energies are
    predicted. compile: "on", "auto" (where it pays) or "off", whether a potential computes by a
    compiled program (``models/compiled/compiled_potential.py``). Raises FileNotFoundError or
    ValueError in one line.
    """
    device = find_device(str(device), "device=")
    run = TrainedRun.read(path, device)
    run.check_head(head)
    made = PREDICTORS.find(run.task().predicts)(run, device, dtype, head)
    made.choose_compile(compile)
    return made


class Predictor(ABC):
    """A trained network and the batches it reads.

    Attributes
        path       of the checkpoint
        config     configuration of its run
        units      name of a prediction -> unit
        network    the network, in evaluation mode
        head       name of the energy head, None where there is one
        max_atoms  largest number of atoms in a batch, unless one structure has more
    """

    reads_structures = True  # of ASE
    sample_words = "a structure of ASE (Atoms)"

    def __init__(self, run: TrainedRun, device: torch.device, dtype: str, head: str | None = None):
        self.run, self.path, self.config, self.head = run, run.path, run.config, head
        self.device, self.dtype_name = device, dtype
        self.max_atoms = run.task().max_evaluation_atoms
        self.network = run.network(device, dtype, head).requires_grad_(False)
        self.dtype = PRECISIONS[dtype]
        self.units: dict[str, str] = {}

    def __repr__(self) -> str:
        """What it predicts, from which checkpoint, and where."""
        gives = ", ".join(f"{name} ({unit})" for name, unit in self.units.items())
        return (
            f"{type(self).__name__}({str(self.path)!r}: {self.config.model.name}, gives {gives}; "
            f"{self.dtype_name} on {self.device})"
        )

    def choose_compile(self, mode: str) -> None:
        """How the network computes; ValueError for anything but "off" where it cannot be compiled.

        mode: name in ``models.compiled.compiled_potential.MODES``.
        """
        check_choice("compile", mode, MODES)
        if mode != "off":
            raise ValueError(
                f"compile {mode!r} is for potentials, and {self.path} predicts "
                f"{', '.join(self.units)}; leave it out"
            )

    def predict(
        self,
        samples: Any,
        max_atoms: int | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Any:
        """Predictions for one sample (a dict), or for a list of them (a list, in their order).

        samples: see the class. max_atoms: limit of a batch; a smaller one needs less memory.
        progress: called after each batch with its number of samples. Raises ValueError for
        anything else than samples.
        """
        if isinstance(samples, (str, Path)):
            raise ValueError(
                f"predict takes samples in memory, got the name {str(samples)!r}; read the file "
                "first: predict(ase.io.read(name, ':'))"
            )
        if self.is_single(samples):
            return self.predict([samples], max_atoms, progress)[0]
        samples = list(samples)
        for index, sample in enumerate(samples):
            if not self.is_single(sample):
                raise ValueError(
                    f"sample {index} must be {self.sample_words}, got {type(sample).__name__}"
                )
        self.check(samples)
        results: list[dict] = [{}] * len(samples)
        for chosen in self._batches(samples, max_atoms or self.max_atoms):
            group = [samples[index] for index in chosen]
            for index, result in zip(chosen, self._predict_batch(group), strict=True):
                results[index] = result
            if progress is not None:
                progress(len(chosen))
        return results

    def check(self, samples: Sequence) -> None:
        """Raise ValueError, with its place in the list, for a sample that the network cannot
        read, or with an element that it was not trained on.
        """
        if not samples:
            return
        check_structures(samples)
        if self.run.elements is not None:
            numbers = np.concatenate([sample.numbers for sample in samples])
            counts = np.array([len(sample) for sample in samples])
            refuse_unknown_structures(numbers, counts, self.run.elements)

    def is_single(self, samples: Any) -> bool:
        """Whether ``samples`` is one structure and not a list of them."""
        return isinstance(samples, Atoms)

    def size(self, sample: Any) -> int:
        """Number of atoms of a sample."""
        return len(sample)

    def kind(self, sample: Any) -> Any:
        """What the samples of one batch have in common: directions that repeat, and which optional
        inputs of the network they have.
        """
        return tuple(sample.pbc.tolist()), inputs_held(sample, self.network.optional_inputs)

    def _batches(self, samples: Sequence, max_atoms: int) -> Iterator[list[int]]:
        """Indices of the samples of every batch: one kind, at most ``max_atoms`` or one sample."""
        kinds: dict[Any, list[int]] = {}
        for index, sample in enumerate(samples):
            kinds.setdefault(self.kind(sample), []).append(index)

        for indices in kinds.values():
            batch, atoms = [], 0
            for index in indices:
                size = self.size(samples[index])
                if batch and atoms + size > max_atoms:
                    yield batch
                    batch, atoms = [], 0
                batch.append(index)
                atoms += size
            yield batch

    @abstractmethod
    def _predict_batch(self, samples: Sequence) -> list[dict]:
        """Predictions for samples of one kind."""


@PREDICTORS.register("potential")
class PotentialPredictor(Predictor):
    """Energy, forces and stress of structures of ASE.

    A result holds energy (float, eV), forces (atoms, 3) where the network predicts them, and for
    crystals and conservative forces stress (6,), ASE's sign and Voigt order. Energies are on the
    scale of the training data: they contain the reference energies of the elements. A network with
    charges adds charges (atoms,), e, and for open structures dipole (3,), e Angstrom.
    """

    def __init__(self, run: TrainedRun, device: torch.device, dtype: str, head: str | None = None):
        super().__init__(run, device, dtype, head)
        self.units = {"energy": "eV", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3"}
        self.units |= {name: output.unit for name, output in self.network.outputs().items()}
        self.cutoff = run.graph_cutoff(self.network)
        self._mode = "off"
        self._compiled: dict[bool, CompiledPotential] = {}  # without and with stress

    def choose_compile(self, mode: str) -> None:
        """How the network computes from now on: name in ``MODES``."""
        check_choice("compile", mode, MODES)
        self._mode, self._compiled = mode, {}

    def kind(self, sample: Atoms) -> Any:
        """As in all predictors; compiled programs want structures of one size besides."""
        return super().kind(sample), len(sample) if self._mode != "off" else None

    def _predict_batch(self, samples: Sequence[Atoms]) -> list[dict]:
        batch = batch_from_atoms(
            samples,
            self.cutoff,
            self.dtype,
            self.device,
            self.network.inputs,
            self.network.optional_inputs,
        )
        crystals = bool(samples[0].pbc.all())
        return structure_results(batch, self._network_for(crystals)(batch))

    def _network_for(self, crystals: bool) -> CompiledPotential:
        """The network, or the same network with stress for crystals."""
        stress = crystals and self.network.forces == "conservative"
        if stress not in self._compiled:
            network = self.network
            if stress:
                network = self.run.network(self.device, self.dtype_name, self.head, stress=True)
                network.requires_grad_(False)
            self._compiled[stress] = CompiledPotential(network, self._mode, print)
        return self._compiled[stress]


@PREDICTORS.register("properties")
class PropertyPredictor(Predictor):
    """Properties of open molecules of ASE.

    A result holds target -> float, or (3,) for a vector, in the units of ``units``. Graphs are made
    as for the training; bonds are found from the geometry where the graph or the network reads
    them.
    """

    def __init__(self, run: TrainedRun, device: torch.device, dtype: str, head: str | None = None):
        super().__init__(run, device, dtype, head)
        self.units = {name: TARGETS[name].unit for name in self.network.readouts}
        self.graph_rule = _rule_of(run)
        self.bond_kinds = bool(self.config.model.get("bond_kinds"))

    def _predict_batch(self, samples: Sequence[Atoms]) -> list[dict]:
        batch = molecule_batch_from_atoms(
            samples,
            self.graph_rule,
            self.bond_kinds,
            self.dtype,
            self.device,
            self.network.inputs,
            self.network.optional_inputs,
        )

        # one dictionary a molecule
        results: list[dict] = [{} for _ in samples]
        for name, values in self.network(batch).items():
            columns = values.double().cpu().numpy()
            give(results, name, columns.tolist() if columns.ndim == 1 else list(columns))
        return results


def _rule_of(run: TrainedRun) -> dict:
    """Settings of the graphs that a network of properties was trained on."""
    data = run.config.get("data", {})
    kind = data.get("graph")
    if kind is None:
        # checkpoints of earlier versions do not say it, but their data folder does
        try:
            kind = read_settings(data["data_path"])["graph_rule"]["kind"]
        except (OSError, ValueError) as error:
            raise ValueError(
                f"checkpoint {run.path} does not say which graphs its molecules had, and its data "
                f"folder cannot be read ({error}); bring the folder back, or train again"
            ) from None
    return graph_rule(kind, run.config.model.get("cutoff", run.cutoff))


@PREDICTORS.register("nbody")
class NBodyPredictor(Predictor):
    """Motion of particles over the horizon of the training.

    A sample is a dict with positions (bodies, 3), velocities (bodies, 3), charges (bodies,), and
    for springs also springs (bodies, bodies). A result holds displacement and velocity_change
    (bodies, 3), and the waypoints on the way where the network predicts them.
    """

    reads_structures = False
    sample_words = "a dict with positions, velocities and charges"

    def __init__(self, run: TrainedRun, device: torch.device, dtype: str, head: str | None = None):
        super().__init__(run, device, dtype, head)
        self.units = dict(run.task().units)

    def check(self, samples: Sequence[Mapping]) -> None:
        """Raise ValueError for a sample that lacks an array or has one of a wrong shape."""
        for index, sample in enumerate(samples):
            check_sample(sample, index)

    def is_single(self, samples: Any) -> bool:
        """Whether ``samples`` is one dict."""
        return isinstance(samples, Mapping)

    def size(self, sample: Mapping) -> int:
        """Number of bodies."""
        return len(sample["charges"])

    def kind(self, sample: Mapping) -> bool:
        """Whether the bodies hang on springs."""
        return "springs" in sample

    def _predict_batch(self, samples: Sequence[Mapping]) -> list[dict]:
        batch = particle_batch(samples).to(device=self.device, dtype=self.dtype)
        results: list[dict] = [{} for _ in samples]
        for name, values in self.network(batch).items():
            give(results, name, rows_of_structures(batch, values))
        return results
