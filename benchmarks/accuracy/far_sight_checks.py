"""What is asked of a trained network of the far-sight benchmark besides its test errors.

Tail. The two charged fragments of the farthest test structure are moved on along their axis, up to
``FARTHEST`` Angstrom, as rigid bodies. Far away

    E = E_0 + k q_A q_B / r,        k = 14.4 eV Angstrom,

and the slope dE / d(1/r), fitted to the last ten Angstrom, is compared with the slope of two point
charges. A structure of a periodic box gets a box that grows with r: all lengths of the lattice of
point charges then scale with r, and its energy is a constant over r as well, which an Ewald sum
gives.

Multipoles. Dipoles, and their derivatives with respect to the positions (Born effective charges),
are compared with labels by the squared correlation of all components; they were not trained.

More tests. Errors on the further files of a set.

Cost: a few evaluations; results are kept in the run folder.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from ase.data import covalent_radii
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from scipy.special import erfc

from benchmarks.accuracy.far_sight_sets import EVALUATION_STRUCTURES, Problem, file_below
from benchmarks.accuracy.short_runs import best_network, errors_on
from farfield.dataloader.batch_plan import BatchPlan
from farfield.dataloader.datasets.potential_data import MoleculeDataset
from farfield.dataloader.split_protocols import SPLITS
from farfield.dataloader.storage import files
from farfield.dataloader.structures import Structures
from farfield.models.born_charges import born_charges
from farfield.train.data_order import EpochLoader

COULOMB = 14.399645  # eV Angstrom
BOND = 1.3  # atoms are bonded closer than this times the sum of their covalent radii
FARTHEST, FITTED = 30.0, 10.0  # Angstrom: how far fragments move, the end of it that is fitted
BOX_OVER_SEPARATION = 2.5  # edge of a growing box over the separation of the fragments
EWALD_WIDTH, EWALD_REACH = 0.15, 9  # in units of the box; reciprocal vectors in each direction
CHECKS = "checks.json"


def checks(folder: Path, problem: Problem) -> dict[str, object]:
    """Everything that is asked of the finished run in ``folder``, read from there if it is known.

    tail: slope and expected (eV Angstrom). multipoles: dipole_r2 and born_r2. more: name of a
    further test -> its errors. Each only where the set and the network have it.
    """
    if (folder / CHECKS).exists():
        return json.loads((folder / CHECKS).read_text(encoding="utf-8"))

    case, found = problem.case, {}
    if case.fragment_charges is not None:
        found["tail"] = tail(folder, problem)
    if case.multipoles:
        found["multipoles"] = multipoles(folder, problem)
    loaders = problem.loaders(EVALUATION_STRUCTURES, 0)
    found["more"] = {name: errors_on(folder, loaders[name]) for name in case.more_tests}
    files.write_json(folder / CHECKS, found)
    return found


def fragments(structures: Structures) -> np.ndarray:
    """Fragment 0 or 1 of every atom of one structure, by its bonds; ValueError for other counts."""
    radii = covalent_radii[structures.atomic_numbers]
    bonded = cdist(structures.positions, structures.positions) < BOND * np.add.outer(radii, radii)
    count, labels = connected_components(bonded)
    if count != 2:
        raise ValueError(f"a structure must be two fragments for the tail, got {count}")
    return labels


def moved_apart(structures: Structures, shifts: np.ndarray) -> tuple[Structures, np.ndarray]:
    """Copies of one structure with its second fragment moved on, and their separations.

    shifts: (copies,), Angstrom, along the axis between the centroids. A box grows with the
    separation. Returns also (copies, 2, 3), the centroids of the fragments.
    """
    second = fragments(structures) == 1
    positions = structures.positions
    centroid = np.stack([positions[~second].mean(0), positions[second].mean(0)])
    axis = (centroid[1] - centroid[0]) / np.linalg.norm(centroid[1] - centroid[0])

    # (copies, atoms, 3) and (copies, 2, 3)
    moved = positions + second[:, None] * axis * shifts[:, None, None]
    centroids = centroid + np.array([[0.0], [1.0]]) * axis * shifts[:, None, None]

    copies = structures[np.zeros(len(shifts), int)]
    changes = {"positions": moved.reshape(-1, 3)}
    if structures.periodic is not None:
        lengths = BOX_OVER_SEPARATION * np.linalg.norm(centroids[:, 1] - centroids[:, 0], axis=1)
        changes["cell"] = lengths[:, None, None] * np.eye(3)
    return dataclasses.replace(copies, **changes), centroids


def pair_energy(centroids: np.ndarray, charges: tuple[float, float], box: float | None) -> float:
    """Energy of two point charges, eV: alone, or in a cube of edge ``box`` that repeats.

    centroids: (2, 3), Angstrom. The self-energy of the lattice is the self-energy of the charges
    at any separation, over the edge of the box.
    """
    difference = centroids[1] - centroids[0]
    if box is None:
        return COULOMB * charges[0] * charges[1] / float(np.linalg.norm(difference))

    # Ewald in units of the box: erfc / r over near images, a Gaussian over waves 2 pi n.
    images = np.array(list(itertools.product(range(-1, 2), repeat=3)))
    waves = np.array(list(itertools.product(range(-EWALD_REACH, EWALD_REACH + 1), repeat=3)))
    waves = 2 * np.pi * waves[np.any(waves != 0, axis=1)]
    square = (waves**2).sum(1)
    weights = 4 * np.pi * np.exp(-square * EWALD_WIDTH**2 / 2) / square

    def potential(offset: np.ndarray) -> float:
        """At ``offset`` from a unit charge with its images and its neutralising background."""
        lengths = np.linalg.norm(offset + images, axis=1)
        lengths = lengths[lengths > 0]
        near = (erfc(lengths / (np.sqrt(2) * EWALD_WIDTH)) / lengths).sum()
        far = (weights * np.cos(waves @ offset)).sum()
        return float(near + far - 2 * np.pi * EWALD_WIDTH**2)

    alone = potential(np.zeros(3)) - np.sqrt(2 / np.pi) / EWALD_WIDTH
    one, two = charges
    offset = difference / box
    offset = offset - np.round(offset)
    total = one * two * potential(offset) + (one**2 + two**2) / 2 * alone
    return COULOMB * total / box


def tail(folder: Path, problem: Problem) -> dict[str, float]:
    """Slope dE / d(1/r) of the network beyond the data, and of point charges, eV Angstrom.

    also ``energy``: what the network gives at the farthest place, eV.
    """
    test = problem.structures["test"]
    farthest = int(np.argmax(test.extra["distance"]))
    shifts = np.linspace(FARTHEST - FITTED, FARTHEST, 6)
    structures, centroids = moved_apart(test[farthest : farthest + 1], shifts)
    energy = energies(folder, problem, structures)

    inverse = 1 / np.linalg.norm(centroids[:, 1] - centroids[:, 0], axis=1)
    boxes = [None] * len(shifts) if structures.cell is None else structures.cell[:, 0, 0]
    expected = [
        pair_energy(places, problem.case.fragment_charges, box)
        for places, box in zip(centroids, boxes, strict=True)
    ]
    return {
        "slope": float(np.polyfit(inverse, energy, 1)[0]),
        "expected": float(np.polyfit(inverse, expected, 1)[0]),
        "energy": float(energy[-1]),
    }


@torch.no_grad()
def energies(folder: Path, problem: Problem, structures: Structures) -> np.ndarray:
    """Energies (structures,) of a finished run in float64, eV."""
    dataset = MoleculeDataset(
        structures, problem.case.cutoff, dtype=torch.float64, inputs=problem.case.inputs
    )
    model = best_network(folder, "float64")
    # One structure after the other: boxes of several sizes need very different numbers of waves.
    return np.array([float(model(dataset[[index]])["energy"]) for index in range(len(structures))])


def multipoles(folder: Path, problem: Problem) -> dict[str, float]:
    """Squared correlations of dipoles and Born charges of the test structures with their labels.

    Empty for a network that predicts no dipole.
    """
    model = best_network(folder)
    if "dipole" not in model.outputs():
        return {}
    test = problem.parts["test"]
    plan = BatchPlan(test, 1, shuffle=False)
    dipoles, born = [], []
    for batch in EpochLoader(test, plan):
        dipoles.append(model(batch)["dipole"].detach().double().numpy())
        born.append(born_charges(model, batch).detach().double().numpy())

    labels = files.read_npz(
        file_below(problem.folder, f"{problem.case.file}_{SPLITS[-1]}.npz"),
        ("dipole", "born_charges"),
        "give the whole file of the test structures",
    )
    return {
        "dipole_r2": squared_correlation(np.concatenate(dipoles), labels["dipole"]),
        "born_r2": squared_correlation(np.concatenate(born), labels["born_charges"]),
    }


def squared_correlation(predicted: np.ndarray, true: np.ndarray) -> float:
    """Square of the correlation between all components; ValueError for unequal shapes."""
    if predicted.shape != true.shape:
        raise ValueError(f"predictions have the shape {predicted.shape}, labels {true.shape}")
    return float(np.corrcoef(predicted.reshape(-1), true.reshape(-1))[0, 1] ** 2)
