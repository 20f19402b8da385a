"""Inputs of the near-field benchmark: four batches of the usual sizes, made from a seed.

    a   128 systems of 5 bodies, complete graphs (2560 directed edges): 4 layers, 8 channels
    b1  32 molecules of 18 atoms, bonds and closest contacts (1860 directed edges): 7 layers,
        8 channels
    b2  the same molecules at 32 channels, 8 heads
    c   one double-walled carbon nanotube with hydrogen at its ends, edges up to 5 Angstrom:
        7 layers, 8 channels

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
from farfield.models.choices import check_choice

LMAX = 3
NODES_PER_MOLECULE = 18
# 30 molecules of 29 and 2 of 30 undirected edges: 1860 directed edges.
FEWER_BONDS, MORE_BONDS = 29, 30
EDGE_KINDS = 4
ELEMENTS = (1, 6, 7, 8, 9)
INNER_TUBE, OUTER_TUBE = (4, 4, 12), (14, 0, 3)  # chiral indices and cells
CARBON_BOND, CARBON_HYDROGEN, TUBE_CUTOFF = 1.42, 1.09, 5.0  # Angstrom


@dataclasses.dataclass(frozen=True)
class NetworkSize:
    """Sizes that both networks of a comparison share; divisor: channels over value channels."""

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
        """Number of graphs."""
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
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        return dataclasses.replace(self, **moved)


def _directed(pairs: np.ndarray) -> tuple[Tensor, Tensor]:
    """Both directions of undirected pairs (pairs, 2), sorted by receiver, as src and dst."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    src, dst = both[np.lexsort((both[:, 0], both[:, 1]))].T
    return torch.from_numpy(src.astype(np.int64)), torch.from_numpy(dst.astype(np.int64))


