"""Clusters of atoms that are smooth in the positions, and who hears them from afar.

An atom is the seed of a cluster unless heavier atoms are near: oxygen in water, carbon in methane,
every atom of H2. With Z atomic numbers, R the radius, edges of the near field e: j -> i, and S the
quintic step from 0 at 0 to 1 at 1 (two continuous derivatives),

    s_c  = 1 - S( sum_(j, Z_j > Z_c) v(r_cj) ),      v = 1 up to R / 2, 0 from R on
    u_ic = envelope(r_ic / R),  u_cc = 1             how far atom i belongs to cluster c
    a_i  = 1 / (epsilon + sum_c s_c u_ic)            an atom is shared among its clusters
    X_c  = x_c + sum_i Z_i a_i u_ic (x_i - x_c) / sum_i Z_i a_i u_ic
    f_c  = sum_i a_i u_ic x_i                        features of the cluster, degree by degree

An atom i hears cluster c at the distance r = |x_i - X_c| < cutoff, with weight s_c envelope(r /
cutoff) and kernels of the direction from X_c to x_i (``NearFieldGeometry``). Its own clusters are
among them. A centre can lie on an atom, so lengths and directions are softened by 1 Angstrom.

Why this choice. k-means, and any nearest centre, moves an atom from one cluster to the next at
once: the energy jumps, and forces of fixed centres are not its slope. Here elements decide who
competes, which no motion changes, and every count of "near" fades: seeds with s_c = 0 can be left
out because nothing is left of them before they go. All of it is a function of distances and of
vectors, local (a neutral ghost far away changes nothing, copies add up) and differentiated as it
stands: forces are the slope of the energy, centres included.

Periodic structures: members are found along the edges of the near field, centres by all images
inside the cutoff. Slabs and wires are refused.

Source of the idea: Wang et al. 2024, "Long-Short-Range Message-Passing" (LSR-MP), there with
fragments of BRICS or k-means. Cost: linear in edges for the clusters; atoms x clusters for the
search, atoms x clusters inside the cutoff for what is heard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from farfield.models.batch import AtomBatch
from farfield.models.choices import check_at_least, check_choices, check_positive
from farfield.models.edges import edge_vectors, safe_length
from farfield.models.far_field.coulomb import repeating
from farfield.models.far_field.expansions.image_pairs import image_counts
from farfield.models.graph_ops import GraphIndex, gather_src, sum_edges
from farfield.models.kernels.edge_slots import EdgeSlots
from farfield.models.kernels.harmonic_sum import memory_efficient_sum
from farfield.models.layers.radial import polynomial_envelope
from farfield.models.layers.smooth_step import smooth_step
from farfield.models.near_field.e2former_attention import ORDERS
from farfield.models.near_field.edge_geometry import NearFieldGeometry
from farfield.models.tracing import NotTraceableError, is_tracing

CENTRE_SOFTENING = 1.0  # Angstrom
UNSHARED = 0.1  # epsilon of the module


@dataclasses.dataclass(frozen=True)
class ClusterOptions:
    """Choices of clusters and of the layers that hear them; lengths in Angstrom.

    order: name in ``ORDERS``. Raises ValueError in one line for values out of range and unknown
    names.
    """

    cutoff: Annotated[float, "distance up to which an atom hears centres of clusters, Angstrom"] = (
        15.0
    )
    radius: Annotated[
        float | None,
        "distance from its seed up to which an atom belongs to a cluster, Angstrom; none: the "
        "cutoff of the near field",
    ] = None
    layers: Annotated[int, "number of layers that hear clusters, after those of the schedule"] = 2
    order: Annotated[str, "degree of the kernel between atoms and clusters", ORDERS] = "first-order"
    neighbours: Annotated[float, "typical number of clusters that an atom hears"] = 8.0

    def __post_init__(self):
        of = "of the clusters"
        check_positive(self, ["cutoff", "neighbours"], of)
        if self.radius is not None:
            check_positive(self, ["radius"], of)
        check_at_least(self, 1, ["layers"], of)
        check_choices(self, {"order": ORDERS}, of)


@dataclasses.dataclass
class AtomClusters:
    """Clusters of a batch, and the pairs of an atom and a cluster that it hears.

    Attributes
        graph     topology of the batch
        members   members of all clusters
        geometry  edges from clusters to atoms, on the atoms and, after them, the clusters
    """

    graph: GraphIndex
    members: Members
    geometry: NearFieldGeometry

    def features(self, x: Tensor) -> Tensor:
        """f_c (clusters, rows, channels) from features of atoms (nodes, rows, channels)."""
        weights = self.members.shares.unsqueeze(1)
        shares = weights.expand(-1, x.shape[2])
        edges = self.members.edges
        return memory_efficient_sum(edges, torch.ones_like(weights), shares, x).squeeze(1)


@dataclasses.dataclass
class Members:
    """Who belongs to which cluster.

    Attributes
        seeds    (clusters,) int64: the atom that each cluster grows from
        weights  (clusters,), s_c of the module
        edges    from atoms to clusters, one for each member, the seeds among them
        shares   (members,), a_i u_ic
        ways     (members, 3), x_i - x_c, Angstrom
    """

    seeds: Tensor
    weights: Tensor
    edges: EdgeSlots
    shares: Tensor
    ways: Tensor

    @classmethod
    def of(cls, near: NearFieldGeometry, atomic_numbers: Tensor, radius: float) -> Members:
        """From edges of all pairs closer than ``radius``, Angstrom."""
        graph, weights = near.graph, seed_weights(near, atomic_numbers, radius)
        belongs = polynomial_envelope(near.length / radius)  # (edges,)

        # how an atom is shared: (nodes,)
        others = (belongs * gather_src(graph, weights)).unsqueeze(1)
        share = 1 / (UNSHARED + weights + sum_edges(graph, others).squeeze(1))

        # members are the edges into a seed, and the seed itself
        seeds = (weights.detach() > 0).nonzero().squeeze(1)
        cluster = torch.full_like(graph.graph_of_node, -1)
        cluster[seeds] = torch.arange(len(seeds), device=seeds.device)
        inside = belongs.detach() > 0
        into = ((cluster.index_select(0, graph.dst) >= 0) & inside).nonzero().squeeze(1)
        atom = torch.cat([graph.src.index_select(0, into), seeds])
        target = cluster.index_select(0, torch.cat([graph.dst.index_select(0, into), seeds]))

        own = torch.ones_like(weights).index_select(0, seeds)
        closeness = torch.cat([belongs.index_select(0, into), own])
        ways = -near.vectors.index_select(0, into)
        return cls(
            seeds=seeds,
            weights=weights.index_select(0, seeds),
            edges=EdgeSlots(atom, target, graph.num_nodes, len(seeds)),
            shares=share.index_select(0, atom) * closeness,
            ways=torch.cat([ways, ways.new_zeros(len(seeds), 3)]),
        )

    def centres(self, positions: Tensor, atomic_numbers: Tensor) -> Tensor:
        """X_c (clusters, 3), Angstrom, next to the seeds, wherever images of members are."""
        mass = (self.shares * atomic_numbers.index_select(0, self.edges.src)).unsqueeze(1)
        sums = mass.new_zeros(len(self.seeds), 4)
        sums = sums.index_add(0, self.edges.dst, torch.cat([mass * self.ways, mass], 1))
        return positions.index_select(0, self.seeds) + sums[:, :3] / sums[:, 3:]


def make_clusters(
    near: NearFieldGeometry,
    batch: AtomBatch,
    *,
    radius: float,
    cutoff: float,
    invariants: Callable[[AtomBatch, Tensor], Tensor],
) -> AtomClusters:
    """The clusters of a batch; formula in the module.

    near: edges of all pairs closer than ``radius``, Angstrom. invariants: function of the pairs as
    a batch (nodes are atoms, then clusters with the elements of their seeds) and of softened
    distances (pairs,) -> (pairs, hidden). ValueError for slabs and wires.
    """
    if is_tracing():
        raise NotTraceableError("clusters are searched again for every geometry")
    graph, numbers = near.graph, batch.atomic_numbers
    members = Members.of(near, numbers, radius)
    centres = members.centres(near.positions, numbers)

    # who hears whom, on a topology of all atoms and, after them, all clusters
    atom, cluster, shift = _pairs(batch, members.seeds, centres, cutoff)
    nodes = graph.num_nodes + len(members.seeds)
    both = GraphIndex(graph.num_nodes + cluster, atom, graph.src.new_tensor([nodes]))
    positions = torch.cat([near.positions, centres])
    pairs = AtomBatch(both, positions, torch.cat([numbers, numbers[members.seeds]]))

    # displacement of the receiving atoms
    images = None
    if shift is not None:
        cells = batch.cell.index_select(0, graph.graph_of_node.index_select(0, atom))
        images = (shift.to(cells).unsqueeze(1) @ cells).squeeze(1)
    vectors = edge_vectors(positions, both, images).to(near.vectors.dtype)
    length = safe_length(vectors)
    softened = (vectors.square().sum(-1) + CENTRE_SOFTENING**2).sqrt()
    fading = polynomial_envelope(length / cutoff) * members.weights.index_select(0, cluster)
    geometry = NearFieldGeometry(
        both,
        positions,
        vectors,
        length,
        envelope=fading.unsqueeze(1),
        invariants=invariants(pairs, softened),
        images=images,
        softening=CENTRE_SOFTENING,
    )
    return AtomClusters(graph, members, geometry)


def seed_weights(near: NearFieldGeometry, atomic_numbers: Tensor, radius: float) -> Tensor:
    """s of every atom (nodes,): 1 without heavier atoms near, 0 with one within ``radius`` / 2."""
    graph = near.graph
    numbers = atomic_numbers.index_select(0, graph.src), atomic_numbers.index_select(0, graph.dst)
    close = 1 - smooth_step(2 * near.length / radius - 1)
    crowd = sum_edges(graph, torch.where(numbers[0] > numbers[1], close, 0.0).unsqueeze(1))
    return 1 - smooth_step(crowd.squeeze(1))


def _pairs(
    batch: AtomBatch, seeds: Tensor, centres: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Atoms and clusters closer than ``cutoff``: atom, cluster (pairs,), in the order of atoms, and
    the image of the atom (pairs, 3), whole lattice vectors, or None where nothing repeats.
    """
    graph = batch.graph
    repeats = repeating(batch.num_graphs, batch.cell, batch.periodic, "clusters")
    clusters = torch.bincount(graph.graph_of_node[seeds], minlength=batch.num_graphs).tolist()
    places = batch.positions.detach().double().split(graph.sizes)
    ends = centres.detach().double().split(clusters)

    # graph by graph, then numbered through
    none = graph.src.new_zeros(0)
    found, atoms_before, clusters_before = [(none, none, none.view(0, 3))], 0, 0
    for index, (atoms, heard) in enumerate(zip(places, ends, strict=True)):
        cell = batch.cell[index].detach().double() if repeats[index] else None
        atom, cluster, shift = _near_pairs(atoms, heard, cell, cutoff)
        found.append((atom + atoms_before, cluster + clusters_before, shift))
        atoms_before += len(atoms)
        clusters_before += len(heard)

    atom, cluster, shift = (torch.cat(column) for column in zip(*found, strict=True))
    return atom, cluster, shift if any(repeats) else None


