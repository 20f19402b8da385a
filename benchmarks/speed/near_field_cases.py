"""Inputs of the near-field benchmark: four batches of the sizes that are usual for
SE(3)-Transformers, made from a seed.

    a   128 systems of 5 bodies, complete graphs (2560 directed edges): 4 layers, 8 channels
    b1  32 molecules of 18 atoms, bonds and closest contacts (1860 directed edges): 7 layers, 8
        channels
    b2  the same molecules at 32 channels, 8 heads
    c   one double-walled carbon nanotube with hydrogen at its ends, edges up to 5 Angstrom: 7
        layers, 8 channels

Every case has invariant node features, one vector per node and invariant edge features; a network
answers with as many scalars as it has channels and with two vectors per node. All degrees are 0..3.

The tube of (c) is a (4,4) armchair tube of 12 cells in a (14,0) zigzag tube of 3 cells, 326 C + 44
H: the composition and the shape of the 370-atom tube of MD22 (Chmiela et al. 2023).
``load_geometry`` reads any other structure for this case from a file.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import cKDTree
from scipy.spatial.distance import squareform
from torch import Tensor

from farfield.dataloader.storage.files import read_npz

LMAX = 3
NODES_PER_MOLECULE = 18
BONDS_OF_SMALL_MOLECULE, BONDS_OF_LARGE_MOLECULE = (
    29,
    30,
)  # 30 molecules of 29 and 2 of 30 undirected edges: 1860 directed
EDGE_KINDS = 4
ELEMENTS = (1, 6, 7, 8, 9)
INNER_TUBE, OUTER_TUBE = (4, 4, 12), (14, 0, 3)  # chiral indices and cells
CARBON_BOND, CARBON_HYDROGEN, TUBE_CUTOFF = 1.42, 1.09, 5.0  # Angstrom


@dataclasses.dataclass(frozen=True)
class NetworkSize:
    """Sizes that both networks of a comparison share: ``divisor`` = channels over key/value
    channels.
    """

    layers: int
    channels: int
    heads: int
    divisor: int
    lmax: int = LMAX


@dataclasses.dataclass(frozen=True)
class Case:
    """One batch of equally large graphs with the sizes of the network that runs on it.

    src, dst: (edges,) int64, sorted by dst. nodes_per_graph: (graphs,) int64. positions: (nodes,
    3). scalars: (nodes, k). vectors: (nodes, 1, 3). edge_scalars: (edges, k). cutoff: radius that
    the edges keep within, in the units of the positions; ``complete`` graphs have no cutoff.
    neighbours: slots per node for a program that works on nearest neighbours (None: all others).
    """

    name: str
    title: str
    size: NetworkSize
    src: Tensor
    dst: Tensor
    nodes_per_graph: Tensor
    positions: Tensor
    scalars: Tensor
    vectors: Tensor
    edge_scalars: Tensor
    cutoff: float
    complete: bool = False
    neighbours: int | None = None

    @property
    def num_graphs(self) -> int:
        return self.nodes_per_graph.shape[0]

    def describe(self) -> str:
        """One line with the counts that a reader needs to repeat the case."""
        size = self.size
        return (
            f"({self.name}) {self.title}: {self.num_graphs} graphs, {self.positions.shape[0]} "
            f"nodes, {self.src.shape[0]} directed edges; "
            f"{size.layers} layers, {size.channels} channels, degrees 0..{size.lmax}, "
            f"{size.heads} heads, divisor {size.divisor}"
        )

    def to(self, device) -> Case:
        """The same case with its tensors on ``device``."""
        moved = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Case(
            **{
                name: value.to(device) if isinstance(value, Tensor) else value
                for name, value in moved.items()
            }
        )


def _directed(pairs: np.ndarray) -> tuple[Tensor, Tensor]:
    """Both directions of undirected pairs (pairs, 2), sorted by receiver, as src and dst."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    src, dst = both[np.lexsort((both[:, 0], both[:, 1]))].T
    return torch.from_numpy(src.astype(np.int64)), torch.from_numpy(dst.astype(np.int64))