def _floats(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def nbody_case(systems: int = 128, bodies: int = 5, seed: int = 1) -> Case:
    """Charged bodies with normal positions and speed 0.5, every pair connected.

    An edge carries the product of the charges at its ends.
    """
    rng = np.random.default_rng(seed)
    nodes = systems * bodies
    velocities = rng.normal(size=(nodes, 3))
    velocities *= 0.5 / np.linalg.norm(velocities, axis=-1, keepdims=True)
    charges = rng.choice([-1.0, 1.0], size=(nodes, 1))

    pairs = np.stack(np.triu_indices(bodies, 1), -1)  # of one system
    src, dst = _directed(np.concatenate([pairs + first for first in range(0, nodes, bodies)]))
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
    """Atomic numbers and positions (Angstrom) of half heavy atoms, half hydrogens.

    Each atom is at bond length from an earlier heavy atom and not too close to any other.
    """
    heavy = atoms // 2
    elements = rng.choice(ELEMENTS[1:], size=heavy, p=[0.72, 0.12, 0.15, 0.01])
    numbers = np.concatenate([elements, np.ones(atoms - heavy, dtype=int)])

    positions = np.zeros((1, 3))
    while len(positions) < atoms:
        hydrogen = numbers[len(positions)] == 1
        anchor = rng.integers(min(len(positions), heavy))
        step = rng.normal(size=3)
        bond = CARBON_HYDROGEN if hydrogen else rng.uniform(1.34, 1.54)
        candidate = positions[anchor] + step / np.linalg.norm(step) * bond

        gaps = np.delete(np.linalg.norm(positions - candidate, axis=-1), anchor)
        if gaps.size == 0 or gaps.min() > (1.6 if hydrogen else 2.0):
            positions = np.concatenate([positions, candidate[None]])
    return numbers, positions


def _bonds(positions: np.ndarray, count: int) -> np.ndarray:
    """Pairs (count, 2) that connect all atoms at the least total length, then the shortest."""
    first, second = np.triu_indices(len(positions), 1)
    lengths = np.linalg.norm(positions[first] - positions[second], axis=-1)
    tree = minimum_spanning_tree(squareform(lengths)).toarray()
    in_tree = (tree + tree.T)[first, second] > 0
    chosen = np.lexsort((lengths, ~in_tree))[:count]
    return np.stack([first[chosen], second[chosen]], -1)


def small_molecules(
    molecules: int, atoms: int = NODES_PER_MOLECULE, seed: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Random small organic molecules.

    Returns atomic numbers (molecules, atoms) and centred positions (molecules, atoms, 3), Angstrom.
    """
    rng = np.random.default_rng(seed)
    grown = [_grow_molecule(rng, atoms) for _ in range(molecules)]
    numbers = np.stack([each for each, _ in grown])
    positions = np.stack([each for _, each in grown])
    return numbers, positions - positions.mean(1, keepdims=True)


def molecule_case(molecules: int = 32) -> Case:
    """Random small organic molecules with bonds and closest contacts.

    Each has 29 undirected edges, every sixteenth 30.
    """
    numbers, places = small_molecules(molecules)
    pairs = []
    for index, each in enumerate(places):
        count = MORE_BONDS if index % 16 == 0 else FEWER_BONDS
        pairs.append(_bonds(each, count) + index * NODES_PER_MOLECULE)

    numbers, positions = numbers.reshape(-1), places.reshape(-1, 3)
    src, dst = _directed(np.concatenate(pairs))

    # Kind of an edge: bond or contact, without or with hydrogen.
    contact = np.linalg.norm(positions[src] - positions[dst], axis=-1) > 1.6
    hydrogen = (numbers[src] == 1) | (numbers[dst] == 1)
    kind = 2 * contact + hydrogen
    elements = numbers[:, None] == np.array(ELEMENTS)
    return Case(
        name="b1",
        title="small molecules, bonds and closest contacts",
        size=NetworkSize(layers=7, channels=8, heads=2, divisor=2),
        src=src,
        dst=dst,
        nodes_per_graph=torch.full((molecules,), NODES_PER_MOLECULE),
        positions=_floats(positions),
        scalars=_floats(np.concatenate([elements, numbers[:, None] / 9], -1)),
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
    """Carbon and hydrogen positions of one nanotube along z, centred.

    Atoms with a single bond are cut off; open bonds get a hydrogen.
    """
    from ase.build import nanotube

    carbon = nanotube(n, m, length=cells, bond=CARBON_BOND).get_positions()
    while True:
        # Every atom is its own neighbour here; cutting one off may leave another with one bond.
        near = cKDTree(carbon).query_ball_point(carbon, 1.2 * CARBON_BOND)
        bonded = [[j for j in row if j != i] for i, row in enumerate(near)]
        keep = np.array([len(row) > 1 for row in bonded])
        if keep.all():
            break
        carbon = carbon[keep]
    carbon[:, 2] -= (carbon[:, 2].max() + carbon[:, 2].min()) / 2

    # A hydrogen points away from the two neighbours of its carbon.
    open_ends = [i for i, row in enumerate(bonded) if len(row) == 2]
    outward = np.array([2 * carbon[i] - carbon[bonded[i]].sum(0) for i in open_ends])
    length = np.linalg.norm(outward, axis=-1, keepdims=True)
    return carbon, carbon[open_ends] + CARBON_HYDROGEN * outward / length


def double_walled_nanotube() -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (370,) and positions (370, 3) in Angstrom of the generated tube."""
    positions, numbers = [], []
    for tube in (INNER_TUBE, OUTER_TUBE):
        carbon, hydrogen = _capped_tube(*tube)
        positions += [carbon, hydrogen]
        numbers += [np.full(len(carbon), 6), np.full(len(hydrogen), 1)]
    return np.concatenate(numbers), np.concatenate(positions)


def load_geometry(path: str | pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (atoms,) and positions (atoms, 3), Angstrom, of the first frame of a file.

    path: npz file with ``z`` (atoms,) and ``R`` (frames, atoms, 3). Raises FileNotFoundError or
    ValueError in one line.
    """
    hint = "give an .npz file with arrays z (atoms) and R (frames, atoms, 3)"
    found = read_npz(path, ("z", "R"), hint)
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
    """A nanotube with every pair of atoms within 5 Angstrom connected.

    geometry: file with another structure (see :func:`load_geometry`).
    """
    title = "double-walled nanotube C326 H44, generated"
    if geometry:
        title = f"structure of {pathlib.Path(geometry).name}"
    numbers, positions = load_geometry(geometry) if geometry else double_walled_nanotube()
    positions = positions - positions.mean(0)
    src, dst = _directed(cKDTree(positions).query_pairs(TUBE_CUTOFF, output_type="ndarray"))

    hydrogen = (numbers == 1).astype(float)
    elements = np.stack([1 - hydrogen, hydrogen], -1)
    return Case(
        name="c",
        title=title,
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
    """The case of this name; ValueError for an unknown one.

    geometry: file with a structure that replaces the tube of case c.
    """
    check_choice("case", name, CASES)
    return tube_case(geometry) if name == "c" else CASES[name]()


def is_connected(case: Case) -> bool:
    """Whether every graph of the case is connected."""
    from scipy.sparse.csgraph import connected_components

    nodes = case.positions.shape[0]
    ends = (case.src.numpy(), case.dst.numpy())
    adjacency = coo_array((np.ones(len(ends[0])), ends), shape=(nodes, nodes))
    return connected_components(adjacency, directed=False)[0] == case.num_graphs