def _near_pairs(
    atoms: Tensor, centres: Tensor, cell: Tensor | None, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of one structure: atom, cluster (pairs,) and image of the atom (pairs, 3)."""
    if cell is None:
        exact = "donot_use_mm_for_euclid_dist"
        inside = torch.cdist(atoms, centres, compute_mode=exact) < cutoff
        atom, cluster = inside.nonzero(as_tuple=True)
        return atom, cluster, torch.zeros(len(atom), 3, dtype=torch.long, device=atom.device)

    # the nearest image along the lattice vectors is inside half a cell
    inverse = torch.linalg.inv(cell)
    home = ((atoms @ inverse).unsqueeze(1) - centres @ inverse).round()
    ways = atoms.unsqueeze(1) - centres - home @ cell  # (atoms, clusters, 3)
    steps = [torch.arange(-count, count + 1) for count in image_counts(cell, cutoff)]
    steps = torch.cartesian_prod(*steps).to(cell)

    # one step at a time: all images at once may not fit into memory
    near = [((ways + step).norm(dim=-1) < cutoff).nonzero() for step in steps @ cell]
    atom, cluster = torch.cat(near).unbind(1)
    found = steps.repeat_interleave(torch.tensor([len(one) for one in near]).to(cell.device), 0)
    shift = (found - home[atom, cluster]).long()

    order = atom.argsort(stable=True)
    return atom[order], cluster[order], shift[order]
