"""Sets of structures with long-ranged labels: read, split and put in batches.

A :class:`Case` says how a set is read; ``far_sight_cases.py`` lists them. Four rules of splitting:

    random_split     one file, random parts
    dimer_split      successive separations of each dimer: the short ones train, the next one
                     validates, the long ones test
    lode_split       ten training frames and three test frames in files of their own, in a periodic
                     box; the second farthest training frame validates
    fixed_split      files of train, val and test, as published

Cost: reading, and one search of neighbours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.reference_energies import fit_references, reference_energy
from farfield.dataloader.sources.npz import ABSENT, read_npz
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import SplitOptions, make_split
from farfield.dataloader.structure_inputs import find_input
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units
from farfield.train.data_order import EpochLoader

EVALUATION_STRUCTURES = 200  # in a batch of an evaluation
CHARGE = "total_charge"  # input of a structure, e

# Separations of a dimer, by rising distance: 0 .. 6 train, 7 validates, 8 .. 12 test.
SEPARATIONS, FIRST_VALIDATED, FIRST_TESTED = 13, 7, 8
BOX_LENGTH = 30.0  # Angstrom, of the cube that repeats the dimers of LODE
NO_PLACE = "put it there, or give --data-path or --sets"


@dataclasses.dataclass(frozen=True)
class Case:
    """One data set: its file, its split, and what is set for all networks alike.

    Arguments
        file            name of the npz file, or its beginning where every part has a file
        read            rule of the split: (case, folder, seed) -> structures of every part
        sizes           structures that train, validate and test, where the split is random
        bar             what is asked for (see ``bench_far_sight.py``), or None
        cutoff          of the near field, Angstrom
        forces          whether forces are learned
        binding         energies are E(structure) - E(parts); there are no reference energies,
                        because they vanish at large separation
        charge          where the total charge of a structure comes from: "file", "neutral" (it is
                        0 everywhere), or None for networks that get none
        conditioned     whether features are conditioned on the total charge
        fragment_charges  charges of the two fragments of a structure, e: the tail of the energy
                        is measured after training
        multipoles      the test file has dipoles and Born charges to compare with
        more_tests      further files that are tested, by their names without the ending
        lmax            highest degree of the features of all networks
        schedule, channels   of the hybrid; other networks match its number of weights
        batch_size, validate_every   structures in a batch, epochs between validations
        loss, model, training   options that differ from the common ones, for all networks
        standing_waves  options of the fixed grid of waves that differ from the common ones
    """

    file: str
    read: Callable[[Case, Path, int], dict[str, Structures]]
    sizes: tuple[int, int, int] = (0, 0, 0)
    bar: float | None = None
    cutoff: float = 5.0
    forces: bool = True
    binding: bool = False
    charge: str | None = None
    conditioned: bool = False
    fragment_charges: tuple[float, float] | None = None
    multipoles: bool = False
    more_tests: tuple[str, ...] = ()
    lmax: int = 2
    schedule: str = "hybrid-first-order2"
    channels: int = 16
    batch_size: int = 32
    validate_every: int = 5
    loss: dict = dataclasses.field(
        default_factory=lambda: {"weight_energy": 1.0, "weight_forces": 1.0}
    )
    model: dict = dataclasses.field(default_factory=dict)
    training: dict = dataclasses.field(default_factory=dict)
    standing_waves: dict = dataclasses.field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Numbers of a structure that batches hold."""
        return () if self.charge is None else (CHARGE,)


def file_below(folder: str | Path, name: str) -> Path:
    """The file ``name`` anywhere below ``folder``; FileNotFoundError if there is none."""
    found = sorted(Path(folder).rglob(name))
    if not found:
        raise FileNotFoundError(f"there is no {name} below {folder}; {NO_PLACE}")
    return found[0]


def read_file(case: Case, path: Path) -> Structures:
    """All structures of one file, open, with the total charge that the case names."""
    keys = {} if case.forces else {"forces": ABSENT}
    structures = read_npz(path, Units("eV", "Angstrom"), keys, periodic=False)
    if case.charge is None:
        return structures

    charge = find_input(structures.extra, CHARGE)
    if case.charge == "neutral":
        charge = np.zeros(len(structures))
    if charge is None:
        raise ValueError(f"{path} has no array 'charge' with the total charge of each structure")
    return dataclasses.replace(structures, extra={**structures.extra, CHARGE: charge})


def random_split(case: Case, folder: Path, seed: int) -> dict[str, Structures]:
    """Random parts of one file."""
    structures = read_file(case, file_below(folder, case.file))
    train, val, test = case.sizes
    options = SplitOptions(train=train, val=val, test=test, seed=seed)
    split = make_split("random", len(structures), structures.data_hash, options)
    return {part: structures[getattr(split, part)] for part in SPLITS}


def dimer_split(case: Case, folder: Path, seed: int) -> dict[str, Structures]:
    """Binding energies of dimers, split by separation."""
    return by_separation(with_binding_energies(read_file(case, file_below(folder, case.file))))


def with_binding_energies(structures: Structures) -> Structures:
    """Structures whose energy is theirs less the energies of their two parts."""
    energy = structures.energy - structures.extra["E_A"] - structures.extra["E_B"]
    return dataclasses.replace(structures, energy=energy)