def _floats(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def nbody_case(systems: int = 128, bodies: int = 5, seed: int = 1) -> Case:
    """Charged bodies with normal positions and speed 0.5, every pair connected; edges carry the
    product of charges.
    """
    rng = np.random.default_rng(seed)
    nodes = systems * bodies
    velocities = rng.normal(size=(nodes, 3))
    velocities *= 0.5 / np.linalg.norm(velocities, axis=-1, keepdims=True)
    charges = rng.choice([-1.0, 1.0], size=(nodes, 1))
    pairs = np.concatenate(
        [np.stack(np.triu_indices(bodies, 1), -1) + first for first in range(0, nodes, bodies)]
    )
    src, dst = _directed(pairs)
    return Case(
        name="a",
        title="charged bodies, complete graphs",
        size=NetworkSize(layers=4, channels=8, heads=2, divisor=4),
        src=src,
        dst=dst,
        nodes_per_graph=torch.full((systems,), bodies),
        positions=_floats(rng.normal(size=(nodes, 3))),
        scalars=_floats(charges),
        vectors=_floats(velocities[:, None]),
        edge_scalars=_floats(charges[src] * charges[dst]),
        cutoff=5.0,
        complete=True,
    )


def _grow_molecule(rng: np.random.Generator, atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and positions (Angstrom) of half heavy atoms, half hydrogens, each at bond
    length from an earlier heavy atom.
    """
    heavy = atoms // 2
    elements = rng.choice(ELEMENTS[1:], size=heavy, p=[0.72, 0.12, 0.15, 0.01])
    numbers = np.concatenate([elements, np.ones(atoms - heavy, dtype=int)])
    positions = np.zeros((1, 3))
    while len(positions) < atoms:
        hydrogen = numbers[len(positions)] == 1
        anchor = rng.integers(min(len(positions), heavy))
        step = rng.normal(size=3)
        candidate = positions[anchor] + step / np.linalg.norm(step) * (
            1.09 if hydrogen else rng.uniform(1.34, 1.54)
        )
        gaps = np.delete(np.linalg.norm(positions - candidate, axis=-1), anchor)
        if gaps.size == 0 or gaps.min() > (1.6 if hydrogen else 2.0):
            positions = np.concatenate([positions, candidate[None]])
    return numbers, positions


def _bonds(positions: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` pairs (count, 2) that connect all atoms at the least total length, then the
    shortest other ones.
    """
    first, second = np.triu_indices(len(positions), 1)
    lengths = np.linalg.norm(positions[first] - positions[second], axis=-1)
    tree = minimum_spanning_tree(squareform(lengths)).toarray()
    in_tree = (tree + tree.T)[first, second] > 0
    chosen = np.lexsort((lengths, ~in_tree))[:count]
    return np.stack([first[chosen], second[chosen]], -1)


def small_molecules(
    molecules: int, atoms: int = NODES_PER_MOLECULE, seed: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (molecules, atoms) and centred positions (molecules, atoms, 3) in Angstrom of
    random small organic molecules.
    """
    rng = np.random.default_rng(seed)
    numbers, positions = (
        np.stack(part)
        for part in zip(*(_grow_molecule(rng, atoms) for _ in range(molecules)), strict=True)
    )
    return numbers, positions - positions.mean(1, keepdims=True)


def molecule_case(molecules: int = 32) -> Case:
    """Random small organic molecules: bonds, and the closest contacts up to 29 (in every sixteenth
    molecule 30) undirected edges each.
    """
    numbers, places = small_molecules(molecules)
    pairs = []
    for index, each in enumerate(places):
        count = BONDS_OF_LARGE_MOLECULE if index % 16 == 0 else BONDS_OF_SMALL_MOLECULE
        pairs.append(_bonds(each, count) + index * NODES_PER_MOLECULE)
    numbers, positions = numbers.reshape(-1), places.reshape(-1, 3)
    src, dst = _directed(np.concatenate(pairs))
    length = np.linalg.norm(positions[src] - positions[dst], axis=-1)
    kind = 2 * (length > 1.6) + (
        (numbers[src] == 1) | (numbers[dst] == 1)
    )  # bond or contact, without or with hydrogen
    return Case(
        name="b1",
        title="small molecules, bonds and closest contacts",
        size=NetworkSize(layers=7, channels=8, heads=2, divisor=2),
        src=src,
        dst=dst,
        nodes_per_graph=torch.full((molecules,), NODES_PER_MOLECULE),
        positions=_floats(positions),
        scalars=_floats(
            np.concatenate([numbers[:, None] == np.array(ELEMENTS), numbers[:, None] / 9], -1)
        ),
        vectors=_floats(positions[:, None] / 3),
        edge_scalars=_floats(np.eye(EDGE_KINDS)[kind]),
        cutoff=3.0,
        neighbours=4,
    )


def wide_molecule_case() -> Case:
    """The molecules at the size of the published QM9 networks."""
    return dataclasses.replace(
        molecule_case(), name="b2", size=NetworkSize(layers=7, channels=32, heads=8, divisor=2)
    )


def _capped_tube(n: int, m: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Carbon and hydrogen positions of one nanotube along z, centred; atoms with a single bond are
    cut off, open bonds get a hydrogen.
    """
    from ase.build import nanotube

    carbon = nanotube(n, m, length=cells, bond=CARBON_BOND).get_positions()
    while True:
        near = cKDTree(carbon).query_ball_point(carbon, 1.2 * CARBON_BOND)
        bonded = [[j for j in row if j != i] for i, row in enumerate(near)]
        keep = np.array([len(row) > 1 for row in bonded])
        if keep.all():
            break
        carbon = carbon[keep]
    carbon[:, 2] -= (carbon[:, 2].max() + carbon[:, 2].min()) / 2
    open_ends = [i for i, row in enumerate(bonded) if len(row) == 2]
    outward = np.array([2 * carbon[i] - carbon[bonded[i]].sum(0) for i in open_ends])
    hydrogen = carbon[open_ends] + CARBON_HYDROGEN * outward / np.linalg.norm(
        outward, axis=-1, keepdims=True
    )
    return carbon, hydrogen


def double_walled_nanotube() -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (370,) and positions (370, 3) in Angstrom of the generated tube."""
    walls = [_capped_tube(*tube) for tube in (INNER_TUBE, OUTER_TUBE)]
    positions = np.concatenate([part for wall in walls for part in wall])
    numbers = np.concatenate(
        [
            np.full(len(part), element)
            for wall in walls
            for part, element in zip(wall, (6, 1), strict=True)
        ]
    )
    return numbers, positions


def load_geometry(path: str | pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (atoms,) and positions (atoms, 3) of the first frame of an npz file with ``z``
    and ``R`` (frames, atoms, 3), Angstrom.

    Raises FileNotFoundError or ValueError in one line.
    """
    found = read_npz(
        path, ("z", "R"), "give an .npz file with arrays z (atoms) and R (frames, atoms, 3)"
    )
    numbers, frames = found["z"], found["R"]
    positions = frames.reshape(-1, *frames.shape[-2:])[0] if frames.ndim in (2, 3) else frames
    if positions.shape != (len(numbers), 3):
        raise ValueError(
            f"{path}: R must be (frames, {len(numbers)}, 3) for {len(numbers)} atoms in z, got "
            f"{frames.shape}"
        )
    if not np.isfinite(positions).all():
        raise ValueError(f"{path}: R holds values that are not finite")
    return numbers.astype(int), positions.astype(float)


def tube_case(geometry: str | pathlib.Path | None = None) -> Case:
    """A nanotube (or the structure in the file ``geometry``) with every pair of atoms within 5
    Angstrom connected.
    """
    numbers, positions = load_geometry(geometry) if geometry else double_walled_nanotube()
    positions = positions - positions.mean(0)
    src, dst = _directed(cKDTree(positions).query_pairs(TUBE_CUTOFF, output_type="ndarray"))
    hydrogen = (numbers == 1).astype(float)
    elements = np.stack([1 - hydrogen, hydrogen], -1)
    return Case(
        name="c",
        title=f"structure of {pathlib.Path(geometry).name}"
        if geometry
        else "double-walled nanotube C326 H44, generated",
        size=NetworkSize(layers=7, channels=8, heads=2, divisor=2),
        src=src,
        dst=dst,
        nodes_per_graph=torch.tensor([len(numbers)]),
        positions=_floats(positions),
        scalars=_floats(elements),
        vectors=_floats(positions[:, None] / 10),
        edge_scalars=_floats(elements[src, 1:] + elements[dst, 1:]),
        cutoff=TUBE_CUTOFF,
        neighbours=48,
    )


CASES: dict[str, Callable[[], Case]] = {
    "a": nbody_case,
    "b1": molecule_case,
    "b2": wide_molecule_case,
    "c": tube_case,
}


def make_case(name: str, geometry: str | pathlib.Path | None = None) -> Case:
    """The case of this name; ``geometry`` replaces the tube of case c. Raises ValueError for an
    unknown name.
    """
    if name not in CASES:
        raise ValueError(f"case must be one of {', '.join(CASES)}, got {name!r}")
    return tube_case(geometry) if name == "c" else CASES[name]()


def is_connected(case: Case) -> bool:
    """Whether every graph of the case hangs together."""
    from scipy.sparse.csgraph import connected_components

    nodes = case.positions.shape[0]
    adjacency = coo_array(
        (np.ones(case.src.shape[0]), (case.src.numpy(), case.dst.numpy())), shape=(nodes, nodes)
    )
    return connected_components(adjacency, directed=False)[0] == case.num_graphs
