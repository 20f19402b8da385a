"""Protein backbones built from internal coordinates: data for tests and first runs, without files.

Bond lengths and angles are the ideal ones of Engh and Huber (1991, Acta Cryst. A47, 392). A chain
is a row of segments - helices, strands, turns and coil - of random length; each residue draws its
phi and psi around the centre of its basin in the Ramachandran map, omega is 180 +- 4 degrees. Types
of residues are drawn at random: they carry no information here. Where CA atoms of residues more
than two apart come closer than 3.7 Angstrom, the chain is drawn again from a few residues before
that place on, so chains of any length come to an end.

Chain k is a pure function of (seed, k, range of lengths). Cost: linear in
residues, most of it in calls of numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from farfield.dataloader.backbones import BackboneChain
from farfield.dataloader.chemistry.internal_coordinates import place_atoms
from farfield.dataloader.chemistry.residues import ATOMS_PER_RESIDUE, STANDARD_RESIDUES

# Engh and Huber 1991: lengths in Angstrom, angles in degrees
N_CA, CA_C, C_N, C_O = 1.458, 1.525, 1.329, 1.231
N_CA_C, CA_C_N, C_N_CA, CA_C_O = (np.radians(value) for value in (111.2, 116.2, 121.7, 120.8))

OMEGA_SPREAD = 4.0  # degrees
CLASH = 3.7  # Angstrom, smallest distance of two CA more than NEAR residues apart
NEAR = 2
MOST_DRAWS = 2000  # of one chain


class Segment(NamedTuple):
    """One kind of segment.

    share: of the segments. shortest, longest: residues. basins: centres (phi, psi), one drawn for
    each residue. spread: standard deviation, all in degrees.
    """

    share: float
    shortest: int
    longest: int
    basins: tuple[tuple[float, float], ...]
    spread: float


SEGMENTS = {
    "helix": Segment(0.35, 6, 16, ((-62.0, -42.0),), 5.0),
    "strand": Segment(0.3, 4, 9, ((-120.0, 130.0),), 12.0),
    "turn": Segment(0.15, 2, 2, ((-60.0, -30.0), (-90.0, 0.0), (57.0, 40.0)), 8.0),
    "coil": Segment(0.2, 2, 5, ((-75.0, 145.0), (-100.0, 120.0), (-75.0, -30.0)), 15.0),
}


def build_backbones(
    count: int,
    shortest: int,
    longest: int,
    seed: int = 0,
    progress: Callable[[int], object] = lambda done: None,
) -> list[BackboneChain]:
    """``count`` chains of ``shortest`` .. ``longest`` residues.

    progress: called with the number of chains done since the last call.
    """
    chains = []
    for number in range(count):
        generator = np.random.default_rng((seed, number))
        residues = int(generator.integers(shortest, longest + 1))
        torsions = draw_torsions(residues, generator)
        positions = _without_clash(torsions, generator)
        types = generator.integers(len(STANDARD_RESIDUES), size=residues)
        chains.append(BackboneChain(f"built_{number}", types, positions))
        progress(1)
    return chains


def draw_torsions(residues: int, generator: np.random.Generator) -> np.ndarray:
    """phi, psi, omega (residues, 3) of a chain, radians; omega is of the bond to the next one."""
    kinds = list(SEGMENTS.values())
    shares = [kind.share for kind in kinds]
    rows: list[np.ndarray] = []
    while sum(map(len, rows)) < residues:
        kind = kinds[generator.choice(len(kinds), p=shares)]
        length = int(generator.integers(kind.shortest, kind.longest + 1))
        centres = np.array(kind.basins)[generator.integers(len(kind.basins), size=length)]
        rows.append(centres + kind.spread * generator.standard_normal((length, 2)))

    angles = np.concatenate(rows)[:residues]
    omega = 180 + OMEGA_SPREAD * generator.standard_normal((residues, 1))
    return np.radians(np.concatenate([angles, omega], 1))


def backbone_positions(torsions: np.ndarray) -> np.ndarray:
    """Positions (..., residues, 4, 3) of N, CA, C, O from torsions (..., residues, 3), radians.

    The first N is the origin; its CA lies along x, its C in the plane x, y.
    """
    *batch, residues, _ = torsions.shape
    phi, psi, omega = np.moveaxis(torsions, -1, 0)
    positions = np.zeros((*batch, residues, ATOMS_PER_RESIDUE, 3))
    n, ca, c = np.zeros((*batch, 3)), np.zeros((*batch, 3)), np.zeros((*batch, 3))
    ca[..., 0] = N_CA
    c[..., 0] = N_CA - CA_C * np.cos(N_CA_C)
    c[..., 1] = CA_C * np.sin(N_CA_C)

    for residue in range(residues):
        # O lies in the plane of the peptide bond, on the other side than the next N
        o = place_atoms(n, ca, c, C_O, CA_C_O, psi[..., residue] + np.pi)
        positions[..., residue, :, :] = np.stack([n, ca, c, o], -2)
        if residue + 1 == residues:
            break
        next_n = place_atoms(n, ca, c, C_N, CA_C_N, psi[..., residue])
        next_ca = place_atoms(ca, c, next_n, N_CA, C_N_CA, omega[..., residue])
        c = place_atoms(c, next_n, next_ca, CA_C, N_CA_C, phi[..., residue + 1])
        n, ca = next_n, next_ca
    return positions


def first_clash(positions: np.ndarray) -> int | None:
    """First residue whose CA is too close to that of an earlier residue; None where none is.

    positions: (residues, 4, 3).
    """
    ca = positions[:, 1]
    distance = np.linalg.norm(ca[:, None] - ca, axis=-1)
    apart = np.arange(len(ca))[:, None] - np.arange(len(ca))
    clashing = ((distance < CLASH) & (apart > NEAR)).any(1)
    return int(np.argmax(clashing)) if clashing.any() else None


def _without_clash(torsions: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Positions of a chain; torsions from a clash on are drawn again until there is none.

    ``ValueError`` where that does not come to an end.
    """
    residues = len(torsions)
    for draw in range(MOST_DRAWS):
        positions = backbone_positions(torsions)
        place = first_clash(positions)
        if place is None:
            return positions

        # go back further from time to time, out of a dead end
        back = int(generator.integers(2, 8 + draw % 32))
        kept = max(0, place - back)
        torsions = np.concatenate([torsions[:kept], draw_torsions(residues - kept, generator)])
    raise ValueError(
        f"no chain of {residues} residues without clashes was found in {MOST_DRAWS} draws; give "
        "a lower --residues"
    )
