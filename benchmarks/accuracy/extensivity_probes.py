"""Geometries that ask what a potential does far away: pairs of molecules, and hosts with ghosts.

A probe is a structure and its parts: energies and forces of the parts alone are what the structure
has far apart, up to the true interaction. Two origins:

    made here    two copies of one molecule, and that molecule with ghosts; the first of
                 ``MOLECULES`` whose elements are known, else a molecule of two atoms
    files        pairs_neutral.npz, pairs_charged.npz and locality.npz with interactions of
                 GFN2-xTB; ragged arrays ``n_atoms``, ``Z``, ``R``, ``num_a``, ``kind``, ``charge``
                 and those that :func:`pairs_of_file` and :func:`ghosts_of_file` read

Cost: nothing beside an evaluation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import atomic_numbers, covalent_radii
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from farfield.dataloader.sources.md17 import read_sample
from farfield.dataloader.storage import files

DISTANCES = (8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 100.0)  # of the nearest atoms
ORIENTATIONS = 3
MOLECULES = ("ethanol", "C6H6", "H2O", "NH3", "N2")
GHOSTS = ("Ne", "H2", "H2O")
NUM_GHOSTS, GHOST_DISTANCE, GHOST_SHELL = 20, 40.0, 8.0  # Angstrom: nearest, and how much farther
GHOST_SPACING = 4.0  # Angstrom, at least, between the centres of two ghosts
PAIR_FILES = ("pairs_neutral.npz", "pairs_charged.npz")
GHOST_FILE = "locality.npz"
HINT = "give --probes a folder with whole files"


@dataclasses.dataclass(frozen=True)
class Probe:
    """A structure and its parts, in the order of its atoms.

    Arguments
        kind      what it is, for a row of the table
        distance  of the nearest atoms of two parts, Angstrom
        whole     the structure; ``info["charge"]`` is its total charge, e
        parts     the parts whose energies and forces are compared; a host has one
        axis      distance of the centroids, Angstrom; of pairs
        truth     interaction of GFN2-xTB: energy (eV) and largest change of a force (eV/Angstrom),
                  each where it is known
    """

    kind: str
    distance: float
    whole: Atoms
    parts: tuple[Atoms, ...]
    axis: float | None = None
    truth: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def elements(self) -> set[int]:
        """Atomic numbers that occur."""
        return set(self.whole.numbers.tolist())

    @property
    def charges(self) -> tuple[float, ...]:
        """Total charges of the parts, e."""
        return tuple(part.info["charge"] for part in self.parts)


def own_molecule(known: Collection[int]) -> tuple[str, Atoms]:
    """Name and geometry of a molecule whose elements are among the atomic numbers ``known``."""
    for name in MOLECULES:
        if name == "ethanol":
            frame = read_sample()[0]
            found = Atoms(frame.atomic_numbers, frame.positions)
        else:
            found = molecule(name)
        if set(found.numbers.tolist()) <= set(known):
            return name, found

    # Two atoms as far apart as their covalent radii say.
    ends = [min(known), max(known)]
    length = covalent_radii[ends].sum()
    return "two atoms", Atoms(ends, [[0, 0, 0], [0, 0, length]])


def with_charge(atoms: Atoms, charge: float) -> Atoms:
    """A copy with a total charge, e."""
    found = atoms.copy()
    found.info = {"charge": float(charge)}
    return found


def separated(one: Atoms, two: Atoms, distance: float, direction: np.ndarray) -> Atoms:
    """``two`` moved along ``direction`` until its nearest atom is ``distance`` from ``one``.

    distance: Angstrom, larger than both molecules. direction: (3,), of length 1.
    """

    def nearest(shift: float) -> float:
        return cdist(one.positions, centred + shift * direction).min()

    # The nearest distance rises with the shift once the molecules are apart: bisect.
    centred = two.positions - two.positions.mean(0) + one.positions.mean(0)
    low, high = 0.0, distance + np.ptp(one.positions) + np.ptp(two.positions) + 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if nearest(middle) < distance else (low, middle)
    moved = two.copy()
    moved.positions = centred + high * direction
    return moved


def joined(parts: tuple[Atoms, ...]) -> Atoms:
    """All atoms in one structure, with the sum of the charges."""
    return with_charge(sum(parts[1:], parts[0]), sum(part.info["charge"] for part in parts))


def own_pairs(name: str, atoms: Atoms, charge: float = 0.0) -> Iterator[Probe]:
    """Two copies of a molecule with a charge each, at every distance in random orientations."""
    kind = f"{name} {name}" if charge == 0 else f"{name}{charge:+g} {name}{charge:+g}"
    turn, draw = Rotation.random(2 * ORIENTATIONS, rng=0), np.random.default_rng(0)
    for distance in DISTANCES:
        for index in range(ORIENTATIONS):
            one, two = with_charge(atoms, charge), with_charge(atoms, charge)
            one.positions = turn[2 * index].apply(atoms.positions)
            two.positions = turn[2 * index + 1].apply(atoms.positions)
            direction = draw.normal(size=3)
            two = separated(one, two, distance, direction / np.linalg.norm(direction))
            axis = np.linalg.norm(one.positions.mean(0) - two.positions.mean(0))
            yield Probe(kind, distance, joined((one, two)), (one, two), float(axis))


def ghost_kind(ghosts: str, host: Atoms) -> str:
    """ "20 Ne, C2H6O": the ghosts and the formula of their host."""
    return f"{ghosts}, {host.get_chemical_formula()}"


def own_ghosts(atoms: Atoms, ghost: str, seed: int = 0) -> Probe:
    """A molecule with ``NUM_GHOSTS`` copies of ``ghost`` around it, all of them far away."""
    draw, host = np.random.default_rng(seed), with_charge(atoms, 0.0)
    one = Atoms(ghost) if ghost in atomic_numbers else molecule(ghost)
    reach = GHOST_DISTANCE + np.linalg.norm(host.positions - host.positions.mean(0), axis=1).max()

    # Centres in a shell beyond the reach, none close to another.
    centres = np.zeros((0, 3))
    while len(centres) < NUM_GHOSTS:
        direction = draw.normal(size=3)
        length = reach + 2.0 + draw.uniform(0, GHOST_SHELL)
        centre = length * direction / np.linalg.norm(direction)
        if not len(centres) or cdist([centre], centres).min() > GHOST_SPACING:
            centres = np.vstack([centres, centre])

    turns = Rotation.random(NUM_GHOSTS, rng=seed)
    around = [
        Atoms(one.numbers, turn.apply(one.positions - one.positions.mean(0)) + centre)
        for turn, centre in zip(turns, centres + host.positions.mean(0), strict=True)
    ]
    whole = with_charge(sum(around, host), 0.0)
    distance = cdist(host.positions, whole.positions[len(host) :]).min()
    return Probe(ghost_kind(f"{NUM_GHOSTS} {ghost}", host), float(distance), whole, (host,))


def structures_of_file(path: Path, names: tuple[str, ...]) -> Iterator[tuple[Atoms, dict]]:
    """Every structure of a ragged file with its values of ``names``, as Python numbers."""
    content = files.read_npz(path, ("n_atoms", "Z", "R", *names), HINT)
    ends = np.cumsum(content["n_atoms"])
    for index, (first, last) in enumerate(zip(ends - content["n_atoms"], ends, strict=True)):
        atoms = Atoms(content["Z"][first:last].astype(int), content["R"][first:last])
        yield atoms, {name: content[name][index].item() for name in names}


def pairs_of_file(path: Path) -> Iterator[Probe]:
    """Pairs with the interactions of GFN2-xTB."""
    names = ("num_a", "kind", "distance", "centroid_distance", "charge_a", "charge_b")
    for atoms, row in structures_of_file(path, (*names, "E_int_gfn2", "F_change_max_gfn2")):
        one = with_charge(atoms[: row["num_a"]], row["charge_a"])
        two = with_charge(atoms[row["num_a"] :], row["charge_b"])
        truth = {"energy": row["E_int_gfn2"], "forces": row["F_change_max_gfn2"]}
        places = row["distance"], joined((one, two)), (one, two), row["centroid_distance"]
        yield Probe(row["kind"], *places, truth)


def ghosts_of_file(path: Path) -> Iterator[Probe]:
    """Hosts with ghosts and the change of a force by GFN2-xTB."""
    names = ("num_a", "kind", "nearest", "charge", "F_change_max_gfn2")
    for atoms, row in structures_of_file(path, names):
        if len(atoms) == row["num_a"]:
            continue  # the host alone
        whole = with_charge(atoms, row["charge"])
        host = with_charge(atoms[: row["num_a"]], row["charge"])
        truth = {"forces": row["F_change_max_gfn2"]}
        kind = ghost_kind(row["kind"], host)
        yield Probe(kind, row["nearest"], whole, (host,), truth=truth)


def pairs(known: Collection[int], reads_charge: bool, folder: str | None) -> list[Probe]:
    """Pairs made here, charged ones if the network reads the charge, and those of files."""
    name, atoms = own_molecule(known)
    found = list(own_pairs(name, atoms))
    if reads_charge:
        found += own_pairs(name, atoms, charge=1.0)
    if folder is not None:
        for file in PAIR_FILES:
            found += pairs_of_file(Path(folder) / file)
    return found


def ghosts(known: Collection[int], folder: str | None) -> list[Probe]:
    """Hosts with ghosts: made here, and of the file."""
    _, atoms = own_molecule(known)
    found = [own_ghosts(atoms, ghost) for ghost in GHOSTS]
    return found + (list(ghosts_of_file(Path(folder) / GHOST_FILE)) if folder is not None else [])
