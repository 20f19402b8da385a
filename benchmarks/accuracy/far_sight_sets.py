"""Six sets of structures with long-ranged labels, read, split and put in batches.

Each set is an npz file; the first five belong to Euclidean Fast Attention (Frank et al.), the last
to LODE:

    two_atoms   two opposite charges, 1 .. 10 Angstrom apart               two_atoms.npz
    sn2         F- + CH3I -> CH3F + I-, energies alone                     sn2_F_I.npz
    cumulene    a rigid carbon chain that is turned at one end             cumulene_profile.npz
    cluster_32  32 attracting atoms in a ball, up to 10 Angstrom apart
                3D_cluster_32_atoms_radius_5.npz
    cluster_16  16 atoms in a smaller ball, all within 5 Angstrom
                3D_cluster_16_atoms_radius_2point5.npz
    dimers      binding energies of charged pairs                          charge_charge.npz

Splits are random but for the dimers: their seven shortest separations train, the next one
validates, the five longest test. Cost: reading, and one search of neighbours.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.label_statistics import Statistics
from farfield.dataloader.sources.npz import ABSENT, read_npz
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.splits import SplitOptions, make_split
from farfield.dataloader.structures import Structures
from farfield.dataloader.units import Units
from farfield.train.data_order import EpochLoader

CUTOFF = 5.0  # Angstrom, of the near field
EVALUATION_STRUCTURES = 200  # in a batch of an evaluation

# Separations of a dimer, by rising distance: 0 .. 6 train, 7 validates, 8 .. 12 test.
SEPARATIONS, FIRST_VALIDATED, FIRST_TESTED = 13, 7, 8


@dataclasses.dataclass(frozen=True)
class Case:
    """One data set: its file, its split, and what is set for all networks alike.

    Arguments
        file            name of the npz file
        sizes           structures that train, validate and test
        bar             what is asked for (see ``bench_far_sight.py``)
        forces          whether forces are learned
        binding         energies are those of the structure less the energies of its parts; there
                        are no reference energies, because they vanish at large separation
        lmax            highest degree of the features of all networks
        schedule, channels   of the hybrid; other networks match its number of weights
        batch_size, validate_every   structures in a batch, epochs between validations
        loss, model, training   options that differ from ``COMMON`` and ``TRAINING`` in
                        ``bench_far_sight.py``, for all networks
    """

    file: str
    sizes: tuple[int, int, int]
    bar: float
    forces: bool = True
    binding: bool = False
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


ENERGY_ALONE = {"weight_energy": 1.0, "weight_forces": 0.0}

# Dimers test the network beyond its data, so it is small, and its far field keeps the tail 1 / r
# that it starts with.
CHARGES = {
    "lmax": 1,
    "schedule": "hybrid-first-order1",
    "model": {
        "far_kernel_lmax": 0,
        "far_learnable_radial": False,
        "far_radial_scale": 1.0,
    },
}

# Scalars, vectors and one hybrid layer can express a sum over pairs. 32 atoms within reach of each
# other are costly, so the CPU minutes go into steps: small batches, a high rate. Energies spread
# over 30 eV, so they weigh less than forces.
PAIR_SUM = {
    "lmax": 1,
    "schedule": "hybrid-first-order1",
    "channels": 20,
    "batch_size": 4,
    "validate_every": 1,
    "training": {"lr": 1e-2},
    "loss": {"weight_energy": 0.1, "weight_forces": 1.0},
    "model": {"far_kernel_lmax": 0},
}

CASES = {
    "two_atoms": Case("two_atoms.npz", (800, 100, 2000), 30.0, batch_size=50),
    "sn2": Case("sn2_F_I.npz", (280, 40, 81), 30.0, forces=False, batch_size=28, loss=ENERGY_ALONE),
    "cumulene": Case("cumulene_profile.npz", (800, 100, 100), 3.0, batch_size=16, validate_every=2),
    "cluster_32": Case("3D_cluster_32_atoms_radius_5.npz", (1600, 50, 350), 10.0, **PAIR_SUM),
    "cluster_16": Case(
        "3D_cluster_16_atoms_radius_2point5.npz", (1600, 50, 350), 1 / 1.1, **PAIR_SUM
    ),
    "dimers": Case(
        "charge_charge.npz",
        (63, 9, 45),
        0.1,
        forces=False,
        binding=True,
        batch_size=9,
        loss=ENERGY_ALONE,
        **CHARGES,
    ),
}


def find_file(folder: str | Path, name: str) -> Path:
    """The file ``name`` anywhere below ``folder``; FileNotFoundError if there is none."""
    found = sorted(Path(folder).rglob(name))
    if not found:
        raise FileNotFoundError(
            f"there is no {name} below {folder}; put it there, or give --data-path or --sets"
        )
    return found[0]


def read_case(case: Case, folder: str | Path, split_seed: int) -> dict[str, Structures]:
    """Structures of train, val and test."""
    path = find_file(folder, case.file)
    keys = {} if case.forces else {"forces": ABSENT}
    structures = read_npz(path, Units("eV", "Angstrom"), keys, periodic=False)

    if case.binding:
        energy = structures.energy - structures.extra["E_A"] - structures.extra["E_B"]
        structures = dataclasses.replace(structures, energy=energy)
        return by_separation(structures)

    train, val, test = case.sizes
    options = SplitOptions(train=train, val=val, test=test, seed=split_seed)
    split = make_split("random", len(structures), structures.data_hash, options)
    return {part: structures[getattr(split, part)] for part in SPLITS}


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


@dataclasses.dataclass
class Problem:
    """The data of a case as batches need them, and what the training split says about itself.

    radius: largest distance of an atom from the centroid of its structure, Angstrom.
    """

    case: Case
    parts: dict[str, MoleculeDataset]
    statistics: Statistics
    radius: float

    @classmethod
    def read(cls, case: Case, folder: str | Path, split_seed: int) -> Problem:
        """Read the file of ``case`` and find all neighbours."""
        structures = read_case(case, folder, split_seed)
        train = MoleculeDataset(structures["train"], CUTOFF)
        statistics = Statistics.of(structures["train"], int(train.edges_per_structure.sum()))
        if case.binding:
            statistics = without_references(statistics, structures["train"])

        parts = {
            part: MoleculeDataset(structures[part], CUTOFF, statistics.references)
            for part in SPLITS
        }
        radius = max(float(dataset.positions.norm(dim=1).max()) for dataset in parts.values())
        return cls(case, parts, statistics, radius)

    def loaders(self, batch_size: int, seed: int) -> dict[str, EpochLoader]:
        """Batches of every part; only those of the training split are shuffled."""
        plans = {"train": BatchPlan(self.parts["train"], batch_size, seed=seed)}
        for part in ("val", "test"):
            plans[part] = BatchPlan(self.parts[part], EVALUATION_STRUCTURES, shuffle=False)
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