def by_separation(structures: Structures) -> dict[str, Structures]:
    """Dimers split by distance: the shortest train, the next one validates, the longest test.

    The file holds ``SEPARATIONS`` successive separations of each dimer; ValueError otherwise.
    """
    if len(structures) % SEPARATIONS or not len(structures):
        raise ValueError(
            f"the dimers must come in groups of {SEPARATIONS} separations, got {len(structures)} "
            "structures"
        )
    distance = structures.extra["distance"].reshape(-1, SEPARATIONS)
    if not (np.diff(distance) > 0).all():
        raise ValueError("the separations of every dimer must rise; give the file in its order")

    place = np.tile(np.arange(SEPARATIONS), len(distance))
    train = place < FIRST_VALIDATED
    test = place >= FIRST_TESTED
    chosen = {"train": train, "val": ~train & ~test, "test": test}
    return {part: structures[np.flatnonzero(mask)] for part, mask in chosen.items()}


def lode_split(case: Case, folder: Path, seed: int) -> dict[str, Structures]:
    """Binding energies of one dimer in a periodic box.

    The test frames are farther apart than all that train, so what validates should be far as well;
    but the farthest frame holds most of what is known of the tail, so it trains, and the second
    farthest validates.
    """
    files = {part: file_below(folder, f"{case.file}_{part}.npz") for part in ("train", "test")}
    known, test = (
        in_box(with_binding_energies(read_file(case, path)), BOX_LENGTH) for path in files.values()
    )
    if len(known) < 3:
        raise ValueError(f"{files['train']} must hold at least 3 frames, got {len(known)}")

    order = np.argsort(known.extra["distance"], kind="stable")
    return {"train": known[np.delete(order, -2)], "val": known[order[-2:-1]], "test": test}


def in_box(structures: Structures, length: float) -> Structures:
    """The same structures, repeated in all directions by a cube; length: its edge, Angstrom."""
    return dataclasses.replace(
        structures,
        cell=np.broadcast_to(length * np.eye(3), (len(structures), 3, 3)).copy(),
        periodic=np.ones((len(structures), 3), bool),
    )


def fixed_split(case: Case, folder: Path, seed: int) -> dict[str, Structures]:
    """Parts from files of their own, and the further tests.

    Where charges differ, every charge has its own zero of energy, from the training part: the
    mean of what the reference energies of the elements leave.
    """
    names = {part: f"{case.file}_{part}" for part in SPLITS}
    names |= {name: name for name in case.more_tests}
    parts = {
        part: read_file(case, file_below(folder, f"{name}.npz")) for part, name in names.items()
    }
    return without_charge_offsets(parts) if case.charge == "file" else parts


def without_charge_offsets(parts: dict[str, Structures]) -> dict[str, Structures]:
    """Parts less the mean residual energy of each total charge in the training part.

    ValueError for a charge that the training part does not have.
    """
    train = parts["train"]
    residual = train.energy - reference_energy(train, fit_references(train))
    charges = train.extra[CHARGE]
    offsets = {charge: residual[charges == charge].mean() for charge in np.unique(charges)}

    shifted = {}
    for name, part in parts.items():
        unknown = sorted(set(part.extra[CHARGE]) - set(offsets))
        if unknown:
            raise ValueError(f"no structure with the charge {unknown[0]:g} of {name} trains")
        offset = np.array([offsets[charge] for charge in part.extra[CHARGE]])
        shifted[name] = dataclasses.replace(part, energy=part.energy - offset)
    return shifted


@dataclasses.dataclass
class Problem:
    """The data of a case as batches need them, and what the training split says about itself.

    structures, parts: train, val, test, and the further tests, as they were read and as batches
    need them. radius: largest distance of an atom from the centroid of its structure, Angstrom.
    folder: where the files were found.
    """

    case: Case
    structures: dict[str, Structures]
    parts: dict[str, MoleculeDataset]
    statistics: Statistics
    radius: float
    folder: Path

    @classmethod
    def read(cls, case: Case, folder: str | Path, split_seed: int) -> Problem:
        """Read the files of ``case`` and find all neighbours."""
        structures = case.read(case, Path(folder), split_seed)
        train = MoleculeDataset(structures["train"], case.cutoff)
        statistics = Statistics.of(structures["train"], int(train.edges_per_structure.sum()))
        if case.binding:
            statistics = without_references(statistics, structures["train"])

        parts = {
            part: MoleculeDataset(found, case.cutoff, statistics.references, inputs=case.inputs)
            for part, found in structures.items()
        }
        # Open structures of a data set are centred; periodic ones are wrapped into their box.
        radius = max(float(dataset.positions.norm(dim=1).max()) for dataset in parts.values())
        if structures["train"].periodic is not None:
            radius = statistics.design_radius
        return cls(case, structures, parts, statistics, radius, Path(folder))

    def loaders(self, batch_size: int, seed: int) -> dict[str, EpochLoader]:
        """Batches of every part; only the training split is shuffled."""
        plans = {
            part: BatchPlan(dataset, EVALUATION_STRUCTURES, shuffle=False)
            for part, dataset in self.parts.items()
        }
        plans["train"] = BatchPlan(self.parts["train"], batch_size, seed=seed)
        return {part: EpochLoader(self.parts[part], plan, 0, seed) for part, plan in plans.items()}


def without_references(statistics: Statistics, train: Structures) -> Statistics:
    """Statistics with reference energies zero; the scale is the mean size of an energy per atom."""
    size = float(np.sqrt(np.mean((train.energy / train.counts) ** 2)))
    zero = dict.fromkeys(statistics.references, 0.0)
    return dataclasses.replace(statistics, references=zero, energy_per_atom_std=size)


def binding_energy(problem: Problem) -> float | None:
    """Mean size of the binding energies of the test split, meV; None for other cases."""
    if not problem.case.binding:
        return None
    return 1e3 * float(problem.parts["test"].energy.abs().mean())
